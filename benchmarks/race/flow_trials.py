"""The best of several flows, by short trials inside the budget: each size, on plain and on whitened rows.

    q(x) = (1 - a) q_theta(W (x - m)) |det W| + a N(x; m, 4 C),    a = 1e-3,
    W = I or Λ^(-1/2) Vᵀ,    V Λ Vᵀ = C

m and C are the rows' mean and covariance. The normal part costs a thousandth of a nat; without it one test
row far out, where a network extrapolates, can have an NLL of millions and decide the mean.

Every candidate trains for a twentieth of the budget at its full rate; on plain and on whitened rows the best
by validation rows goes on for a tenth; the better of the two gets the rest, at a rate that falls to 0. A
candidate goes on from its best weights with a new Adam. Whitened columns are in the order of their variance.
Source: Jamieson & Talwalkar (2016), arXiv 1502.07943, for successive halving.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from contenders.zuko_flow import ExactFlow
from density import Reals, seeded, split
from timed_descent import Clock, batches, descend
from torch import Tensor, nn

__all__ = [
    "AffineThenFlow",
    "Candidate",
    "Whitening",
    "candidates_of",
    "fit_best",
    "no_whitening",
    "principal_whitening",
]

FIRST_SHARE, SECOND_SHARE = 1 / 20, 1 / 10
BACKGROUND_WEIGHT, BACKGROUND_SPREAD = 1e-3, 2.0
PATIENCE = 0.1
"""Of a run's time without a better validation: where columns are many, training can diverge on new rows."""
VALIDATION_ROWS = 2000
CHUNK = 500


@dataclass(frozen=True)
class Whitening:
    """z = (x - location) matrix, with its log-determinant, nats."""

    location: Reals
    matrix: Reals
    log_det: float

    def push(self, rows: Reals) -> Reals:
        """z of rows `(n, d)`."""
        return np.asarray((rows - self.location) @ self.matrix)

    def pull(self, rows: Reals) -> Reals:
        """x of rows `(n, d)`."""
        return np.asarray(np.linalg.solve(self.matrix.T, rows.T).T + self.location)


def no_whitening(rows: Reals) -> Whitening:
    """The identity."""
    dim = rows.shape[1]
    return Whitening(np.zeros(dim), np.eye(dim), 0.0)


def principal_whitening(rows: Reals, spread: float = 1.0) -> Whitening:
    """Principal components over `spread` times their deviations, the largest first."""
    variances, directions = np.linalg.eigh(np.cov(rows.T))
    variances, directions = spread**2 * variances[::-1], directions[:, ::-1]
    log_det = -0.5 * float(np.log(variances).sum())
    return Whitening(rows.mean(axis=0), directions / np.sqrt(variances), log_det)


@dataclass(frozen=True)
class Candidate:
    """What is tried.

    Arguments:
        make: The flow for d columns.
        whitening: Of the rows that it trains on.
        batch: Rows of an update.
        rate: Adam's.
    """

    make: Callable[[int], nn.Module]
    whitening: Callable[[Reals], Whitening]
    batch: int
    rate: float


@dataclass(frozen=True)
class AffineThenFlow:
    """A `Density`: a flow on rows that are whitened first, and a little of a wide normal law.

    Arguments:
        whitening: What comes before the flow.
        inner: The flow.
        background: The whitening of the wide normal law's rows.
    """

    whitening: Whitening
    inner: ExactFlow
    background: Whitening
    velocity_evaluations: None = None

    def log_prob(self, rows: Reals) -> Reals:
        flow = self.inner.log_prob(self.whitening.push(rows)) + self.whitening.log_det
        wide = _normal_log_prob(self.background.push(rows)) + self.background.log_det
        flow = np.nan_to_num(flow, nan=-np.inf, posinf=-np.inf)
        return np.logaddexp(math.log1p(-BACKGROUND_WEIGHT) + flow, math.log(BACKGROUND_WEIGHT) + wide)

    def sample(self, n: int, seed: int) -> Reals:
        rng = np.random.default_rng([seed, 23])
        wide = self.background.pull(rng.standard_normal((n, self.inner.dim)))
        flow = self.whitening.pull(self.inner.sample(n, seed))
        return np.where(rng.uniform(size=(n, 1)) < BACKGROUND_WEIGHT, wide, flow)

    def round_trip_error(self, rows: Reals) -> float:
        return self.inner.round_trip_error(self.whitening.push(rows))

    def log_prob_check(self, rows: Reals) -> None:
        del rows


def _normal_log_prob(rows: Reals) -> Reals:
    return np.asarray(-0.5 * (np.square(rows) + math.log(2 * math.pi)).sum(axis=1))


@dataclass
class Trial:
    """A candidate on its way: its flow with the best weights so far, and their validation loss, nats.

    Arguments:
        candidate: What is tried.
        whitening: Of the rows.
        flow: The flow on whitened rows.
        fitted: Whitened rows to train on.
        held_out: Whitened validation rows.
        wide: log(a N(x; m, 4 C)) of the validation rows, `(n,)`.
        seed: Of the batches.
        loss_nats: Mean NLL of validation rows, before whitening.
    """

    candidate: Candidate
    whitening: Whitening
    flow: Any
    fitted: Tensor
    held_out: Tensor
    wide: Tensor
    seed: int
    loss_nats: float = field(default=math.inf)

    def train(self, seconds: float, *, cosine: bool = False, patience: float | None = None) -> None:
        """Go on for so many CPU-seconds; weights that are no better are not kept."""
        before = copy.deepcopy(self.flow.state_dict())
        draws = batches(self.fitted, self.candidate.batch, torch.Generator().manual_seed(self.seed))

        def loss() -> Tensor:
            return -self.flow().log_prob(next(draws)).mean()

        clock = Clock(seconds)
        rate = self.candidate.rate
        descend(self.flow, loss, self.judge, clock=clock, rate=rate, cosine=cosine, patience=patience)
        with torch.no_grad():
            reached = self.judge()
        if reached < self.loss_nats:
            self.loss_nats = reached
        else:
            self.flow.load_state_dict(before)

    def judge(self) -> float:
        """Mean NLL of validation rows before whitening, the wide normal law's part included, nats."""
        parts = [self.flow().log_prob(x) for x in torch.split(self.held_out, CHUNK)]
        flow = torch.cat(parts).double().nan_to_num(nan=-math.inf, posinf=-math.inf) + self.whitening.log_det
        return -float(torch.logaddexp(math.log1p(-BACKGROUND_WEIGHT) + flow, self.wide).mean())


def candidates_of(make: Callable[..., nn.Module], sizes: Sequence[tuple[int, int, float]]) -> list[Candidate]:
    """Each size on plain rows, then each on whitened ones.

    Arguments:
        make: The flow for d columns and `hidden_features`.
        sizes: Width of both layers, rows of a batch, rate.
    """
    return [
        Candidate(partial(make, hidden_features=(width, width)), whiten, batch, rate)
        for whiten in (no_whitening, principal_whitening)
        for width, batch, rate in sizes
    ]


def fit_best(candidates: Sequence[Candidate], train: Reals, *, budget: float, seed: int) -> AffineThenFlow:
    """The best of the candidates, by successive halving in the budget."""
    clock = Clock(budget)
    with seeded(seed):
        fitted, held_out = split(train, seed)
        held_out = held_out[:VALIDATION_ROWS]
        trials = [_begun(candidate, fitted, held_out, seed) for candidate in candidates]
        for trial in trials:
            trial.train(FIRST_SHARE * budget)
        kinds = dict.fromkeys(trial.candidate.whitening for trial in trials)
        trials = [_best(trial for trial in trials if trial.candidate.whitening is kind) for kind in kinds]
        for trial in trials:
            trial.train(SECOND_SHARE * budget)
        best = _best(trials)
        best.train(max(clock.remaining(), 0.0), cosine=True, patience=PATIENCE)
    background = principal_whitening(fitted, BACKGROUND_SPREAD)
    return AffineThenFlow(best.whitening, ExactFlow(best.flow, train.shape[1]), background)


def _begun(candidate: Candidate, fitted: Reals, held_out: Reals, seed: int) -> Trial:
    whitening, background = candidate.whitening(fitted), principal_whitening(fitted, BACKGROUND_SPREAD)
    wide = _normal_log_prob(background.push(held_out)) + background.log_det + math.log(BACKGROUND_WEIGHT)
    mine, judged = (torch.as_tensor(whitening.push(part), dtype=torch.float32) for part in (fitted, held_out))
    flow = candidate.make(fitted.shape[1])
    return Trial(candidate, whitening, flow, mine, judged, torch.as_tensor(wide), seed)


def _best(trials: Iterable[Trial]) -> Trial:
    return min(trials, key=lambda trial: trial.loss_nats)
