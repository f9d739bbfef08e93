r"""The free step in closed form: whitening, which is exact where the law is Gaussian.

    T(x) = C^{-1/2} (x - m),    the optimal transport map from N(m, C) to N(0, I)

m and C are those of the training rows, C as it is or shrunk, whichever serves the held-out rows better. Where
what follows does not earn its keep, nothing is left to choose on held-out rows, and the fit is this step
alone, taken on all rows.

Source: theory, the Gaussian case of eq. (25) at gamma = infinity; Ledoit & Wolf (2004), "A well-conditioned
estimator for large-dimensional covariance matrices", for the shrinkage.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from jkoflow.blocks import AffineBlock
from jkoflow.fit import FitState, StepInfo, TakenStep, closed_form_record, take_block, take_closed_form
from jkoflow.particles.moments import Moments
from jkoflow.runtime import Runtime

__all__ = ["gaussian_step", "gaussian_step_on_all_rows", "judged_whitening"]

_LEAST_VARIANCE = 1e-10


def gaussian_step(state: FitState, runtime: Runtime) -> tuple[FitState, TakenStep]:
    """Whiten by the training rows, with the covariance that serves the held-out rows best."""
    after, info, block, name = judged_whitening(state, runtime)
    after = replace(after, number=state.number + 1, moved=())
    return after, TakenStep(block, closed_form_record(info, after.number, covariance=name))


def judged_whitening(state: FitState, runtime: Runtime) -> tuple[FitState, StepInfo, AffineBlock, str]:
    """The step and what held-out rows say of it, as `fit.take_block`, and the name of its covariance."""
    outcomes = [
        (*take_block(state, block, runtime), block, name)
        for name, block in _whitenings(Moments.of(state.train.x), runtime).items()
    ]
    return min(outcomes, key=lambda outcome: outcome[0].nll)


def gaussian_step_on_all_rows(
    state: FitState, runtime: Runtime, covariance: str
) -> tuple[FitState, TakenStep]:
    """Whiten by training and held-out rows together, with the kind of covariance that was chosen before.

    Arguments:
        state: The state before any step; its NLL should be that of `gaussian_step`, which it keeps, since no
            row is held out any more. For the same reason the record has no gain.
        runtime: Device, dtype.
        covariance: `"empirical"` or `"shrunk"`.
    """
    candidates = _whitenings(Moments.of(state.train.x, state.validation.x), runtime)
    block = candidates.get(covariance, candidates["shrunk"])
    after, info = take_closed_form(state, block, runtime)
    unknown = dict.fromkeys(("held_out_nll_se_nats", "gain_nats", "gain_se_nats"))
    record = closed_form_record(
        {**info, **unknown, "held_out_nll_nats": state.nll},
        after.number,
        covariance=covariance,
        fitted_on="training and validation rows",
    )
    return replace(after, nll=state.nll), TakenStep(block, record)


def _whitenings(moments: Moments, runtime: Runtime) -> dict[str, AffineBlock]:
    """The candidates by the name of their covariance; the empirical one only where it can be inverted."""
    return {
        name: AffineBlock.whitening(moments.mean, covariance).to(device=runtime.device, dtype=runtime.dtype)
        for name, covariance in _covariances(moments).items()
        if float(torch.linalg.eigvalsh(covariance)[0]) >= _LEAST_VARIANCE / 2
    }


def _covariances(moments: Moments) -> dict[str, Tensor]:
    floor = _LEAST_VARIANCE * torch.eye(len(moments.mean), dtype=torch.float64, device=moments.mean.device)
    return {"empirical": moments.covariance, "shrunk": moments.shrunk + floor}
