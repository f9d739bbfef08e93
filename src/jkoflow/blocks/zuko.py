r"""Any transform of zuko as a block: an autoregressive or coupling map with its own log-determinant.

    T(x) = f_theta(x | c),    log|det dT(x)| from the transform,    T^{-1} by the transform, then refined

The hyper-networks' last layers start at zero, where splines and affine transforms are the identity. Needs
the extra `jkoflow[zuko]`. Source: zuko (Rozet et al., https://zuko.readthedocs.io); neural spline flows,
Durkan et al. (2019), arXiv 1906.04032; masked autoregressive flows, Papamakarios et al. (2017), arXiv
1705.07057.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from types import ModuleType
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from jkoflow.blocks.base import Block, Inverse, Shape, default_tolerance
from jkoflow.blocks.family import PLAIN, Family, Start
from jkoflow.blocks.inverse import InverseSearch
from jkoflow.errors import InputError
from jkoflow.particles import Particles
from jkoflow.storage.entries import brief, checked_whole, is_whole, require_names

__all__ = ["ZukoBlock", "ZukoFamily"]

_DRAWING = threading.Lock()


def _flows() -> ModuleType:
    """zuko's flows; loaded when a block needs them."""
    try:
        import zuko.flows as flows
    except ImportError:
        raise InputError("block 'zuko': needs the package zuko; pip install 'jkoflow[zuko]'") from None
    return flows  # type: ignore[no-any-return]  # zuko is untyped


def _flow_class(transform: object) -> Any:
    """The flow of zuko of that name.

    Raises:
        InputError: There is none.
    """
    flows = _flows()
    found = getattr(flows, transform, None) if isinstance(transform, str) else None
    if not isinstance(found, type) or not issubclass(found, flows.Flow) or found is flows.Flow:
        raise InputError(
            f"block 'zuko': expected transform to be a flow of zuko.flows, got {brief(transform)}"
        )
    return found


_MISMATCH = (
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    AssertionError,
)
"""What zuko and torch raise for options that no network can be made by."""


class ZukoBlock(Block):
    """The transform of a flow of zuko, from its data to its noise.

    Arguments:
        dim: d.
        context_dim: c; 0 for none.
        gamma: Step size of the proximal step; infinite for a free step.
        transform: Name of the flow in `zuko.flows`, such as `"NSF"`, `"MAF"` or `"NICE"`.
        options: The flow's own arguments, such as `transforms` and `hidden_features`.

    Raises:
        InputError: zuko is not installed, has no such flow, or the flow has no such option.
    """

    def __init__(self, *, dim: int, gamma: float, context_dim: int = 0, transform: Any, options: Any) -> None:
        super().__init__(dim=dim, gamma=gamma)
        make = _flow_class(transform)
        if not isinstance(options, Mapping):
            raise InputError(f"block 'zuko': expected options to be a table, got {brief(options)}")
        try:
            self.flow = make(dim, context_dim, **options)
            self._map(torch.zeros(1, context_dim) if context_dim else None)  # some options are only read here
        except _MISMATCH as mismatch:
            raise InputError(f"block 'zuko': options of {transform}: {mismatch}") from None
        self.context_dim, self.transform, self.options = context_dim, transform, dict(options)

    @classmethod
    def from_config(cls, settings: dict[str, Any]) -> Self:
        with _weights_drawn_by(0):
            return cls(**settings)

    def to_config(self) -> dict[str, Any]:
        """Plain settings; the hyper-networks' numbers are in the state."""
        return {
            "kind": "zuko",
            "dim": self.dim,
            "context_dim": self.context_dim,
            "gamma": None if self.free else self.gamma,
            "transform": self.transform,
            "options": self.options,
        }

    @classmethod
    def stored_shapes(
        cls, settings: Mapping[str, Any], found: Mapping[str, Shape]
    ) -> Iterable[tuple[str, Shape]]:
        require_names(settings, {"dim", "gamma", "transform", "options"}, optional={"context_dim"})
        most = sum(math.prod(shape) for shape in found.values())
        for name, least in (("dim", 1), ("context_dim", 0)):
            checked_whole(settings, name, least=least, most=most, default=0)
        _require_affordable(settings["options"], len(found), most)
        return super().stored_shapes(settings, found)

    @property
    def can_fold(self) -> bool:
        """False: each column goes through an increasing function."""
        return False

    def push(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        y: Tensor = self._map(context)(x)
        return y

    def push_with_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y, log_det = self._map(context).call_and_ladj(x)
        return y, log_det

    def push_with_jacobian(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """T(x) and dT(x), a row of it from each column's gradient."""
        differentiated = torch.is_grad_enabled()
        with torch.enable_grad():
            at = x if x.requires_grad else x.detach().requires_grad_(True)
            y = self.push(at, context)
            rows = [
                torch.autograd.grad(column.sum(), at, retain_graph=True, create_graph=differentiated)[0]
                for column in y.unbind(dim=1)
            ]
        jacobian = torch.stack(rows, dim=1)
        return (y, jacobian) if differentiated else (y.detach(), jacobian.detach())

    def push_with_trace(self, x: Tensor, context: Tensor | None, probes: Tensor) -> tuple[Tensor, Tensor]:
        """The same as `push_with_log_det`: there is no trace to integrate."""
        del probes
        return self.push_with_log_det(x, context)

    def invert(self, y: Tensor, context: Tensor | None = None, *, tolerance: float | None = None) -> Inverse:
        """The transform's own inverse, refined until the round trip meets the tolerance."""
        goal = default_tolerance(y.dtype) if tolerance is None else tolerance
        return InverseSearch().invert(self, lambda z, given: self._map(given).inv(z), y, context, goal)

    def _map(self, context: Tensor | None) -> Any:
        return self.flow(context).transform


@dataclass(frozen=True)
class ZukoFamily(Family):
    """Blocks that are a flow of zuko, trained by descent on the proximal objective.

    Arguments:
        transform: See `ZukoBlock`.
        options: See `ZukoBlock`.

    Raises:
        InputError: zuko is not installed, or has no such flow; options that are no table.
    """

    transform: str = "NSF"
    options: Mapping[str, Any] = field(default_factory=lambda: {"transforms": 1})
    block: ClassVar[type[Block]] = ZukoBlock

    def __post_init__(self) -> None:
        _flow_class(self.transform)
        if not isinstance(self.options, Mapping):
            raise InputError(f"block 'zuko': expected options to be a table, got {brief(self.options)}")

    def new(
        self, rows: Particles, gamma: float, start: Start = PLAIN, *, generator: torch.Generator
    ) -> ZukoBlock:
        del start
        with _weights_drawn_by(int(torch.randint(2**31, (1,), generator=generator))):
            block = ZukoBlock(
                dim=rows.dim,
                context_dim=rows.context_dim,
                gamma=gamma,
                transform=self.transform,
                options=self.options,
            )
        _end_at_zero(block)
        like = rows.rows(slice(0, 0)).x
        return block.to(device=like.device, dtype=like.dtype)


def _require_affordable(options: object, tensors: int, numbers: int) -> None:
    """Refuse, as a ValueError, options of networks that have more tensors or numbers than there are.

    Transforms and layers have tensors of their own, and each pair of layers a matrix.
    """
    entries = options if isinstance(options, Mapping) else {}
    for name, value in entries.items():
        widths = value if isinstance(value, list | tuple) else [value]
        wholes = [width for width in widths if is_whole(width)]
        most = tensors if name in ("transforms", "passes") else numbers
        if len(widths) > tensors or max([*wholes, *(a * b for a, b in pairwise(wholes))], default=0) > most:
            raise ValueError(f"options: {brief(name)} of {brief(value)} asks for more numbers than are there")
        _require_affordable(value, tensors, numbers)


@contextmanager
def _weights_drawn_by(seed: int) -> Iterator[None]:
    """zuko draws its weights from torch's global generator: seed it, and put it back; one fit at a time."""
    with _DRAWING, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed those of devices too
        yield


@torch.no_grad()
def _end_at_zero(block: ZukoBlock) -> None:
    """Give the last layer of every hyper-network weights and biases of zero."""
    for module in block.modules():
        layers = [layer for layer in module.children() if isinstance(layer, nn.Linear)]
        if isinstance(module, nn.Sequential) and layers:
            layers[-1].weight.zero_()
            if layers[-1].bias is not None:
                layers[-1].bias.zero_()
