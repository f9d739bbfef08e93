"""Short diffusions: the law of what comes out, and the W2 bounds of Lemma C.1."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from jkoflow.errors import InputError
from jkoflow.exact import GaussianState, w2
from jkoflow.particles import Particles
from jkoflow.particles.smoothing import KINDS, Smoothing, resolve_smoothing, smooth


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(n: int = 1000, dim: int = 3) -> Tensor:
    return torch.randn(n, dim, generator=generator(99), dtype=torch.float64) * 1.5 + 0.5


def test_ornstein_uhlenbeck_at_a_point() -> None:
    """From X = a: mean e^{-t} a and variance 1 - e^{-2t}."""
    y = smooth(torch.full((200_000, 1), 2.0, dtype=torch.float64), time=0.3, generator=generator())
    assert float(y.mean()) == pytest.approx(2 * math.exp(-0.3), abs=0.01)
    assert float(y.var()) == pytest.approx(1 - math.exp(-0.6), abs=0.01)


def test_brownian_at_a_point() -> None:
    """From X = a: mean a and variance 2t."""
    x = torch.full((200_000, 1), 2.0, dtype=torch.float64)
    y = smooth(x, time=0.3, kind="brownian", generator=generator())
    assert float(y.mean()) == pytest.approx(2, abs=0.01)
    assert float(y.var()) == pytest.approx(0.6, abs=0.01)


def test_ornstein_uhlenbeck_keeps_the_standard_normal() -> None:
    x = torch.randn(200_000, 2, generator=generator(1), dtype=torch.float64)
    y = smooth(x, time=0.7, generator=generator(2))
    torch.testing.assert_close(y.T.cov(), torch.eye(2, dtype=torch.float64), atol=0.02, rtol=0)


def test_steps_compose() -> None:
    """Diffusing for s and then for t is diffusing for s + t: equal moments."""
    x = torch.full((200_000, 1), 3.0, dtype=torch.float64)
    for kind in KINDS:
        twice = smooth(
            smooth(x, time=0.1, kind=kind, generator=generator(1)),
            time=0.3,
            kind=kind,
            generator=generator(2),
        )
        once = smooth(x, time=0.4, kind=kind, generator=generator(3))
        assert float(twice.mean()) == pytest.approx(float(once.mean()), abs=0.01)
        assert float(twice.var()) == pytest.approx(float(once.var()), abs=0.01)


@pytest.mark.parametrize("dim", [1, 4])
def test_time_of_a_distance_is_the_lemmas(dim: int) -> None:
    x = rows(dim=dim)
    second_moment = float(x.square().sum(-1).mean())
    ou = Smoothing(delta=0.2).resolve(x)
    assert (ou.kind, ou.delta) == ("ornstein_uhlenbeck", None)
    assert ou.time == pytest.approx(0.04 / (second_moment + 2 * dim))
    brownian = Smoothing("brownian", delta=0.2).resolve(x)
    assert (brownian.kind, brownian.delta) == ("brownian", None)
    assert brownian.time == pytest.approx(0.04 / (2 * dim))
    assert ou.resolve(x) is ou


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("delta", [0.01, 0.3, 1.0])
def test_a_distance_is_kept(kind: str, delta: float) -> None:
    """Bound <= delta, and the displacement of the coupling, an upper bound on W2, stays below the bound."""
    x = rows(50_000)
    smoothing = Smoothing(kind, delta=delta)
    bound = smoothing.w2_bound(x)
    assert bound <= delta * (1 + 1e-12)
    moved = float((smoothing.perturb(x, generator()) - x).square().sum(-1).mean()) ** 0.5
    assert moved == pytest.approx(bound, rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("time", [1e-9, 0.01, 0.5, 3.0])
def test_bound_holds_for_gaussians(kind: str, time: float) -> None:
    """W2 between a Gaussian and its diffusion, in closed form."""
    std, mean = 0.4, 1.3
    row = math.sqrt(std**2 + mean**2)
    after = (
        GaussianState([mean * math.exp(-time)], [[std**2 * math.exp(-2 * time) - math.expm1(-2 * time)]])
        if kind == "ornstein_uhlenbeck"
        else GaussianState([mean], [[std**2 + 2 * time]])
    )
    exact = w2(GaussianState([mean], [[std**2]]), after)
    assert exact <= Smoothing(kind, time=time).w2_bound(torch.tensor([[row]], dtype=torch.float64))


def test_bound_is_the_sharper_form() -> None:
    x, t, d = rows(dim=2), 0.5, 2
    second_moment = float(x.square().sum(-1).mean())
    sharper = (1 - math.exp(-t)) ** 2 * second_moment + (1 - math.exp(-2 * t)) * d
    assert Smoothing(time=t).w2_bound(x) == pytest.approx(math.sqrt(sharper))
    assert Smoothing("brownian", time=t).w2_bound(x) == pytest.approx(math.sqrt(2 * t * d))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_rows_in_either_dtype(kind: str, dtype: torch.dtype) -> None:
    x = rows().to(dtype)
    before = x.clone()
    y = smooth(x, time=0.2, kind=kind, generator=generator(5))
    assert y.dtype == dtype
    assert y.shape == x.shape
    assert torch.equal(x, before)
    assert torch.equal(y, smooth(x, time=0.2, kind=kind, generator=generator(5)))
    assert not torch.equal(y, smooth(x, time=0.2, kind=kind, generator=generator(6)))
    double = smooth(x.double(), time=0.2, kind=kind, generator=generator(5))
    torch.testing.assert_close(y.double(), double, atol=1e-5, rtol=1e-5)


def test_duplicate_rows_come_apart() -> None:
    y = smooth(torch.zeros(1000, 2, dtype=torch.float64), delta=0.05, generator=generator())
    assert len(torch.unique(y, dim=0)) == 1000


def test_particles_keep_their_context() -> None:
    particles = Particles(rows(10), torch.arange(10.0)[:, None])
    smoothed = Smoothing(time=0.1).apply(particles, generator(1))
    assert smoothed.context is particles.context
    assert torch.equal(smoothed.x, smooth(particles.x, time=0.1, generator=generator(1)))


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (None, None),
        (0.1, Smoothing(delta=0.1)),
        (1, Smoothing(delta=1.0)),
        ({"time": 0.2, "kind": "brownian"}, Smoothing("brownian", time=0.2)),
        (Smoothing(time=0.3), Smoothing(time=0.3)),
    ],
)
def test_what_a_user_may_pass(
    option: float | Mapping[str, object] | None, expected: Smoothing | None
) -> None:
    assert resolve_smoothing(option) == expected


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (0.0, "delta to be a number above 0, got 0.0"),
        (-1.0, "delta to be"),
        (math.nan, "delta to be"),
        (math.inf, "delta to be"),
        (True, "got bool"),
        ("much", "got str"),
        ({"tiem": 0.1}, "expected keys among kind, time, delta, got tiem"),
        ({}, "either time or delta"),
        ({"time": 0.1, "delta": 0.1}, "either time or delta"),
        ({"time": -0.1}, "time to be a number above 0"),
        ({"time": "0.1"}, "time to be a number above 0"),
        ({"time": 0.1, "kind": "heat"}, "ornstein_uhlenbeck or brownian, got 'heat'"),
    ],
)
def test_refused_by_name(option: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_smoothing(option)
