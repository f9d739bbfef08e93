r"""The deployable model as one value: columns, flow and settings.

    log p(x) = log q_0(z) + log|dz/dx|,   z = (x - m)/s        (columns' bijection, then the flow)

Source: the change of variables under eq. (38) of Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from jkoflow.config import Settings
from jkoflow.data import Schema, Table
from jkoflow.errors import InputError
from jkoflow.flow import Flow
from jkoflow.flow.likelihood import log_prob
from jkoflow.flow.sampling import checked_sample_size, sample
from jkoflow.global_state import default_state
from jkoflow.particles import empty_rows, own_rows
from jkoflow.runtime import resolve_device, resolve_dtype
from jkoflow.storage.scratch import row_slices
from jkoflow.world import ALONE, World

__all__ = ["Model", "encode_table"]

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

    @default_state()
    def log_prob(self, table: Table, context: Table | None = None, *, world: World = ALONE) -> Reals:
        """Log-density of each row, shape `(n,)`, nats in data units, float64; deterministic.

        Where several processes have the rows among them, as `read_shared_table` with units of `PUSH_ROWS`
        gives them, each scores its own, and gets the scores of all.

        It is -infinity where the row lies so far out that its squared length is beyond the range of the
        model's dtype: the tails are those of a normal law, whose density is rounded to 0 there.
        """
        own = self.schema.check(table).own
        z = encode_table(self.schema, own, like=self.like)
        near = torch.isfinite(z.square().sum(dim=1))
        given = self.encode_context(None if context is None else context.own, len(own))
        if world.largest(float(not near.all())):
            z, given = z[near], None if given is None else given[near]
            if world.size > 1:  # the chunks are of the rows that are left, which are all sent: it is rare
                z, given = world.gather(z), None if given is None else world.gather(given)
                part = own_rows(len(z), world)
                z, given = z[part], None if given is None else given[part]
        nats = log_prob(self.flow, z, given).cpu() + self.schema.log_jacobian(z)
        is_near = world.gather(near.to(torch.uint8)).cpu().numpy() > 0
        scores = np.full(len(is_near), -np.inf)
        scores[is_near] = world.gather(nats).numpy()
        return scores

    @default_state()
    def sample(
        self, n_rows: int, *, seed: int, context: Table | None = None, world: World = ALONE
    ) -> tuple[Reals, Reals]:
        """Rows in data units `(n, d)` and the round-trip error of each `(n,)`, standardised units.

        Several processes divide the work; each gets all rows.

        Raises:
            InputError: As `sample` of `flow`, or a context that does not fit.
        """
        n_rows = checked_sample_size(n_rows, self.flow.dim, self.like.dtype)
        given = self.encode_context(context, n_rows)
        drawn = sample(self.flow, n_rows, seed=seed, context=given, like=self.like, world=world)
        return self.schema.decode(drawn.x.double().cpu().numpy()), np.asarray(
            drawn.error.double().cpu().numpy()
        )

    @default_state()
    def transform(self, table: Table, context: Table | None = None) -> Reals:
        """The latent image of each row, shape `(n, d)`: standard normal where the model is right."""
        z = encode_table(self.schema, table, like=self.like)
        return np.asarray(
            self.flow.push(z, self.encode_context(context, len(table))).double().cpu().numpy(),
            dtype=np.float64,
        )

    @default_state()
    def inverse_transform(self, latent: Reals, context: Table | None = None) -> Reals:
        """The row in data units of each latent row, shape `(n, d)`."""
        y = torch.tensor(np.asarray(latent, dtype=np.float64)).to(self.like)  # a copy: it may be read-only
        x = self.flow.pull(y, self.encode_context(context, len(y)))
        return self.schema.decode(x.double().cpu().numpy())

    @default_state()
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
    part: slice = slice(None),
) -> Tensor:
    """Rows standardised, shape `(n, d)`, of the dtype and device of `like`, a chunk at a time.

    Arguments:
        schema: The columns.
        table: The rows.
        like: See above.
        rows: Row numbers; all if None.
        generator: Of the dequantisation; see `Schema.encode`.
        change: What is done to each chunk while it is float64, in the order of the rows.
        part: Which of the rows are kept, a slice of step 1; the noise of all of them is drawn.

    Raises:
        InputError: The columns are not those of the fit.
    """
    n_rows = len(table) if rows is None else len(rows)
    first, end, _ = part.indices(n_rows)
    encoded = empty_rows(end - first, schema.dim, like)
    for some in row_slices(n_rows):
        chunk = table.take(some if rows is None else rows[some])
        z = change(torch.as_tensor(schema.encode(chunk, generator=generator)))
        start, stop = max(some.start, first), min(some.stop, end)
        if start < stop:
            encoded[start - first : stop - first] = z[start - some.start : stop - some.start]
    return encoded
