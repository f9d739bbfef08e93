r"""A multilayer perceptron on x, random Fourier features of x, time and context, tapered far from the data.

    v(x, t) = a w(|x|^2) F([x, sin Wx, cos Wx, t, t^2, c]),

F a SiLU network whose last layer starts at zero (so the block starts as the identity), W fixed Gaussian
frequencies (Tancik et al. 2020, arXiv 2006.10739), a the distance the block is expected to move its
particles, and w a taper in C^2 that is 1 where the particles are and 0 far outside, so that tails are the
base law's. Value and tangents go through each layer in one matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from jkoflow.blocks.finite import require_finite
from jkoflow.blocks.ode.velocity.base import VelocityField
from jkoflow.blocks.ode.velocity.lipschitz import network_lipschitz
from jkoflow.blocks.ode.velocity.perceptron import is_transformed, propagate, propagate_values
from jkoflow.global_state import unset_linear
from jkoflow.storage.entries import checked_whole, require_names
from jkoflow.storage.scratch import CHUNK_ROWS

__all__ = ["MLPVelocity"]


class MLPVelocity(VelocityField):
    """Velocity network with time input; the identity flow until it is trained.

    Arguments:
        dim: d.
        context_dim: c; 0 for none.
        width: Units of each hidden layer.
        depth: Number of hidden layers.
        n_frequencies: Rows of W; 0 for none.
        frequency_scale: Standard deviation of the entries of W, in 1 / standardised unit.
        generator: Source of the initial weights; None where a state dict replaces them, and for the same each
            time.
    """

    def __init__(
        self,
        *,
        dim: int,
        context_dim: int = 0,
        width: int = 128,
        depth: int = 3,
        n_frequencies: int = 32,
        frequency_scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(dim=dim, context_dim=context_dim)
        generator = generator or torch.Generator("cpu")
        self.width, self.depth, self.n_frequencies = width, depth, n_frequencies
        frequencies = frequency_scale * torch.randn(n_frequencies, dim, generator=generator)
        self.register_buffer("frequencies", frequencies)
        self.register_buffer("amplitude", torch.tensor(1.0))
        self.register_buffer("radius", torch.tensor(math.inf))
        sizes = [dim + 2 * n_frequencies + 2 + context_dim, *[width] * depth]
        self.hidden = nn.ModuleList(_seeded_linear(n_in, n_out, generator) for n_in, n_out in pairwise(sizes))
        self.out = unset_linear(sizes[-1], dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    frequencies: Tensor
    amplitude: Tensor
    radius: Tensor

    def to_config(self) -> dict[str, Any]:
        """Plain settings of the architecture; weights, frequencies and range are in the state."""
        return {
            "kind": "mlp",
            "dim": self.dim,
            "context_dim": self.context_dim,
            "width": self.width,
            "depth": self.depth,
            "n_frequencies": self.n_frequencies,
        }

    @classmethod
    def stored_shapes(cls, settings: Mapping[str, Any]) -> Iterable[tuple[str, tuple[int, ...]]]:
        sizes = {"context_dim", "width", "depth", "n_frequencies"}
        require_names(settings, {"dim"} | sizes)
        dim, width = (checked_whole(settings, name, least=1) for name in ("dim", "width"))
        context_dim, depth, count = (
            checked_whole(settings, name) for name in ("context_dim", "depth", "n_frequencies")
        )
        yield from (("frequencies", (count, dim)), ("amplitude", ()), ("radius", ()))
        inputs = dim + 2 * count + 2 + context_dim
        for layer in range(depth):
            yield from ((f"hidden.{layer}.weight", (width, inputs)), (f"hidden.{layer}.bias", (width,)))
            inputs = width
        yield from (("out.weight", (dim, inputs)), ("out.bias", (dim,)))

    def check_numbers(self) -> None:
        """Refuse amplitude and radius that are not above 0, too; without a taper the radius is infinite."""
        require_finite({name: part for name, part in self.state_dict().items() if name != "radius"})
        for name in ("amplitude", "radius"):
            number = float(getattr(self, name))
            if not number > 0:
                raise ValueError(f"tensor {name}: expected a number above 0, got {number:g}")

    def set_reach(self, x: Tensor, *, displacement: float, reach: float = 2.0) -> None:
        """Set the taper's radius from the particles and the amplitude from the expected displacement.

        Arguments:
            x: Training particles, shape `(n, d)`.
            displacement: The amplitude.
            reach: The field is untouched up to this multiple of the largest training radius, and zero from
                twice that on.
        """
        radii = [float(part.square().sum(dim=1).max().sqrt()) for part in torch.split(x, CHUNK_ROWS)]
        largest = max(*radii, math.sqrt(self.dim) + 4.0)
        self.radius.fill_(reach * largest)
        self.amplitude.fill_(displacement)

    def forward(self, x: Tensor, t: Tensor | float, context: Tensor | None = None) -> Tensor:
        """Velocity at `x` `(n, d)` and time `t`, shape `(n, d)`."""
        value = self.amplitude * self.raw(x, t, context)
        return value if self._within(x) else self._taper(x) * value

    def lipschitz(self, *, steps: int = 1, context: Tensor | None = None) -> float:
        return network_lipschitz(self, steps=steps, context=context)

    def raw(self, x: Tensor, t: Tensor | float, context: Tensor | None = None) -> Tensor:
        """The network F alone: no amplitude and no taper; what regression fits."""
        if not (x.requires_grad or is_transformed(x)):
            columns, weights, biases = self._parts(x, t, context)
            return propagate_values(x, columns, self.frequencies, weights, biases)
        phase = x @ self.frequencies.T
        h = torch.cat([x, phase.sin(), phase.cos(), *self._columns(x, t, context)], dim=1)
        for layer in self.hidden:
            h = silu(layer(h))
        return self.out(h)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped

    def with_tangents(
        self, x: Tensor, t: Tensor | float, tangents: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Velocity and directional derivatives, value and tangents stacked into one product per layer."""
        columns, weights, biases = self._parts(x, t, context)
        value, slope = propagate(x, tangents, columns, self.frequencies, weights, biases)
        value, slope = self.amplitude * value, self.amplitude * slope
        if self._within(x):
            return value, slope
        taper, taper_slope = self._taper_with_tangents(x, tangents)
        return taper * value, taper * slope + taper_slope * value

    def _parts(
        self, x: Tensor, t: Tensor | float, context: Tensor | None
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Time and context, `(1, c)` where they are the same for all rows; weights and biases."""
        if context is None and not isinstance(t, Tensor):
            columns = x.new_tensor([[t, t**2]])
        else:
            columns = torch.cat(self._columns(x, t, context), dim=1)
        layers = cast("list[nn.Linear]", [*self.hidden, self.out])
        return columns, [layer.weight for layer in layers], [layer.bias for layer in layers]

    def _columns(self, x: Tensor, t: Tensor | float, context: Tensor | None) -> list[Tensor]:
        time = torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(len(x), 1)
        return [time, time.square(), *([] if context is None else [context])]

    def _within(self, x: Tensor) -> bool:
        """Whether w = 1 and dw = 0 on every row; not said of rows that `torch.func` looks through."""
        return not is_transformed(x) and bool((torch.linalg.vector_norm(x, dim=1) <= self.radius).all())

    def _taper(self, x: Tensor) -> Tensor:
        return _smooth_step(self._beyond(x.square().sum(dim=1, keepdim=True)))

    def _taper_with_tangents(self, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        beyond = self._beyond(x.square().sum(dim=1, keepdim=True))
        inside = ((beyond > 0) & (beyond < 1)).to(x.dtype)
        slope = -30 * (beyond * (1 - beyond)).square() * inside
        radial = 2 * (x * tangents).sum(dim=2, keepdim=True) / (3 * self.radius.square())
        return _smooth_step(beyond), slope * radial

    def _beyond(self, radius_squared: Tensor) -> Tensor:
        """0 up to the radius, 1 from twice the radius on."""
        return ((radius_squared / self.radius.square() - 1) / 3).clamp(0, 1)


def _smooth_step(s: Tensor) -> Tensor:
    """1 at s = 0 and 0 at s = 1, with two vanishing derivatives at both ends."""
    return 1 - s.pow(3) * (10 - 15 * s + 6 * s.square())


def _seeded_linear(n_in: int, n_out: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer with torch's default law of weights, drawn from `generator`."""
    layer = unset_linear(n_in, n_out)
    bound = 1 / math.sqrt(n_in)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer
