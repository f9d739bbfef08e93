"""The inverse of any map from an approximate inverse: a bent map whose guess is coarse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jkoflow.blocks import Block, Inverse
from jkoflow.blocks.inverse import InverseSearch
from oracles.blocks import points


class BentBlock(Block):
    """T(x) = x + s sin x in each coordinate: no neural ODE, one to one for s < 1."""

    def __init__(self, strength: float) -> None:
        super().__init__(dim=2, gamma=1.0)
        self.strength = strength

    def push(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return x + self.strength * x.sin()

    def push_with_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.push(x), (1 + self.strength * x.cos()).log().sum(dim=1)

    def push_with_jacobian(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.push(x), torch.diag_embed(1 + self.strength * x.cos())

    def push_with_trace(self, x: Tensor, context: Tensor | None, probes: Tensor) -> tuple[Tensor, Tensor]:
        return self.push_with_log_det(x)

    def invert(self, y: Tensor, context: Tensor | None = None, *, tolerance: float | None = None) -> Inverse:
        return InverseSearch().invert(self, lambda z, context: z - self.strength * z.sin(), y, context, 1e-10)

    def to_config(self) -> dict[str, object]:
        return {"kind": "bent"}


@pytest.mark.parametrize("strength", [0.1, 0.5, 0.9])
def test_every_row_is_found_to_the_goal(strength: float) -> None:
    block, x = BentBlock(strength), 2 * points(300, 2)
    found = block.invert(block.push(x))
    assert float(found.error.max()) <= 1e-10
    torch.testing.assert_close(found.x, x, atol=1e-7, rtol=0)


def test_a_row_does_not_depend_on_the_others() -> None:
    block, y = BentBlock(0.9), 2 * points(130, 2)
    together = block.invert(y).x
    assert torch.equal(block.invert(y[:70]).x, together[:70])


def test_error_of_a_row_that_is_not_found_is_told() -> None:
    """No step is allowed: the guess is returned with its own error."""
    block, y = BentBlock(0.5), points(20, 2)
    search = InverseSearch(corrections_of_all=0, corrections=0, newton_steps=0)
    guess = y - 0.5 * y.sin()
    found = search.invert(block, lambda z, context: z - 0.5 * z.sin(), y, None, 1e-10)
    torch.testing.assert_close(found.x, guess)
    torch.testing.assert_close(found.error, (block.push(guess) - y).norm(dim=1))
