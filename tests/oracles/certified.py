"""Twenty certified models, from good to broken, and what no certificate may say of any of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jkoflow import JKOFlow
from jkoflow.blocks import AffineBlock, MixtureBlock
from jkoflow.certify import Certificates, Claim, Evidence, certify
from jkoflow.flow import Flow
from jkoflow.laws import GaussianMixture, StandardNormal
from jkoflow.particles import Particles
from oracles.blocks import generator, make_velocity, mixture_numbers
from oracles.gaussian_flows import gaussian_flow

__all__ = ["CERTIFIED", "contradictions", "ripples"]


def _rows(n: int, dim: int = 2, *, std: float = 1.0, mean: float = 0.0, seed: int = 1) -> Particles:
    return Particles(mean + std * torch.randn(n, dim, generator=generator(seed), dtype=torch.float64))


def _identity(dim: int = 2, **options: Any) -> Flow:
    return Flow(StandardNormal(dim), [AffineBlock(dim=dim, **options)]).double()


def ripples(n: int = 2000, *, seed: int = 3) -> Tensor:
    """Two columns, of which the second has two narrow modes: far from normal, with moments near it."""
    source = generator(seed)
    x = torch.randn(n, 2, generator=source, dtype=torch.float64)
    side = torch.randint(0, 2, (n,), generator=source) * 2.0 - 1
    return torch.stack([x[:, 0], side + 0.05 * x[:, 1]], dim=1)


class _WrongDensity(AffineBlock):
    """Its log-determinant is too large by 0.7 nats."""

    def push_with_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y, log_det = super().push_with_log_det(x, context)
        return y, log_det + 0.7


def _closed(shift: float = 0.0, gamma: float | None = None) -> Evidence:
    weights, means, covariances = mixture_numbers(3, 2, seed=4)
    block = MixtureBlock.of(GaussianMixture(weights, means + shift, covariances=covariances))
    first = [] if gamma is None else [AffineBlock(dim=2, gamma=gamma)]
    rows = GaussianMixture(weights, means, covariances=covariances).sample(1500, generator(6))
    return Evidence(Flow(StandardNormal(2), [*first, block]).double(), Particles(rows.double()))


def _network(steps: int, *, gamma: float = 0.5) -> Evidence:
    from jkoflow.blocks import NeuralODEBlock

    block = NeuralODEBlock(make_velocity(2, seed=1, strength=0.5, radius=4.0), gamma=gamma, steps=steps)
    return Evidence(Flow(StandardNormal(2), [block.requires_grad_(False)]), _rows(1200))


def _fitted(n: int, **options: Any) -> Certificates:
    """A fit to two moons' like rows, judged by fresh ones; by the quick recipe where the test uses it."""
    rng = np.random.default_rng(5)
    angle = rng.uniform(0, math.pi, 2 * n)
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1) + 0.1 * rng.normal(size=(2 * n, 2))
    return JKOFlow(random_state=0, **options).fit(x[:n]).certify(x[n:])


def _gaussian(gammas: tuple[float, ...], **options: Any) -> Evidence:
    return gaussian_flow(2, gammas, **options).evidence(1500)


@dataclass(frozen=True)
class _Case:
    """One certified model; `quick` ones are looked at by the quick suite."""

    name: str
    make: Callable[[], Evidence | Certificates]
    quick: bool = False

    def certified(self) -> Certificates:
        """Its certificates."""
        made = self.make()
        return certify(made) if isinstance(made, Evidence) else made


CERTIFIED = (
    _Case("the right Gaussian", lambda: Evidence(_identity(), _rows(1500)), quick=True),
    _Case("a Gaussian twice too wide", lambda: Evidence(_identity(), _rows(1500, std=0.5))),
    _Case("a Gaussian far off", lambda: Evidence(_identity(), _rows(800, mean=6.0)), quick=True),
    _Case("ripples, one free step", lambda: Evidence(_identity(), Particles(ripples())), quick=True),
    _Case("ripples, one step", lambda: Evidence(_identity(gamma=0.5), Particles(ripples())), quick=True),
    _Case("fifteen rows", lambda: Evidence(_identity(), _rows(15)), quick=True),
    _Case("a hundred and twenty rows", lambda: Evidence(_identity(gamma=1.0), _rows(120))),
    _Case("no rows", lambda: Evidence(_identity(), None), quick=True),
    _Case("exact steps", lambda: _gaussian((0.5, 1.0, 2.0), eps=0.2)),
    _Case("exact steps and a free one", lambda: _gaussian((0.5, 1.0, math.inf), eps=0.2)),
    _Case("sixteen equal steps", lambda: _gaussian((1.0,) * 16, eps=0.4)),
    _Case("steps that go nowhere", lambda: _gaussian((1e-6, 1e-6))),
    _Case("closed by its law", _closed),
    _Case("closed by another law", lambda: _closed(shift=0.7)),
    _Case("a step, then closed by another law", lambda: _closed(shift=0.7, gamma=0.5)),
    _Case(
        "a wrong log-determinant",
        lambda: Evidence(Flow(StandardNormal(2), [_WrongDensity(dim=2)]).double(), _rows(1200)),
    ),
    _Case("a network that learned nothing", lambda: _network(2)),
    _Case("a map that folds", lambda: _network(1, gamma=math.inf)),
    _Case("fitted, closed", lambda: _fitted(600)),
    _Case("fitted, not closed", lambda: _fitted(600, closing=None)),
    _Case("fitted step by step", lambda: _fitted(600, objective="jko", gamma=1.0, max_blocks=3)),
    _Case("fitted to few rows", lambda: _fitted(60)),
)


def contradictions(found: Certificates) -> list[str]:
    """What of a certificate contradicts something else of it, or itself: nothing, if all is well."""
    kl = found.kl
    low = 0.0 if kl.lower is None else kl.lower
    high = math.inf if kl.upper is None else kl.upper
    wrong = [] if low <= high else [f"the bracket is empty: {low} to {high}"]
    if kl.estimate is not None and not low <= kl.estimate <= high:
        wrong.append(f"the estimate {kl.estimate} is outside {low} to {high}")
    ranges = [("the bracket", low, high)]
    for claim in found.claims:
        wrong += [f"“{claim.claim}” {what}" for what in _by_itself(claim)]
        if claim.stands:
            ranges += [(claim.claim, *ends) for ends in _of_kl(claim)]
    return wrong + [
        f"“{one[0]}” says {one[1:]}, “{two[0]}” says {two[1:]}"
        for one, two in combinations(ranges, 2)
        if one[1] > two[2] or two[1] > one[2]
    ]


def _by_itself(claim: Claim) -> list[str]:
    wrong = []
    bound, measured = claim.bound, claim.measured
    if claim.verdict == "holds" and bound is None and claim.kind == "plug-in":
        wrong.append("holds without a bound")
    if claim.verdict == "told" and bound is not None:
        wrong.append("is told against a bound")
    if claim.stands and any(value is not None and not math.isfinite(value) for value in (bound, measured)):
        wrong.append(f"stands with {measured} against {bound}")
    if claim.verdict == "holds" and bound is not None and measured is not None and measured > bound:
        wrong.append(f"holds at {measured} against {bound}")
    if claim.stands and "plug-in" in claim.assumption and bound == 0:
        wrong.append("holds against a plug-in of 0")
    if not claim.stands and not claim.remedy:
        wrong.append(f"{claim.verdict} without a remedy")
    return wrong


def _of_kl(claim: Claim) -> list[tuple[float, float]]:
    """What a claim says of KL(p_0‖q_0): read off its sentence and its numbers, and what it says itself."""
    said = [(says.low, says.high) for says in claim.says if says.quantity == "kl"]
    bound, interval = claim.bound, claim.interval or (0.0, math.inf)
    if claim.claim.startswith("KL(p_0‖q_0) is at most the bound of"):
        assert bound is not None
        return [*said, (0.0, bound)]
    if claim.claim.startswith("TV(p_0, q_0) is at most the bound of"):
        assert bound is not None
        return [*said, (0.0, 2 * bound**2)]  # the KL by which Pinsker's inequality gave it
    if claim.claim.startswith("KL(p_n‖q)"):
        assert bound is not None
        return [*said, (0.0, bound - min(interval[0], 0.0))] if "before" not in claim.claim else said
    if claim.claim.startswith("KL(p_0‖q_0)"):
        return [*said, interval]
    return said
