r"""The model folder: `config.json`, `schema.json`, `model.safetensors`, `README.md`; no other format.

    save(model) -> folder, whole or not at all;    load(folder) -> the same model, bit for bit

Source: ours; `jkoflow fit --help` lists the files of a run.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jkoflow.blocks import Block, block_from_config
from jkoflow.config import Settings
from jkoflow.data import Schema
from jkoflow.errors import InputError, JKOFlowError, RunFolderError
from jkoflow.flow import Flow
from jkoflow.global_state import default_state
from jkoflow.laws import law_named
from jkoflow.model.model import Model
from jkoflow.particles.smoothing import resolve_smoothing
from jkoflow.runtime import resolve_device, resolve_dtype
from jkoflow.storage import (
    FORMAT,
    RESTORE,
    read_json,
    shown,
    staged_folder,
    visible,
    write_bytes_atomic,
    write_json_atomic,
)
from jkoflow.storage.entries import brief, checked_text, require_names
from jkoflow.storage.tensors import Declared, read_declared, read_safetensors, write_safetensors

__all__ = ["load_model", "save_model"]

_ENTRIES = {"format", "jkoflow", "settings", "base", "blocks", "facts", "model_sha256"}
_ROLES = ("data", "context")
_TENSOR = re.compile(r"blocks\.(0|[1-9]\d{0,5})\.(.+)", re.DOTALL)
_DTYPES = ("F32", "F64", "I64", "I32", "I16", "U8", "BOOL")
"""Of numbers, of trees, and of what a network of zuko keeps beside them."""

_DAMAGE = (
    *(JKOFlowError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    *(RuntimeError, MemoryError),
)
"""What records raise that are other than we write them."""


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

    Everything that the folder says is checked before anything is made by it: kinds and ranges of entries,
    declared shapes against the size of the file of tensors, and then the numbers, none of which may be NaN.

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
    try:
        require_names(config, _ENTRIES)
        settings = _settings_here(config["settings"])
        require_names(schemas, {"format", "data", "context"})
        schema, context = (_schema_of(schemas[role], role, folder / "schema.json") for role in _ROLES)
        if schema is None:
            raise ValueError("schema.json: data: expected the columns, got null")
        return Model(
            schema=schema,
            flow=_flow_of(config, folder / "model.safetensors", settings, schema, context),
            settings=settings,
            context_schema=context,
            facts=_facts(config["facts"]),
        )
    except RunFolderError:
        raise
    except _DAMAGE as failure:
        reason = (str(failure).splitlines() or [type(failure).__name__])[0]
        raise RunFolderError(f"{shown(folder)}: the model is damaged ({reason}); fit again") from None


def _schema_of(record: object, role: str, path: Path) -> Schema | None:
    """The columns of that role; None where there are none."""
    if record is None:
        return None
    if not isinstance(record, dict):
        raise ValueError(f"schema.json: {role}: expected the columns, got {brief(record)}")
    schema = Schema.from_dict(record, path=str(path))
    if schema.role != role:
        raise ValueError(f"schema.json: {role}: expected columns of that role, got those of {schema.role!r}")
    return schema


def _settings_here(options: object) -> Settings:
    """The settings of the fit; on a device of this machine where the fit's own is not here."""
    if not isinstance(options, dict):
        raise ValueError(f"config.json: settings: expected a table of options, got {brief(options)}")
    settings = Settings.from_record(options)
    resolve_smoothing(settings.smoothing)
    try:
        resolve_device(settings.device)
    except InputError:
        return settings.with_options(device="auto")
    return settings


def _facts(facts: object) -> dict[str, Any]:
    """What the model card tells; the smoothing of the fit is used later, and has to be one."""
    if not isinstance(facts, dict):
        raise ValueError(f"config.json: facts: expected a table, got {brief(facts)}")
    resolve_smoothing(facts.get("smoothing"))
    return facts


def _flow_of(
    config: dict[str, Any], path: Path, settings: Settings, schema: Schema, context: Schema | None
) -> Flow:
    """The flow of a model folder; a ValueError where config, tensors and columns do not belong together."""
    dtype, device, dim = resolve_dtype(settings.dtype), resolve_device(settings.device), schema.dim
    if config["base"] != _law(settings, dim):
        raise ValueError(
            f"expected the law {brief(_law(settings, dim))} at the end, got {brief(config['base'])}"
        )
    law, shapes = law_named(settings.law, dim), _shapes_by_block(read_declared(path))
    configs = config["blocks"]
    if not isinstance(configs, list):
        raise ValueError(f"config.json: blocks: expected a list, got {brief(configs)}")
    if set(shapes) != set(range(len(configs))):
        raise ValueError(f"tensors of {len(shapes)} blocks, settings of {len(configs)}")
    # all of them before the tensors are read, each of them small until then
    blocks = [
        _block(number, block_config, shapes[number], dim, 0 if context is None else context.dim)
        for number, block_config in enumerate(configs)
    ]
    tensors = read_safetensors(path, sha256=checked_text(config, "model_sha256"))
    flow = Flow(law)
    for number, block in enumerate(blocks):
        prefix = f"blocks.{number}."
        block = block.to(dtype=dtype)
        block.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        try:
            block.check_numbers()
        except ValueError as failure:
            raise ValueError(f"model.safetensors: block {number + 1}: {failure}") from None
        flow = flow.then(block.to(device))
    return flow


def _shapes_by_block(declared: Mapping[str, Declared]) -> dict[int, dict[str, tuple[int, ...]]]:
    """Shapes by name, by the number of the block in `blocks.NUMBER.NAME`."""
    shapes: dict[int, dict[str, tuple[int, ...]]] = {}
    for name, tensor in declared.items():
        match = _TENSOR.fullmatch(name)
        if match is None:
            raise ValueError(
                f"model.safetensors: expected tensors named blocks.NUMBER.NAME, got {brief(name)}"
            )
        if tensor.dtype not in _DTYPES:
            raise ValueError(
                f"model.safetensors: {brief(name)}: expected one of {_DTYPES}, got {tensor.dtype}"
            )
        shapes.setdefault(int(match[1]), {})[match[2]] = tensor.shape
    return shapes


def _block(
    number: int, config: dict[str, Any], shapes: dict[str, tuple[int, ...]], dim: int, context_dim: int
) -> Block:
    """A block of the settings of its place, once they fit the tensors, before it has its numbers."""
    try:
        block = block_from_config(config, found=shapes)
    except JKOFlowError as failure:
        reason = str(failure).removesuffix(f"; {RESTORE}")
        raise ValueError(f"config.json: block {number + 1}: {reason}") from None
    if block.dim != dim:
        raise ValueError(f"block {number + 1} of dimension {block.dim}, expected {dim}")
    if block.conditioned_on not in (None, context_dim):
        raise ValueError(
            f"block {number + 1} of {block.conditioned_on} context columns, expected {context_dim} of them"
        )
    return block


def _law(settings: Settings, dim: int) -> dict[str, Any]:
    """The law at the end of the flow, by name, with its own arguments."""
    named = {"kind": settings.law} if isinstance(settings.law, str) else dict(settings.law)
    return {**named, "dim": dim}


def _card(model: Model) -> str:
    """The model card: what the folder is and how to use it."""
    facts = "\n".join(
        f"- {_plain(name.replace('_', ' '))}: {_plain(value)}" for name, value in model.facts.items()
    )
    columns = ", ".join(map(_plain, model.schema.names))
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


def _plain(value: object) -> str:
    """Text that Markdown shows as it is: no HTML, no link, no mark that turns what follows around."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(visible(str(value)), quote=False))
