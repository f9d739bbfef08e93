r"""The model folder: `config.json`, `schema.json`, `model.safetensors`, `README.md`; no other format.

    save(model) -> folder, whole or not at all;    load(folder) -> the same model, bit for bit

Source: ours; `jkoflow fit --help` lists the files of a run.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from jkoflow.blocks import block_from_config
from jkoflow.config import Settings
from jkoflow.data import Schema
from jkoflow.errors import InputError, JKOFlowError, RunFolderError
from jkoflow.flow import Flow
from jkoflow.global_state import default_state
from jkoflow.laws import law_named
from jkoflow.model.model import Model
from jkoflow.runtime import resolve_device, resolve_dtype
from jkoflow.storage import (
    FORMAT,
    read_json,
    require_format,
    shown,
    staged_folder,
    write_bytes_atomic,
    write_json_atomic,
)
from jkoflow.storage.tensors import read_safetensors, write_safetensors

__all__ = ["load_model", "save_model"]


@default_state()
def save_model(model: Model, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write the model folder, whole or not at all.

    Raises:
        RunFolderError: The folder is already there, or cannot be written.
    """
    with staged_folder(folder, overwrite=overwrite) as staged:
        tensors = {f"blocks.{i}.{k}": v for i, b in enumerate(model.flow) for k, v in b.state_dict().items()}
        digest = write_safetensors(staged / "model.safetensors", tensors)
        write_json_atomic(
            staged / "config.json",
            {
                "format": FORMAT,
                "jkoflow": version("jkoflow"),
                "settings": model.settings.to_dict(),
                "base": _law(model.settings, model.flow.dim),
                "blocks": [block.to_config() for block in model.flow],
                "facts": model.facts,
                "model_sha256": digest,
            },
        )
        context = None if model.context_schema is None else model.context_schema.to_dict()
        write_json_atomic(
            staged / "schema.json", {"format": FORMAT, "data": model.schema.to_dict(), "context": context}
        )
        write_bytes_atomic(staged / "README.md", _card(model).encode())


@default_state()
def load_model(path: str | os.PathLike[str]) -> Model:
    """Read a model folder, or the model of a run folder.

    Raises:
        RunFolderError: It is missing, damaged, or of a later format.
    """
    folder = Path(path)
    if not (folder / "config.json").exists() and (folder / "model").is_dir():
        folder = folder / "model"
    if not folder.is_dir():
        raise RunFolderError(f"{shown(path)}: no such model folder; jkoflow fit TABLE -o RUN makes one")
    if not (folder / "config.json").exists():
        raise RunFolderError(f"{shown(path)}: holds no model, config.json is missing; fit again")
    config, schemas = read_json(folder / "config.json"), read_json(folder / "schema.json")
    require_format(config.get("format"), folder / "config.json")
    try:
        tensors = read_safetensors(folder / "model.safetensors", sha256=config["model_sha256"])
        settings, schema = _settings_here(config["settings"]), folder / "schema.json"
        context = schemas["context"]
        return Model(
            schema=Schema.from_dict(schemas["data"], path=str(schema)),
            flow=_flow_of(config, tensors, settings, dim=len(schemas["data"]["columns"])),
            settings=settings,
            context_schema=None if context is None else Schema.from_dict(context, path=str(schema)),
            facts=config["facts"],
        )
    except RunFolderError:
        raise
    except (JKOFlowError, KeyError, TypeError, ValueError, RuntimeError) as failure:
        reason = str(failure).splitlines()[0]
        raise RunFolderError(f"{shown(folder)}: the model is damaged ({reason}); fit again") from None


def _settings_here(options: dict[str, Any]) -> Settings:
    """The settings of the fit; on a device of this machine where the fit's own is not here."""
    settings = Settings.from_record(options)
    try:
        resolve_device(settings.device)
    except InputError:
        return settings.with_options(device="auto")
    return settings


def _flow_of(config: dict[str, Any], tensors: dict[str, Tensor], settings: Settings, *, dim: int) -> Flow:
    """The flow of a model folder; a ValueError where config, tensors and columns do not belong together."""
    dtype, device = resolve_dtype(settings.dtype), resolve_device(settings.device)
    if config["base"] != _law(settings, dim):
        raise ValueError(f"expected the law {_law(settings, dim)} at the end, got {config['base']}")
    flow = Flow(law_named(settings.law, dim))
    named = {name.split(".")[1] for name in tensors}
    if named != {str(number) for number in range(len(config["blocks"]))}:
        raise ValueError(f"tensors of {len(named)} blocks, settings of {len(config['blocks'])}")
    for number, block_config in enumerate(config["blocks"]):
        block = block_from_config(block_config).to(dtype=dtype)
        prefix = f"blocks.{number}."
        block.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
        if block.dim != dim:
            raise ValueError(f"block {number + 1} of dimension {block.dim}, expected {dim}")
        flow = flow.then(block.to(device))
    return flow


def _law(settings: Settings, dim: int) -> dict[str, Any]:
    """The law at the end of the flow, by name, with its own arguments."""
    named = {"kind": settings.law} if isinstance(settings.law, str) else dict(settings.law)
    return {**named, "dim": dim}


def _card(model: Model) -> str:
    """The model card: what the folder is and how to use it."""
    facts = "\n".join(f"- {name.replace('_', ' ')}: {value}" for name, value in model.facts.items())
    columns = ", ".join(model.schema.names)
    return f"""# A JKO flow of {model.schema.dim} columns

Columns: {columns}

{facts}

`model.safetensors` holds {len(model.flow)} blocks, `config.json` their settings, `schema.json` the columns.

```python
from jkoflow import JKOFlow

model = JKOFlow.load("this folder")
rows = model.sample(100, random_state=0)
log_density = model.score_samples(rows)  # nats, in the units of the table
```
"""
