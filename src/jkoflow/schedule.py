r"""Step sizes gamma_1, ..., gamma_N: constant, geometric, adaptive, or from the data's finest scale.

    constant    gamma_n = gamma
    geometric   gamma_n = min(first growth^{n-1}, cap)
    adaptive    gamma_n <- min(gamma_n + eta (S gamma_n / S_n - gamma_n), cap), S_n the mean distance moved in
                step n and S their mean, after each whole fit
    stop        when max(E|x - T_n x|^2/gamma_n^2, gain_n/gamma_n) < stop_ratio E|T_n x|^2
    free step   gamma = infinity, no transport term

gain_n is what step n lowers the validation NLL by, nats. The division by gamma_n is ours: a short step moves
little however far p_n is from q, while W2(p_{n-1}, p_n)/gamma_n bounds W2(p_n, q) (docs/theory.md, "When to
stop"). At gamma_n = 1 the first term is the published rule.

Re-parametrisation and stop rule: Xu, Cheng & Xie (2023), "Normalizing flow neural networks by JKO scheme",
arXiv 2212.14424. Small first steps that grow from the data's finest scale are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from jkoflow.counts import checked_count
from jkoflow.errors import InputError
from jkoflow.particles import Particles
from jkoflow.storage.entries import brief

__all__ = ["AutomaticRules", "Schedule", "finest_scale", "reparametrise", "resolve_schedule"]


@dataclass(frozen=True)
class PublishedRules:
    """The numbers of the published schedules (Xu, Cheng & Xie 2023, arXiv 2212.14424).

    Arguments:
        stop_ratio: Squared gradient that a step leaves, over E|T_n x|^2, below which the finite steps end.
        eta: Step of the re-parametrisation.
        first: First step size where none is given.
        growth: Growth of the step sizes where none is given.
        cap: Largest step size of a re-parametrisation where none is given.
        rounds: Whole fits of an adaptive schedule where their number is not given.
        most_rounds: Most that may be given.
    """

    stop_ratio: float = 0.01
    eta: float = 0.5
    first: float = 0.25
    growth: float = 1.4
    cap: float = 3.0
    rounds: int = 2
    most_rounds: int = 1000


published = PublishedRules()


@dataclass(frozen=True)
class AutomaticRules:
    """How step sizes follow from the particles' finest scale (measured, docs/performance.md).

    Arguments:
        angles: Smallest and largest angle of the first step on the Ornstein-Uhlenbeck path, radians.
        growth: Factor from one step size to the next where there are blocks enough.
        largest: Step size of the last finite step.
        rows: Particles that the finest scale is measured on.
    """

    angles: tuple[float, float] = (0.02, 0.25)
    growth: float = 3.0
    largest: float = 1.0
    rows: int = 2000


@dataclass(frozen=True)
class Schedule:
    """The step sizes of one fit.

    Arguments:
        gammas: Step sizes in order; infinity for a free step.
        stop_ratio: The finite steps end when the squared gradient that one leaves, as its movement and its
            gain show it, falls below this share of E|T_n x|^2; None for never.
        rounds: Whole fits; after each but the last, the finite step sizes are re-parametrised.
        eta: Step of the re-parametrisation.
        cap: Largest step size of the re-parametrisation.
    """

    gammas: tuple[float, ...]
    stop_ratio: float | None = None
    rounds: int = 1
    eta: float = published.eta
    cap: float = math.inf

    def __post_init__(self) -> None:
        if not self.gammas or any(not gamma > 0 for gamma in self.gammas):
            raise InputError(f"gamma: expected step sizes > 0, got {self.gammas}")

    @property
    def before_free(self) -> tuple[float, ...]:
        """The step sizes before the free last step; all of them where there is none."""
        return self.gammas[:-1] if self.free_last else self.gammas

    @property
    def free(self) -> tuple[float, ...]:
        """The free last step, where there is one."""
        return self.gammas[-1:] if self.free_last else ()

    @property
    def free_last(self) -> bool:
        """Whether the last step is free."""
        return math.isinf(self.gammas[-1])

    def reparametrised(self, moved: Sequence[tuple[float, float]]) -> Schedule:
        """The schedule of the next round, given step size and mean distance of each finite step kept."""
        free = tuple(gamma for gamma in self.gammas if math.isinf(gamma))
        if not moved:  # every step was dropped: nothing is known to choose by
            return self
        gammas = reparametrise(moved, eta=self.eta, cap=self.cap)
        return replace(self, gammas=(*gammas, *free))


def reparametrise(
    moved: Sequence[tuple[float, float]], *, eta: float = published.eta, cap: float = math.inf
) -> tuple[float, ...]:
    """One published re-parametrisation: step sizes that bring the distances moved closer to their mean.

    Arguments:
        moved: gamma_n and S_n, the mean distance that step moved its particles, standardised units.
        eta: How far to go, 0 to 1.
        cap: Largest step size allowed.
    """
    mean = sum(distance for _, distance in moved) / len(moved)
    return tuple(min(gamma + eta * (mean * gamma / distance - gamma), cap) for gamma, distance in moved)


def finest_scale(particles: Particles, generator: torch.Generator, *, rows: int = 2000) -> float:
    r"""The smallest length at which the particles show structure that n rows can resolve, standardised units.

    It is the smaller of the least standard deviation in any direction and the median distance to the nearest
    neighbour over sqrt(2 d), the spread per coordinate of a law whose samples lie that close. Of more than
    `rows` particles, `rows` drawn by `generator` are compared with the first `rows`.
    """
    part = particles
    if len(particles) > rows:
        part = particles.few(torch.randint(len(particles), (rows,), generator=generator))
    x = part.x.double()
    covariance = torch.cov(x.T, aweights=part.weight).reshape(x.shape[1], x.shape[1])
    least = float(torch.linalg.eigvalsh(covariance)[0].clamp_min(0).sqrt())
    # not by a matrix product, which leaves a row at 1e-7 from itself instead of 0
    distances = torch.cdist(
        x, particles.rows(slice(0, rows)).x.double(), compute_mode="donot_use_mm_for_euclid_dist"
    )
    positive = torch.where(distances > 0, distances, torch.full_like(distances, math.inf))
    nearest = float(positive.min(dim=1).values.median()) / math.sqrt(2 * x.shape[1])
    return min(least, nearest)


def geometric(
    first: float, growth: float, cap: float, n_blocks: int, *, free_last: bool
) -> tuple[float, ...]:
    """`n_blocks` step sizes, the last one free if asked."""
    n_finite = n_blocks - 1 if free_last else n_blocks

    def size(n: int) -> float:
        try:
            return min(first * growth**n, cap)
        except OverflowError:
            return cap

    return (*(size(n) for n in range(n_finite)), *((math.inf,) if free_last else ()))


def from_finest_scale(scale: float, max_blocks: int, rules: AutomaticRules = AutomaticRules()) -> Schedule:
    """The automatic schedule, from the data's finest scale to gamma = 1, then one free step.

    The first step diffuses by the finest scale and each next one is about sqrt(3) times as long; with fewer
    blocks the growth is larger, not the reach less.
    """
    (smallest, widest), largest = rules.angles, rules.largest
    angle = min(max(scale, smallest), widest)
    first = math.tan(angle) ** 2
    n_finite = 1 + math.ceil(math.log(largest / first) / math.log(rules.growth))
    if max_blocks == 1:
        return Schedule((math.inf,))
    n_finite = min(n_finite, max_blocks - 1)
    if n_finite == 1:  # halfway on the scale of logarithms
        return Schedule((math.sqrt(first * largest), math.inf))
    growth = (largest / first) ** (1 / (n_finite - 1))
    return Schedule(geometric(first, growth, largest, n_finite + 1, free_last=True))


_OPTIONS: dict[str, dict[str, Any]] = {
    "constant": {"value": None, "stop_ratio": published.stop_ratio, "free_last": False},
    "geometric": {
        "first": published.first,
        "growth": published.growth,
        "cap": math.inf,
        "stop_ratio": published.stop_ratio,
        "free_last": False,
    },
    "adaptive": {
        "first": published.first,
        "growth": published.growth,
        "cap": published.cap,
        "eta": published.eta,
        "rounds": published.rounds,
        "stop_ratio": published.stop_ratio,
        "free_last": False,
    },
}


def check_gamma(gamma: object) -> None:
    """Refuse a `gamma` option that `resolve_schedule` could not read.

    Raises:
        InputError: An unknown kind, an unknown key, or a step size that is not > 0.
    """
    if gamma != "auto":
        resolve_schedule(gamma, max_blocks=2, particles=None, generator=None)


def _check_rules(given: dict[str, Any]) -> None:
    for key in ("value", "first", "growth", "cap", "eta"):
        if key in given and not _is_positive(given[key]):
            raise InputError(f"gamma: expected {key} > 0, got {brief(given[key])}")
    ratio, rounds, free_last = given["stop_ratio"], given.get("rounds", 1), given["free_last"]
    if ratio is not None and not _is_positive(ratio):
        raise InputError(f"gamma: expected stop_ratio > 0 or None, got {brief(ratio)}")
    checked_count(rounds, "gamma: rounds", most=published.most_rounds)
    if not isinstance(free_last, bool):
        raise InputError(f"gamma: expected free_last to be true or false, got {brief(free_last)}")


def _is_positive(value: object, *, largest: float = 1e300) -> bool:
    """A number above 0 that can be computed with, or infinity."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value <= largest or value == math.inf


def resolve_schedule(
    gamma: object,
    *,
    max_blocks: int,
    particles: Particles | None,
    generator: torch.Generator | None,
    rules: AutomaticRules = AutomaticRules(),
) -> Schedule:
    """The schedule that the option `gamma` names.

    Arguments:
        gamma: `"auto"`; a number (constant); or a table with `kind` of `"constant"`, `"geometric"` or
            `"adaptive"` and that kind's keys.
        max_blocks: Most blocks, the free one included.
        particles: Samples of p_0, for `"auto"`.
        generator: Source of the rows that `"auto"` looks at.
        rules: How `"auto"` follows from the particles.
    """
    if gamma == "auto":
        if particles is None or generator is None:
            raise InputError("gamma: 'auto' needs the particles that it is chosen from")
        return from_finest_scale(finest_scale(particles, generator, rows=rules.rows), max_blocks, rules)
    if isinstance(gamma, (int, float)) and not isinstance(gamma, bool):
        gamma = {"kind": "constant", "value": gamma}
    kind = gamma.get("kind") if isinstance(gamma, dict) else None
    if not isinstance(gamma, dict) or not isinstance(kind, str) or kind not in _OPTIONS:
        raise InputError(
            f"gamma: expected 'auto', a number > 0, or a table with kind of {sorted(_OPTIONS)}, got"
            f" {brief(gamma)}"
        )
    unknown = set(gamma) - {"kind"} - set(_OPTIONS[kind])
    if unknown:
        raise InputError(
            f"gamma: unknown keys {sorted(unknown)} for {kind!r}; known: {sorted(_OPTIONS[kind])}"
        )
    given = {**_OPTIONS[kind], **{key: value for key, value in gamma.items() if key != "kind"}}
    _check_rules(given)
    given |= {key: float(given[key]) for key in ("value", "first", "growth", "cap", "eta") if key in given}
    if kind == "constant":
        given |= {"first": given["value"], "growth": 1.0, "cap": math.inf}
    gammas = geometric(
        given["first"], given["growth"], given["cap"], max_blocks, free_last=given["free_last"]
    )
    return Schedule(
        gammas,
        stop_ratio=given["stop_ratio"],
        rounds=given.get("rounds", 1),
        eta=given.get("eta", published.eta),
        cap=given["cap"],
    )
