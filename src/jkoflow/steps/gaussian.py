r"""The free step in closed form: whitening, which is exact where the law is Gaussian.

    T(x) = C^{-1/2} (x - m),    the optimal transport map from N(m, C) to N(0, I)

m and C are mean and covariance of the training rows, C as it is or shrunk, whichever gives validation rows
the smaller NLL. Where a flow is no better than this step alone, this step becomes the model, fitted again to
training and validation rows together: no choice is left that needs validation rows.

Source: theory, the Gaussian case of eq. (25) at gamma = infinity; Ledoit & Wolf (2004), "A well-conditioned
estimator for large-dimensional covariance matrices", for the shrinkage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from jkoflow.blocks import Block, whitening
from jkoflow.journal import Solution, Taken
from jkoflow.laws import Background
from jkoflow.particles import Moments, Particles
from jkoflow.runtime import Runtime
from jkoflow.steps.mixture import gaussian_with_background
from jkoflow.steps.state import State, taken_by

__all__ = ["Whitening", "best_whitening", "take_closed_form", "take_gaussian", "whitening_of_all_rows"]


@dataclass(frozen=True)
class Whitening:
    """A Gaussian step, and the flow that has it.

    Arguments:
        block: The step.
        covariance: `"empirical"` or `"shrunk"`.
        after: The state after it.
    """

    block: Block
    covariance: str
    after: State

    @property
    def solution(self) -> Solution:
        """The step as something that was found."""
        return Solution.found(self.block, "closed_form", covariance=self.covariance)


def best_whitening(
    state: State, runtime: Runtime, *, least_variance: float, background: Background | None = None
) -> Whitening:
    """Whiten by the training rows, with the covariance that serves the validation rows best.

    Arguments:
        state: Where the rows are.
        runtime: Device, dtype.
        least_variance: See `KeepRules`.
        background: That of a table of heavy tails, which the Gaussian gets; None for none.
    """
    candidates = _whitenings((state.train,), runtime, least_variance, background)
    outcomes = [Whitening(block, name, taken_by(state, block)[0]) for name, block in candidates.items()]
    return min(outcomes, key=lambda outcome: outcome.after.nll)


def whitening_of_all_rows(
    state: State,
    runtime: Runtime,
    covariance: str,
    *,
    least_variance: float,
    background: Background | None = None,
) -> Solution:
    """Whiten by training and validation rows together, with the kind of covariance that was chosen before."""
    candidates = _whitenings((state.train, state.validation), runtime, least_variance, background)
    used = covariance if covariance in candidates else "shrunk"
    rows = "training and validation rows"
    return Solution.found(candidates[used], "closed_form", covariance=used, fitted_on=rows)


def take_closed_form(
    state: State, solution: Solution, *, round_number: int, **more: Any
) -> tuple[State, Taken]:
    """The state after a step in closed form, which has the next number and empties `State.moved`."""
    assert solution.block is not None
    after, measured = taken_by(state, solution.block)
    after = replace(after, number=state.number + 1, moved=())
    own = {"block": after.number, "kept": True, "round": round_number, **more}
    return after, Taken(after.number, round_number, solution.block, {**solution.log, **measured, **own})


def take_gaussian(state: State, solution: Solution, *, before: Whitening) -> tuple[State, Taken]:
    """The state after the Gaussian that was fitted on all rows.

    Its NLL stays that of the Gaussian before, which validation rows may judge: no row is held out any more.
    For the same reason the record has no gain.
    """
    start = replace(state, nll=before.after.nll, judged=before.after.flow)
    after, taken = take_closed_form(start, solution, round_number=-1)
    after = replace(after, nll=start.nll)
    unknown = dict.fromkeys(("held_out_nll_se_nats", "gain_nats", "gain_se_nats"))
    told = {**unknown, "held_out_nll_nats": start.nll, "planned": after.number}
    return after, replace(taken, log={**taken.log, **told})


def _whitenings(
    parts: Sequence[Particles], runtime: Runtime, least_variance: float, background: Background | None
) -> dict[str, Block]:
    """The candidates by the name of their covariance; the empirical one only where it can be inverted."""
    moments = Moments.of(*parts)
    heavy = background is not None and background.is_heavy and not parts[0].context_dim

    def block(covariance: Tensor) -> Block:
        if background is None or not heavy:
            return whitening(moments.mean, covariance)
        n_rows = sum(part.effective_rows for part in parts)
        return gaussian_with_background(moments.mean, covariance, n_rows, background)

    return {
        name: block(covariance).to(device=runtime.device, dtype=runtime.dtype)
        for name, covariance in _covariances(moments, least_variance).items()
        if float(torch.linalg.eigvalsh(covariance)[0]) >= least_variance / 2
    }


def _covariances(moments: Moments, least_variance: float) -> Mapping[str, Tensor]:
    floor = least_variance * torch.eye(len(moments.mean), dtype=torch.float64, device=moments.mean.device)
    return {"empirical": moments.covariance, "shrunk": moments.shrunk + floor}
