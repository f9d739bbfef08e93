"""What a certificate is made from: the model and rows that no part of its fit used for anything.

    certify(model, rows) = certify(model, rows) again: every draw comes from the seed by name

The law that the rows come from is never part of it. Source: ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from jkoflow.certify.fit_rows import SeenRows
from jkoflow.flow import Flow
from jkoflow.flow.sampling import sample
from jkoflow.particles import Particles
from jkoflow.particles.smoothing import Smoothing
from jkoflow.runtime import seed_stream

__all__ = ["GIVE_ROWS", "LEAST_ROWS", "LEVEL", "Evidence", "too_few"]

LEVEL = 0.95
"""Every interval and every one-sided bound has this confidence, unless the claim says another."""

LEAST_ROWS = 100
"""The bracket of the KL, and what else looks at a law as a whole, needs so many held-out rows."""

GIVE_ROWS = "give rows that no part of the fit used, or fit with holdout_fraction"
"""The remedy where there are no held-out rows, or too few."""


def too_few(rows: int, least: int = LEAST_ROWS) -> str:
    """Why nothing is looked at where there are fewer than `least` held-out rows."""
    return f"{rows} held-out rows, of {least} that are needed"


@dataclass(frozen=True)
class Evidence:
    """A flow with held-out rows.

    Arguments:
        flow: T_N o ... o T_1, its base law at the end.
        held_out: Samples of p_0 in standardised units, dequantised and smoothed as those of the fit were, by
            their weights; in the model's dtype. None where there are none.
        seed: Seed of everything that is drawn here.
        unsmoothed: The same rows before they were smoothed; None where nothing was smoothed.
        smoothing: How they were, its time resolved; None where nothing was smoothed.
        dequantised: Columns to which uniform noise of the measuring step was added, by name.
        dependent: The relation of each column that others determine exactly, such as
            `clay = 1 - sand - silt`, by its name.
        seen: How many of the held-out rows the fit has seen; None where not known.
        fitted_rows: Rows that the fit looked at, some of them, from which witnesses may learn the law, shape
            `(m, d)`; None where they are not known, or where the law depends on a context.
        names: Names of the columns; empty where they have none.
        cross_validated: Models fitted as this one was without a part of its rows, each with that part; empty
            where rows were set aside.
        remarks: What else a reader should know about model and rows, one line each.
    """

    flow: Flow
    held_out: Particles | None
    seed: int = 0
    unsmoothed: Particles | None = None
    smoothing: Smoothing | None = None
    dequantised: tuple[str, ...] = ()
    dependent: Mapping[str, str] = field(default_factory=dict)
    seen: SeenRows | None = None
    fitted_rows: Tensor | None = None
    names: tuple[str, ...] = ()
    cross_validated: tuple[Evidence, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def like(self) -> Tensor:
        """An empty tensor of the dtype and device to compute in."""
        tensors = list(self.flow.state_dict().values())
        if self.held_out is not None:
            return self.held_out.x[:0]
        return tensors[0].flatten()[:0] if tensors else torch.empty(0)

    @cached_property
    def unweighted(self) -> Particles | None:
        """Held-out rows that all count the same: each weighted one stays with a probability of w / max w.

        What stays is a sample of the law that the weights describe, of independent rows, so that every test
        and interval for such samples holds for it.
        """
        rows = self.held_out
        if rows is None or rows.weight is None:
            return rows
        chance = torch.rand(len(rows), generator=self.stream("weights"), dtype=torch.float64)
        stays = chance * rows.weight.max().cpu() < rows.weight.cpu()
        return replace(rows.rows(stays.nonzero()[:, 0].to(rows.x.device)), weight=None)

    @property
    def pooled(self) -> Evidence:
        """The model with all rows that were each left out of a fit; itself where rows were set aside."""
        parts = [part.unweighted for part in self.cross_validated if part.unweighted is not None]
        if not parts:
            return self
        contexts = [part.context for part in parts if part.context is not None]
        rows = Particles(torch.cat([part.x for part in parts]), torch.cat(contexts) if contexts else None)
        return replace(self, held_out=rows, cross_validated=())

    @property
    def takes_context(self) -> bool:
        """Whether a block of the flow needs context rows."""
        return any(getattr(getattr(block, "velocity", None), "context_dim", 0) > 0 for block in self.flow)

    def contexts(self, n_rows: int, name: str) -> Tensor | None:
        """Contexts of held-out rows drawn with replacement, shape `(n_rows, c)`; None without context."""
        if not self.unweighted or self.unweighted.context is None:
            return None
        return self.unweighted.draw(n_rows, self.stream(f"{name} context")).context

    def stream(self, name: str) -> torch.Generator:
        """The source of randomness of that name."""
        return seed_stream(self.seed, f"certify {name}")

    def draw(self, n_rows: int, *, context: Tensor | None = None, part: int = 0) -> Particles:
        """Fresh samples of q_0, standardised units; other parts are independent of each other."""
        drawn = sample(self.flow, n_rows, seed=self.seed + 7919 * (part + 1), context=context, like=self.like)
        return Particles(drawn.x, context)
