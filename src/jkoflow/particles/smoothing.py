"""Short diffusion of the data, so that a law without a density gets one: P → p_0 = rho_t.

    ornstein_uhlenbeck:  X_t = e^{-t} X + (1 - e^{-2t})^{1/2} Z,
                         W2²(P, rho_t) <= (1-e^{-t})² M2 + (1-e^{-2t}) d <= t (M2 + 2d),    M2 = E|X|²
    brownian:            X_t = X + (2t)^{1/2} Z,
                         W2²(P, rho_t) <= 2 t d

To be within a W2 distance delta, take t = delta²/(M2 + 2d), or delta²/(2d) for the Brownian one. Source:
Lemma C.1 and Corollary 5.3 of Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582. All is in standardised units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from jkoflow.errors import InputError
from jkoflow.particles import Particles
from jkoflow.storage.entries import brief
from jkoflow.storage.scratch import CHUNK_ROWS
from jkoflow.world import ALONE, World

__all__ = ["KINDS", "Smoothing", "resolve_smoothing", "smooth"]

KINDS = ("ornstein_uhlenbeck", "brownian")
"""Names of the diffusions."""


@dataclass(frozen=True)
class Smoothing:
    """How far the data are diffused before the first block: by a time, or by a W2 distance.

    Arguments:
        kind: `"ornstein_uhlenbeck"` or `"brownian"`.
        time: t > 0, in the units of gamma; either this or `delta`.
        delta: Bound > 0 on W2(P, rho_t) in standardised units.

    Raises:
        InputError: An unknown kind, both or neither of `time` and `delta`, or one that is not positive.
    """

    kind: str = "ornstein_uhlenbeck"
    time: float | None = None
    delta: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"smoothing: expected kind {' or '.join(KINDS)}, got {brief(self.kind)}")
        if (self.time is None) == (self.delta is None):
            raise InputError(
                f"smoothing: expected either time or delta, got {brief(self.time)} and {brief(self.delta)}"
            )
        amount = self.time if self.time is not None else self.delta
        if not _is_positive(amount):
            name = "time" if self.time is not None else "delta"
            raise InputError(f"smoothing: expected {name} to be a number above 0, got {brief(amount)}")

    def resolve(self, x: Tensor, weight: Tensor | None = None, world: World = ALONE) -> Smoothing:
        """The same smoothing with its time fixed by the rows x, shape `(n, d)`; as it is where it has a time.

        A distance becomes the time that the lemma gives for it; M2 is the mean of |x|² over the rows, by
        their weights `(n,)` where they have any. Where several processes have the rows among them, x are
        those of this one, and the weights those of all.
        """
        if self.delta is None:
            return self
        dim = x.shape[-1]
        spread = 2 * dim + (_second_moment(x, weight, world) if self.kind == "ornstein_uhlenbeck" else 0.0)
        return Smoothing(self.kind, time=self.delta**2 / spread)

    def w2_bound(self, x: Tensor) -> float:
        """Bound on W2(P, rho_t) (not squared), standardised units; the sharper of the lemma's two for OU.

        Arguments:
            x: Rows of P, shape `(n, d)`.
        """
        time, dim = self._time(x), x.shape[-1]
        if self.kind == "brownian":
            return math.sqrt(2 * time * dim)
        return math.sqrt(math.expm1(-time) ** 2 * _second_moment(x) - math.expm1(-2 * time) * dim)

    def perturb(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """One draw of rho_t from each row: shape, dtype and device of x.

        Arguments:
            x: Rows of P, shape `(n, d)`.
            generator: CPU generator of the noise, which is drawn in float64 and then cast.
        """
        time = self._time(x)
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
        if self.kind == "brownian":
            return x + math.sqrt(2 * time) * noise
        return math.exp(-time) * x + math.sqrt(-math.expm1(-2 * time)) * noise

    def apply(self, particles: Particles, generator: torch.Generator) -> Particles:
        """p_0 as particles; each row keeps its context."""
        return Particles(self.perturb(particles.x, generator), particles.context)

    def _time(self, x: Tensor) -> float:
        time = self.resolve(x).time
        assert time is not None
        return time


def smooth(
    x: Tensor,
    *,
    time: float | None = None,
    delta: float | None = None,
    kind: str = "ornstein_uhlenbeck",
    generator: torch.Generator,
) -> Tensor:
    """Diffuse rows x, shape `(n, d)`, for a time t or to within a W2 distance delta; see `Smoothing`.

    Raises:
        InputError: As `Smoothing`.
    """
    return Smoothing(kind, time, delta).perturb(x, generator)


def resolve_smoothing(option: float | Mapping[str, object] | Smoothing | None) -> Smoothing | None:
    """What a user may pass as `smoothing`: nothing, a W2 distance delta, the fields of `Smoothing`, or one.

    Raises:
        InputError: Anything else, an unknown field, or numbers that `Smoothing` refuses.
    """
    if option is None or isinstance(option, Smoothing):
        return option
    if isinstance(option, Mapping):
        known = [field.name for field in fields(Smoothing)]
        unknown = sorted(str(name) for name in option if name not in known)
        if unknown:
            raise InputError(f"smoothing: expected keys among {', '.join(known)}, got {', '.join(unknown)}")
        return Smoothing(**option)  # type: ignore[arg-type]  # `Smoothing` checks their types
    if isinstance(option, bool) or not isinstance(option, int | float):
        raise InputError(
            "smoothing: expected None, a W2 distance, or a table with time or delta,"
            f" got {type(option).__name__}"
        )
    return Smoothing(delta=option)


def _is_positive(number: object, *, largest: float = 1e100) -> bool:
    """A number above 0 whose square can be computed with."""
    return isinstance(number, int | float) and not isinstance(number, bool) and 0 < number <= largest


def _second_moment(x: Tensor, weight: Tensor | None = None, world: World = ALONE) -> float:
    """M2(P) = E|X|², estimated by the rows' mean in float64."""
    squares = torch.cat(
        [part.to(torch.float64).square().sum(-1) for part in torch.split(x.detach(), CHUNK_ROWS)]
    )
    squares = world.gather(squares)
    return float(squares.mean() if weight is None else (weight * squares).sum() / weight.sum())
