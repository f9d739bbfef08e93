"""Step sizes: each kind by its formula, the published re-parametrisation, and the automatic schedule."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from jkoflow.errors import InputError
from jkoflow.particles import Particles
from jkoflow.schedule import (
    Schedule,
    check_gamma,
    finest_scale,
    from_finest_scale,
    geometric,
    published,
    reparametrise,
    resolve_schedule,
)
from oracles.blocks import generator, points


def resolved(gamma: object, max_blocks: int = 5, x: torch.Tensor | None = None) -> Schedule:
    particles = Particles(points(300, 2) if x is None else x)
    return resolve_schedule(gamma, max_blocks=max_blocks, particles=particles, generator=generator())


@pytest.mark.parametrize("gamma", [0.3, 3, {"kind": "constant", "value": 0.3}])
def test_constant(gamma: object) -> None:
    value = 3.0 if gamma == 3 else 0.3
    assert resolved(gamma).gammas == (value,) * 5
    assert resolved(gamma).stop_ratio == published.stop_ratio == 0.01


def test_geometric() -> None:
    schedule = resolved({"kind": "geometric", "first": 0.1, "growth": 2.0, "cap": 0.5})
    assert schedule.gammas == pytest.approx((0.1, 0.2, 0.4, 0.5, 0.5))


def test_free_last_step() -> None:
    schedule = resolved({"kind": "geometric", "first": 0.1, "growth": 2.0, "free_last": True})
    assert schedule.gammas[:-1] == pytest.approx((0.1, 0.2, 0.4, 0.8))
    assert math.isinf(schedule.gammas[-1])
    assert geometric(0.1, 2.0, 1.0, 1, free_last=True) == (math.inf,)


def test_stop_rule_can_be_turned_off() -> None:
    assert resolved({"kind": "constant", "value": 0.1, "stop_ratio": None}).stop_ratio is None


def test_reparametrisation_is_the_published_formula() -> None:
    """gamma_k + eta (S gamma_k / S_k - gamma_k), at most the cap; S = 2 here."""
    gammas = reparametrise([(0.4, 1.0), (1.0, 2.0), (2.0, 3.0)], eta=0.5)
    assert gammas == pytest.approx((0.4 + 0.5 * (0.8 - 0.4), 1.0, 2.0 + 0.5 * (4 / 3 - 2)))
    assert reparametrise([(0.4, 1.0), (1.0, 3.0)], eta=0.5, cap=0.5) == pytest.approx((0.5, 0.5))
    assert reparametrise([(0.4, 1.0), (1.0, 3.0)], eta=1.0) == pytest.approx((0.8, 1.0 * 2 / 3))


def test_two_blocks_are_one_halfway_and_a_free_one() -> None:
    assert from_finest_scale(0.1, 2).gammas == pytest.approx((math.tan(0.1), math.inf))
    assert from_finest_scale(0.1, 1).gammas == (math.inf,)


def test_equal_moves_leave_the_step_sizes() -> None:
    assert reparametrise([(0.1, 0.7), (0.2, 0.7), (0.4, 0.7)]) == pytest.approx((0.1, 0.2, 0.4))


def test_reparametrised_schedule_keeps_the_free_step_and_drops_steps_not_taken() -> None:
    schedule = Schedule((0.4, 1.0, 2.0, math.inf), stop_ratio=0.02, rounds=3, eta=1.0, cap=0.7)
    after = schedule.reparametrised([(0.4, 1.0), (1.0, 3.0)])
    assert after.gammas == pytest.approx((0.7, 2 / 3, math.inf))
    assert (after.stop_ratio, after.eta, after.cap) == (0.02, 1.0, 0.7)


def test_adaptive_is_geometric_in_its_first_round() -> None:
    schedule = resolved(
        {"kind": "adaptive", "first": 0.2, "growth": 1.5, "cap": 0.5, "rounds": 3, "eta": 0.3}
    )
    assert schedule.gammas == pytest.approx((0.2, 0.3, 0.45, 0.5, 0.5))
    assert (schedule.rounds, schedule.eta, schedule.cap) == (3, 0.3, 0.5)


@pytest.mark.parametrize("scale", [1e-6, 0.01, 0.1, 1.0, 50.0])
@pytest.mark.parametrize("max_blocks", [1, 2, 3, 6, 16, 40])
def test_automatic_schedule_grows_and_ends_free(scale: float, max_blocks: int) -> None:
    schedule = resolved("auto", max_blocks, points(300, 2) * scale)
    gammas = schedule.gammas
    assert len(gammas) <= max_blocks
    assert list(gammas) == sorted(gammas)
    assert math.isinf(gammas[-1])
    finite = gammas[:-1]
    assert all(gamma <= 1 + 1e-12 for gamma in finite)
    if len(finite) > 1:
        assert finite[-1] == pytest.approx(1)
        ratios = [later / earlier for earlier, later in itertools.pairwise(finite)]
        assert ratios == pytest.approx([ratios[0]] * len(ratios))
        assert max_blocks < 16 or ratios[0] <= 3 + 1e-9
    assert schedule.stop_ratio is None


def test_finer_data_get_a_smaller_first_step() -> None:
    firsts = [resolved("auto", 20, points(300, 2) * scale).gammas[0] for scale in (0.1, 1.0)]
    assert firsts[0] < firsts[1]


def test_finest_scale_follows_the_scale_of_the_data() -> None:
    x = points(500, 3)
    one = finest_scale(Particles(x), generator())
    assert finest_scale(Particles(10 * x), generator()) == pytest.approx(10 * one)
    assert finest_scale(Particles(x + 100), generator()) == pytest.approx(one, rel=1e-6)


def test_finest_scale_sees_a_thin_direction() -> None:
    x = points(500, 3) * torch.tensor([1.0, 1.0, 1e-3], dtype=torch.float64)
    assert finest_scale(Particles(x), generator()) == pytest.approx(float(x[:, 2].std()), rel=0.01)


def test_finest_scale_survives_duplicates_and_one_column() -> None:
    x = points(300, 1).repeat(2, 1)
    assert 0 < finest_scale(Particles(x), generator()) < float(x.std())
    many = points(5000, 2, torch.float32)
    assert 0 < finest_scale(Particles(many), generator()) < 1


@pytest.mark.parametrize(
    "gamma",
    [
        0,
        -0.5,
        math.nan,
        True,
        None,
        "fast",
        [0.1],
        {},
        {"kind": "linear"},
        {"kind": "constant"},
        {"kind": "constant", "value": 0},
        {"kind": "constant", "value": 0.1, "first": 1.0},
        {"kind": "geometric", "growth": -1},
        {"kind": "geometric", "eta": 0.5},
        {"kind": "adaptive", "eta": "half"},
        {"kind": "adaptive", "cap": 0},
        {"kind": "adaptive", "rounds": 0},
        {"kind": "adaptive", "rounds": 1.5},
        {"kind": "geometric", "stop_ratio": "never"},
        {"kind": "geometric", "stop_ratio": -1.0},
        {"kind": "geometric", "free_last": "yes"},
    ],
    ids=str,
)
def test_unreadable_option_is_refused_in_one_line(gamma: Any) -> None:
    with pytest.raises(InputError, match=r"^gamma: ") as caught:
        check_gamma(gamma)
    assert "\n" not in str(caught.value)


def test_readable_options_pass() -> None:
    for gamma in ("auto", 0.1, 5, {"kind": "geometric"}, {"kind": "adaptive", "rounds": 3}):
        check_gamma(gamma)


def test_automatic_schedule_needs_particles() -> None:
    with pytest.raises(InputError, match="'auto' needs the particles"):
        resolve_schedule("auto", max_blocks=3, particles=None, generator=None)


@pytest.mark.parametrize("gammas", [(), (0.1, 0.0), (math.nan,), (-1.0,)])
def test_schedule_of_impossible_steps_is_refused(gammas: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="gamma: expected step sizes > 0"):
        Schedule(gammas)


def test_finest_scale_of_deferred_particles_makes_no_others() -> None:
    sizes: list[int] = []

    def push(x: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
        sizes.append(len(x))
        return 2 * x

    rows = Particles(points(20_000, 2))
    scale = finest_scale(rows.deferred(push), generator())
    assert sum(sizes) < 10_000
    assert scale == pytest.approx(finest_scale(rows.map(lambda x, context: 2 * x), generator()))
