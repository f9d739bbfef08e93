r"""The state of a fit between two steps, and what a block makes of it.

    p_n = (T_n)_# p_{n-1},    validation log q_0 = log q(T_1^n(x)) + sum_n log|det dT_n(x_{n-1})|

What a later decision needs is a field of the state. What is only told, as one line of `steps.jsonl` for each
step, is the log of the step as it is stored, which nothing reads. Source: Cheng, Lu, Tan & Xie (2024), arXiv
2310.17582, section 3.1, eq. (19)-(25), and below eq. (38).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from jkoflow.blocks import Block
from jkoflow.blocks.log_det import push_block_with_log_det
from jkoflow.flow import Flow
from jkoflow.functionals import Functional, ProximalObjective, Pushed
from jkoflow.journal import Solution, Taken
from jkoflow.particles import Particles
from jkoflow.storage.chunks import PUSH_ROWS

__all__ = [
    "Closing",
    "Keep",
    "State",
    "improves",
    "initial_state",
    "is_significant",
    "take",
    "taken_by",
]


@dataclass(frozen=True)
class Closing:
    """A last step in closed form that a flow could end with, and what validation rows say of that flow.

    Arguments:
        block: The map that takes a mixture, or a Gaussian, to the law at the end of the flow; None for no
            step.
        n_components: K of the mixture; 1 for a Gaussian, 0 for no step.
        log_prob: Log-density of validation rows under the closed flow, nats, float64, shape `(n,)`.
        nll: Their mean negative log-density, nats; infinite where it is no number.
        responsibilities: Share of each component in each of the first m training rows, shape `(m, K)`; None
            for K < 2, and for what `ClosingSearch.stacked` puts together.
    """

    block: Block | None
    n_components: int
    log_prob: Tensor
    nll: float
    responsibilities: Tensor | None = None

    @classmethod
    def judged(
        cls,
        block: Block | None,
        n_components: int,
        log_prob: Tensor,
        rows: Particles,
        responsibilities: Tensor | None = None,
    ) -> Closing:
        """The closing with its NLL on the rows that `log_prob` is of."""
        nll = -rows.mean(log_prob)
        return cls(block, n_components, log_prob, math.inf if math.isnan(nll) else nll, responsibilities)


@dataclass(frozen=True)
class State:
    """What the next step depends on.

    Arguments:
        flow: T_n o ... o T_1.
        functional: G, which the steps descend.
        train: Samples of p_n.
        validation: Validation samples of p_n.
        log_det: Accumulated log-determinant of the validation rows, shape `(n_validation,)`, nats, float64.
        nll: Validation NLL of the flow, nats, standardised units.
        number: Steps taken, the dropped ones included.
        moved: Step size and mean distance moved, standardised units, of each finite step in the flow.
        gradient_ratio: Squared gradient that the last step that was kept leaves, over E|T_n x|^2, as
            its movement and gain show it; infinite before the first.
        dropped: Steps in a row, up to the last, whose blocks were dropped.
        closing: The best closing known of this flow; None where none was looked for.
        judged: The flow that the validation rows may judge, where `flow` itself was fitted on them.
        ended: Why the fit ends here, a clause without a full stop; empty while it goes on.
    """

    flow: Flow
    functional: Functional
    train: Particles
    validation: Particles
    log_det: Tensor
    nll: float
    number: int = 0
    moved: tuple[tuple[float, float], ...] = ()
    gradient_ratio: float = math.inf
    dropped: int = 0
    closing: Closing | None = None
    judged: Flow | None = None
    ended: str = ""

    @property
    def held_out_log_prob(self) -> Tensor:
        """log q_0 of the validation rows under the flow so far, shape `(n_validation,)`, nats, float64."""
        return self.log_det + self.flow.law.log_prob(self.validation.x.double())

    def seen_on(self, validation: Particles, train: Particles | None = None) -> State:
        """The state with its first validation rows alone and, where given, other training rows."""
        log_det = self.log_det[: len(validation)]
        train = self.train if train is None else train
        return replace(self, train=train, validation=validation, log_det=log_det)

    def beats(self, other: State, *, standard_errors: float) -> bool:
        """Whether validation rows have a larger log-density than under another flow, by more than chance."""
        gain = self.held_out_log_prob - other.held_out_log_prob
        return is_significant(self.validation, gain, standard_errors=standard_errors)


Keep = Callable[[State, State], State | None]
"""Gets the states before and after a block; returns the state to go on from, or None to drop the block."""


def initial_state(functional: Functional, train: Particles, validation: Particles) -> State:
    """The state before the first step: the empty flow."""
    law = functional.law
    log_det = torch.zeros(len(validation), dtype=torch.float64, device=validation.x.device)
    nll = -validation.mean(law.log_prob(validation.x.double()))
    return State(Flow(law), functional, train, validation, log_det, nll)


def taken_by(state: State, block: Block, gamma: float | None = None) -> tuple[State, dict[str, Any]]:
    """The state after `block`, and its validation loss terms, transport and NLL, as a record has them.

    Terms and gradient are those of the proximal step that the block comes nearest to, `block.gamma`; the step
    size that the schedule had, `gamma`, is told beside it, and is what a later schedule goes by.

    Training rows are pushed when they are asked for: a block that is only judged costs validation rows. The
    step-doubling error is that of the first `PUSH_ROWS` validation rows, which are in random order.
    """
    before = state.validation
    some = before.rows(slice(0, PUSH_ROWS))
    image, log_det = push_block_with_log_det(block, before)
    accumulated = state.log_det + log_det.to(torch.float64)
    nats = accumulated + state.flow.law.log_prob(image.double())
    gain = nats - state.held_out_log_prob
    nominal = block.gamma if gamma is None else gamma
    objective = ProximalObjective(state.functional, block.gamma)
    terms = objective.terms_of(Pushed(before, image, log_det), state.functional.init(before))
    distance = before.mean((before.x - image).norm(dim=1))
    moved = float(terms.moved)
    size = before.mean(image.double().square().sum(dim=1))
    left = _squared_gradient_left(block, moved, before.mean(gain)) / size
    nll = -before.mean(nats)
    measured = {
        "gamma": None if block.free else block.gamma,
        "nominal_gamma": None if block.free else nominal,
        **terms.to_dict(),
        "held_out_nll_nats": nll,
        "held_out_nll_se_nats": before.standard_error(nats),
        "gain_nats": before.mean(gain),
        "gain_se_nats": before.standard_error(gain),
        "transport": moved,
        "transport_ratio": moved / size,
        "gradient_ratio": left,
        "mean_distance": distance,
        "step_doubling_error": block.step_doubling_error(some.x, some.context),
    }
    after = replace(
        state,
        flow=state.flow.then(block),
        train=state.train.deferred(block.push),
        validation=before.at(image),
        log_det=accumulated,
        nll=nll,
        moved=state.moved if block.free else (*state.moved, (nominal, distance)),
        gradient_ratio=left,
        dropped=0,
        closing=None,
    )
    return after, measured


def _squared_gradient_left(block: Block, moved: float, gain: float) -> float:
    """The squared norm of the Wasserstein gradient at p_n, were the step exact; a free step has gamma = 1.

    An exact step leaves the gradient (T_n^{-1} - id)/gamma, and gains at least gamma times its square
    (docs/theory.md, "When to stop"). The larger of the two is told, since a block that failed to learn moves
    too little, and one that only turns moves and gains nothing.
    """
    gamma = 1.0 if block.free else block.gamma
    return max(moved / gamma**2, gain / gamma)


def take(
    state: State,
    solution: Solution,
    *,
    round_number: int,
    gamma: float | None = None,
    keep: Keep | None = None,
    more: Callable[[State], Mapping[str, Any]] = lambda state: {},
) -> tuple[State, Taken]:
    """The state after a step, and the step as it is stored; a dropped block leaves the flow as it was.

    Arguments:
        state: Before the step.
        solution: What was found, now or on record.
        round_number: Number of the round.
        gamma: Step size that the schedule had; None for the block's own.
        keep: Asked of the block with the states before and after it; None to keep it.
        more: What else is told of the step, by the state after it.
    """
    number = state.number + 1
    kept, measured = None, dict[str, Any]()
    if solution.block is not None:
        after, measured = taken_by(state, solution.block.requires_grad_(False), gamma)
        kept = after if keep is None else keep(state, after)
    dropped = replace(state, number=number, dropped=state.dropped + 1)
    final = dropped if kept is None else replace(kept, number=number)
    log = {**solution.log, **measured}
    if solution.block is not None:
        log |= {"block": number, "kept": kept is not None, "round": round_number, **more(final)}
    return final, Taken(number, round_number, None if kept is None else solution.block, log)


def improves(standard_errors: float) -> Keep:
    """Keeps a block where the validation NLL falls by more than so many paired standard errors."""
    return lambda before, after: after if after.beats(before, standard_errors=standard_errors) else None


def is_significant(rows: Particles, gain: Tensor, *, standard_errors: float) -> bool:
    """Whether the mean of paired gains, nats, shape `(n,)`, is above so many of its standard errors.

    A single row has no standard error; then any gain is.
    """
    error = rows.standard_error(gain)
    return rows.mean(gain) > (0.0 if math.isnan(error) else standard_errors * error)
