r"""The deployable model: columns, flow and settings, as one value and as one folder.

    log p(x) = log q_0(z) + log|dz/dx|,   z = (x - m)/s        (columns' bijection, then the flow)

On the disk: `config.json`, `schema.json`, `model.safetensors`, `README.md`; no other format. Source: the
change of variables under eq. (38) of Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from jkoflow.blocks import block_from_config
from jkoflow.config import Settings
from jkoflow.data import Schema, Table
from jkoflow.errors import InputError, JKOFlowError, RunFolderError
from jkoflow.flow import Flow
from jkoflow.laws import StandardNormal
from jkoflow.likelihood import log_prob
from jkoflow.particles import empty_rows
from jkoflow.runtime import resolve_device, resolve_dtype
from jkoflow.sampling import sample
from jkoflow.storage import (
    FORMAT,
    read_json,
    require_format,
    shown,
    staged_folder,
    write_bytes_atomic,
    write_json_atomic,
)
from jkoflow.storage.scratch import row_slices
from jkoflow.storage.tensors import read_safetensors, write_safetensors

__all__ = ["Model", "encode_table", "load_model", "save_model"]

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Model:
    """A fitted density on the user's table.

    Arguments:
        schema: The columns and their bijection.
        flow: T_N o ... o T_1 on standardised rows.
        settings: The options of the fit.
        context_schema: The context's columns, or None.
        facts: What the model card tells: rows, held-out NLL, smoothing.
    """

    schema: Schema
    flow: Flow
    settings: Settings
    context_schema: Schema | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def like(self) -> Tensor:
        """An empty tensor of the dtype and device that the model computes in."""
        return torch.empty(
            0, dtype=resolve_dtype(self.settings.dtype), device=resolve_device(self.settings.device)
        )

    def log_prob(self, table: Table, context: Table | None = None) -> Reals:
        """Log-density of each row, shape `(n,)`, nats in data units, float64; deterministic."""
        z = encode_table(self.schema, table, like=self.like)
        nats = log_prob(self.flow, z, self.encode_context(context, len(table)))
        return np.asarray(nats.cpu().numpy() + self.schema.log_jacobian, dtype=np.float64)

    def sample(self, n_rows: int, *, seed: int, context: Table | None = None) -> tuple[Reals, Reals]:
        """Rows in data units `(n, d)` and the round-trip error of each `(n,)`, standardised units."""
        drawn = sample(
            self.flow, n_rows, seed=seed, context=self.encode_context(context, n_rows), like=self.like
        )
        return self.schema.decode(drawn.x.double().cpu().numpy()), np.asarray(
            drawn.error.double().cpu().numpy()
        )

    def transform(self, table: Table, context: Table | None = None) -> Reals:
        """The latent image of each row, shape `(n, d)`: standard normal where the model is right."""
        z = encode_table(self.schema, table, like=self.like)
        return np.asarray(
            self.flow.push(z, self.encode_context(context, len(table))).double().cpu().numpy(),
            dtype=np.float64,
        )

    def inverse_transform(self, latent: Reals, context: Table | None = None) -> Reals:
        """The row in data units of each latent row, shape `(n, d)`."""
        y = torch.tensor(np.asarray(latent, dtype=np.float64)).to(self.like)  # a copy: it may be read-only
        x = self.flow.pull(y, self.encode_context(context, len(y)))
        return self.schema.decode(x.double().cpu().numpy())

    def encode_context(self, context: Table | None, n_rows: int) -> Tensor | None:
        """Standardised context `(n, c)`; one row of context serves all rows.

        Raises:
            InputError: A context is given and not wanted, wanted and not given, or of other rows or columns.
        """
        if self.context_schema is None:
            if context is not None:
                raise InputError("context: this model was fitted without one; leave it out")
            return None
        if context is None:
            raise InputError(
                f"context: this model needs the columns {', '.join(self.context_schema.names)}; pass context="
            )
        if len(context) not in (1, n_rows):
            raise InputError(f"context: expected 1 or {n_rows} rows, got {len(context)}")
        return encode_table(self.context_schema, context, like=self.like).expand(n_rows, -1)


def encode_table(
    schema: Schema,
    table: Table,
    *,
    like: Tensor,
    rows: npt.NDArray[np.integer[Any]] | None = None,
    generator: torch.Generator | None = None,
    change: Callable[[Tensor], Tensor] = lambda z: z,
) -> Tensor:
    """Rows standardised, shape `(n, d)`, of the dtype and device of `like`, a chunk at a time.

    Arguments:
        schema: The columns.
        table: The rows.
        like: See above.
        rows: Row numbers; all if None.
        generator: Of the dequantisation; see `Schema.encode`.
        change: What is done to each chunk while it is float64, in the order of the rows.

    Raises:
        InputError: The columns are not those of the fit.
    """
    n_rows = len(table) if rows is None else len(rows)
    encoded = empty_rows(n_rows, schema.dim, like)
    for part in row_slices(n_rows):
        chunk = table.take(part if rows is None else rows[part])
        encoded[part] = change(torch.as_tensor(schema.encode(chunk, generator=generator)))
    return encoded


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
                "base": {"kind": "standard_normal", "dim": model.flow.dim},
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
    settings = Settings.from_mapping(options)
    try:
        resolve_device(settings.device)
    except InputError:
        return settings.with_options(device="auto")
    return settings


def _flow_of(config: dict[str, Any], tensors: dict[str, Tensor], settings: Settings, *, dim: int) -> Flow:
    """The flow of a model folder; a ValueError where config, tensors and columns do not belong together."""
    flow, dtype, device = (
        Flow(StandardNormal(dim)),
        resolve_dtype(settings.dtype),
        resolve_device(settings.device),
    )
    if config["base"] != {"kind": "standard_normal", "dim": dim}:
        raise ValueError(f"expected a standard normal base of {dim} columns, got {config['base']}")
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
