"""Appendix D at a tiny size: the estimators against what is known there in closed form."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch

from jkoflow.blocks import NeuralODEBlock
from jkoflow.first_order import norm_of
from jkoflow.laws import StandardNormal
from oracles.blocks import generator
from test_benchmarks import load

SCRIPT = Path(__file__).parents[2] / "experiments" / "first_order_condition.py"


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load(SCRIPT, monkeypatch)


def shift_block(experiment: ModuleType, shift: float) -> NeuralODEBlock:
    """The published network with the constant field (shift, shift)."""
    velocity = experiment.PublishedVelocity(dim=2, layers=2, generator=generator(0))
    with torch.no_grad():
        velocity.layers[-1].weight.zero_()
        velocity.layers[-1].bias.fill_(shift)
    return NeuralODEBlock(velocity, gamma=experiment.GAMMA, steps=5)


def test_published_network_has_the_derivatives_it_says(experiment: ModuleType) -> None:
    velocity = experiment.PublishedVelocity(dim=2, layers=3, generator=generator(1)).double()
    x = torch.randn(6, 2, generator=generator(2), dtype=torch.float64)
    tangents = torch.eye(2, dtype=torch.float64)[:, None, :].expand(2, 6, 2)
    value, slopes = velocity.with_tangents(x, 0.4, tangents)
    torch.testing.assert_close(value, velocity(x, 0.4))
    numeric = [(velocity(x + h, 0.4) - velocity(x - h, 0.4)) / 2e-6 for h in 1e-6 * tangents[:, 0]]
    torch.testing.assert_close(slopes, torch.stack(numeric), atol=1e-7, rtol=1e-6)
    assert not torch.allclose(velocity(x, 0.9), value)


@pytest.mark.parametrize(("shift", "square"), [(0.0, 18.0), (-1.0, 0.0), (-0.9, 2 * 0.3**2)])
def test_constant_shift_has_the_residual_in_closed_form(
    experiment: ModuleType, shift: float, square: float
) -> None:
    """T = x + s in each coordinate: xi = 3 + s + s/gamma, 0 at s = -1, by exact score and samples alone."""
    sizes = (300, 300, 3000)
    numbers, (after, _, xi) = experiment.residual_row(
        0, 0, shift_block(experiment, shift), experiment.clouds(0, sizes)
    )
    torch.testing.assert_close(xi, torch.full_like(xi, 3 + 3 * shift), atol=1e-4, rtol=0)
    assert numbers["exact"] == pytest.approx(square, abs=1e-6 + 1e-4 * square)
    assert numbers["variational"] == pytest.approx(square, abs=0.02 + 4 * numbers["variational_se"])
    assert numbers["transport_gap"] == 0
    assert numbers["kernel"] > numbers["exact"]
    assert after.shape == xi.shape == (300, 2)


def test_published_norm_is_not_the_norm(experiment: ModuleType) -> None:
    """At xi = (3, 3): sqrt(2 · 81) = 12.7 for 18; the same where xi has one coordinate."""
    xi = torch.full((5, 2), 3.0)
    assert experiment.published_norm(xi) == pytest.approx(math.sqrt(162))
    assert norm_of(xi).square == pytest.approx(18)
    one = torch.tensor([[2.0, 0.0]])
    assert experiment.published_norm(one) == pytest.approx(4)


def test_baseline_is_far_from_nothing(experiment: ModuleType) -> None:
    found = experiment.baseline(2, 500)
    assert 0.3 < found["kernel"] < 2
    assert found["published"] < found["kernel"]
    assert found["kernel_sd"] > 0


def test_start_of_the_training_is_the_same_loss_by_hand(experiment: ModuleType) -> None:
    rows = experiment.training_rows(3)
    assert rows.shape == (10_000, 2)
    expected = float(StandardNormal(2).potential(rows - 1).mean()) + 2
    assert experiment.exact_loss(3) == pytest.approx(expected, rel=1e-6)
    assert expected == pytest.approx(7, abs=0.15)


def test_it_publishes_a_falling_residual(experiment: ModuleType, tmp_path: Path) -> None:
    sizes = ["--batch", "100", "--cloud", "150", "--held-out", "400", "--repetitions", "1"]
    page = tmp_path / "docs" / "experiments" / "first_order_condition.md"
    page.parent.mkdir(parents=True)
    page.write_text("".join(f"<!-- table {key} -->\n<!-- end -->\n" for key in ("end", "course", "baseline")))
    experiment.main(
        ["--folder", str(tmp_path), "--seeds", "1", "--iterations", "20", "--layers", "2", *sizes]
    )
    record = json.loads((tmp_path / "experiments" / "results" / "first_order_condition.json").read_text())
    rows = record["rows"]
    assert [row["iteration"] for row in rows] == [0, 20]
    assert rows[-1]["exact"] < 0.9 * rows[0]["exact"]
    for row in rows:
        assert 0.5 <= row["eps_ratio"] <= 2
        assert row["variational"] == pytest.approx(row["exact"], rel=0.25)
    assert (tmp_path / "docs" / "experiments" / "first_order_condition.png").stat().st_size > 10_000
    assert page.read_text().count("\n| ---") == 3
