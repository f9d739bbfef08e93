"""Concentric rings in the plane, each with a Gaussian profile across it.

    q(x) = (1/K) Σ_k exp(-(|x| - R_k)²/(2 s²)) / Z_k,
    Z_k  = 2π ∫_0^∞ r exp(-(r - R_k)²/(2 s²)) dr = 2π [s² exp(-R_k²/(2s²)) + R_k s √(2π) Φ(R_k/s)]

with Φ the standard normal distribution function. V = -log q, Z = 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from jkoflow.errors import InputError
from jkoflow.laws.base import Law, check_points, checked_draws

__all__ = ["Rings"]


@dataclass(frozen=True)
class Rings(Law):
    """Rings of equal weight.

    Arguments:
        radii: R_k > 0.
        std: s > 0, of the profile across a ring.

    Raises:
        InputError: No ring, or a radius or width that is not positive.
    """

    radii: tuple[float, ...] = (0.75, 1.5, 2.25, 3.0)
    std: float = 0.08
    dim: int = field(default=2, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "radii", tuple(float(radius) for radius in self.radii))
        if not self.radii or not all(0 < number < math.inf for number in (*self.radii, self.std)):
            raise InputError(f"radii, std: expected positive numbers, got {self.radii} and {self.std}")

    @property
    def lam(self) -> None:
        """None: V is not convex."""
        return

    @property
    def log_normaliser(self) -> float:
        """0: V is -log q itself."""
        return 0.0

    def potential(self, x: Tensor) -> Tensor:
        check_points(x, self.dim)
        radii = torch.tensor(self.radii, dtype=torch.float64)
        log_heights = -(math.log(2 * math.pi * len(radii)) + self._mass_within(math.inf, radii).log())
        # The norm's gradient at the origin is 0, not the nan of a square root's.
        distance = torch.linalg.vector_norm(x, dim=-1, keepdim=True) - radii.to(x)
        return -torch.logsumexp(log_heights.to(x) - 0.5 * (distance / self.std) ** 2, dim=-1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        n = checked_draws(n, self.dim)
        ring = torch.randint(len(self.radii), (n,), generator=generator)
        level, turn = torch.rand(2, n, generator=generator, dtype=torch.float64)
        radius = self._radius_at(level, torch.tensor(self.radii, dtype=torch.float64)[ring])
        angle = 2 * math.pi * turn
        return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)

    def _mass_within(self, r: Tensor | float, ring: Tensor) -> Tensor:
        """∫_0^r u exp(-(u - R)²/(2s²)) du in closed form, for each R in `ring`."""
        s = self.std
        upper, lower = (torch.as_tensor(r, dtype=torch.float64) - ring) / s, -ring / s
        profile = torch.exp(-0.5 * lower**2) - torch.exp(-0.5 * upper**2)
        normal = torch.special.ndtr(upper) - torch.special.ndtr(lower)
        mass: Tensor = s**2 * profile + ring * s * math.sqrt(2 * math.pi) * normal
        return mass

    def _radius_at(self, level: Tensor, ring: Tensor, *, halvings: int = 60) -> Tensor:
        """The radius within which a share `level` of each ring lies, by bisection.

        60 halvings take the bracket of 40 s below the spacing of float64 numbers.
        """
        mass = level * self._mass_within(math.inf, ring)
        low, high = torch.zeros_like(ring), ring + 40 * self.std
        for _ in range(halvings):
            middle = (low + high) / 2
            below = self._mass_within(middle, ring) < mass
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2
