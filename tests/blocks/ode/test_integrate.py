"""The Runge-Kutta map: order four by exponent, backward in time, and beside the adaptive diagnostic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from jkoflow.blocks.ode.integrate import State, dopri5, rk4
from oracles.blocks import make_velocity, points


def slope(steps: list[int], errors: list[float]) -> float:
    """The exponent p of error = C steps^-p, by least squares on logarithms."""
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


def test_order_is_four_on_a_known_solution() -> None:
    """dx/dt = -(1 + t) x^2, so 1/x(1) = 1/x(0) + 3/2."""
    x = torch.tensor([[1.3]], dtype=torch.float64)
    steps = [4, 8, 16, 32, 64]
    ends = [rk4(lambda t, s: (-(1 + t) * s[0].square(),), (x,), steps=n)[0] for n in steps]
    errors = [abs(float(end) - 1 / (1 / 1.3 + 1.5)) for end in ends]
    assert slope(steps, errors) == pytest.approx(4, abs=0.25)


def test_order_is_four_on_a_network_by_step_doubling() -> None:
    field = make_velocity(3, seed=2, frequency_scale=0.3).requires_grad_(False)
    x = points(50, 3)

    def end(steps: int) -> Tensor:
        return rk4(lambda t, s: (field(s[0], t),), (x,), steps=steps)[0]

    steps = [8, 16, 32, 64]
    errors = [float((end(n) - end(2 * n)).norm()) for n in steps]
    assert slope(steps, errors) == pytest.approx(4, abs=0.3)


def test_polynomials_of_degree_three_in_time_are_exact_in_one_step() -> None:
    """Simpson's weights: dx/dt = 4 t^3 + 3 t^2 ends at 2 exactly; degree four is not."""
    zero = (torch.zeros(1, 1, dtype=torch.float64),)
    cubic = rk4(lambda t, s: (torch.full_like(s[0], 4 * t**3 + 3 * t**2),), zero, steps=1)[0]
    quartic = rk4(lambda t, s: (torch.full_like(s[0], 5 * t**4),), zero, steps=1)[0]
    assert float(cubic) == pytest.approx(2, abs=1e-14)
    assert abs(float(quartic) - 1) > 1e-3


def test_reverse_runs_from_one_to_zero() -> None:
    """dx/dt = 2t: forward adds 1, backward takes it away; at the same times, not at mirrored ones."""

    def times(t: float, state: State) -> State:
        return (torch.full_like(state[0], 2 * t),)

    start = (torch.tensor([[5.0]], dtype=torch.float64),)
    assert float(rk4(times, start, steps=3)[0]) == pytest.approx(6)
    assert float(rk4(times, start, steps=3, reverse=True)[0]) == pytest.approx(4)
    seen: list[float] = []
    rk4(lambda t, s: (seen.append(t), s)[1], start, steps=2, reverse=True)
    assert seen == pytest.approx([1, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25, 0])


def test_reverse_of_many_steps_undoes_the_flow() -> None:
    field = make_velocity(2, seed=2).requires_grad_(False)
    x = points(20, 2)
    there = rk4(lambda t, s: (field(s[0], t),), (x,), steps=80)
    torch.testing.assert_close(
        rk4(lambda t, s: (field(s[0], t),), there, steps=80, reverse=True)[0], x, atol=1e-6, rtol=0
    )


def test_every_part_of_the_state_is_advanced() -> None:
    """Augmented state: y' = x along x' = x, so y(1) = x(1) - x(0)."""
    x = torch.tensor([[0.7]], dtype=torch.float64)
    end, total = rk4(lambda t, s: (s[0], s[0]), (x, torch.zeros_like(x)), steps=2)
    torch.testing.assert_close(total, end - x, atol=1e-14, rtol=0)


@pytest.mark.parametrize("reverse", [False, True])
def test_adaptive_diagnostic_agrees_with_many_steps(reverse: bool) -> None:
    field = make_velocity(2, seed=2).requires_grad_(False)
    x = points(20, 2)
    many = rk4(lambda t, s: (field(s[0], t),), (x,), steps=200, reverse=reverse)[0]
    adaptive = dopri5(lambda t, at: field(at, t), x, tolerance=1e-9, reverse=reverse)
    torch.testing.assert_close(adaptive, many, atol=1e-6, rtol=0)
    one = rk4(lambda t, s: (field(s[0], t),), (x,), steps=1, reverse=reverse)[0]
    assert float((one - adaptive).abs().max()) > 1e-3
