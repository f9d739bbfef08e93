"""The bracket of the KL against closed forms: one end below the truth, one above, both near."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from jkoflow.blocks import AffineBlock
from jkoflow.certify import Evidence, certify, cross_fitting
from jkoflow.certify import critic as critic_module
from jkoflow.certify import kl as kl_module
from jkoflow.certify import witness as witness_module
from jkoflow.certify.critic import fit_network, fit_trees
from jkoflow.certify.cross_fitting import CrossFitted
from jkoflow.certify.fit_rows import SeenRows
from jkoflow.certify.kl import bracket
from jkoflow.certify.seen import Seen
from jkoflow.flow import Flow
from jkoflow.laws import StandardNormal
from jkoflow.particles import Particles
from jkoflow.steps.descent import DescentSettings
from oracles.blocks import generator
from oracles.quick_critics import use_quick_critics


@pytest.fixture(autouse=True)
def few_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    use_quick_critics(monkeypatch, updates=100, components=(5,))


def normal_flow(std: float, dim: int = 2) -> Flow:
    """The model N(0, std² I)."""
    covariance = std**2 * torch.eye(dim, dtype=torch.float64)
    return Flow(StandardNormal(dim), [AffineBlock.whitening(torch.zeros(dim), covariance).float()])


def normal_rows(n: int, std: float = 1.0, dim: int = 2, seed: int = 3) -> Particles:
    return Particles(std * torch.randn(n, dim, generator=generator(seed)))


@pytest.mark.parametrize("std", [1.5, 0.7])
def test_bracket_of_gaussians_of_other_widths(std: float) -> None:
    """KL(N(0, I)‖N(0, s² I)) = d (1/s² - 1 + 2 log s)/2."""
    truth = 2 * (1 / std**2 - 1 + 2 * math.log(std)) / 2
    found, (lower, estimate, upper, neighbours) = bracket(Evidence(normal_flow(std), normal_rows(4000)))
    assert found.lower is not None
    assert found.estimate is not None
    assert found.upper is not None
    assert 0.6 * truth < found.lower <= truth <= found.upper < 3 * truth
    assert 0.6 * truth < found.estimate < 1.6 * truth
    assert found.lower <= found.estimate <= found.upper
    assert (lower.kind, lower.unit, lower.rows) == ("lower", "nats", 4000)
    assert lower.interval == (found.lower, math.inf)
    assert (estimate.kind, estimate.measured) == ("plug-in", found.estimate)
    assert (upper.kind, upper.interval) == ("upper-under-assumption", (0.0, found.upper))
    assert upper.assumption == found.assumption != ""
    assert neighbours.interval is not None
    assert 0.6 * truth < neighbours.interval[0] < neighbours.interval[1] < 1.6 * truth


def test_a_true_model_has_next_to_nothing_proved_against_it() -> None:
    found = [bracket(Evidence(normal_flow(1.0), normal_rows(1000, seed=s), s))[0] for s in range(2)]
    assert max(bracket.lower or 0.0 for bracket in found) < 0.01
    assert max(bracket.upper or math.inf for bracket in found) < 0.3


def test_a_mode_that_the_model_lacks_is_proved() -> None:
    """Half of the rows 6 away: no mass of the model is there, and log 2 is the least that this costs."""
    rows = normal_rows(3000)
    shifted = Particles(rows.x + 6 * (torch.arange(3000) % 2)[:, None])
    lower = bracket(Evidence(normal_flow(1.0), shifted))[0].lower
    assert lower is not None
    assert lower > math.log(2)


@pytest.mark.parametrize("held_out", [None, normal_rows(20)])
def test_without_rows_it_is_undecided_and_says_why(held_out: Particles | None) -> None:
    found, (claim,) = bracket(Evidence(normal_flow(1.0), held_out))
    assert (found.lower, found.estimate, found.upper) == (None, None, None)
    assert claim.verdict == "undecided"
    assert "held-out rows" in claim.assumption
    assert "holdout_fraction" in claim.remedy


def test_rows_that_the_fit_has_seen_prove_nothing() -> None:
    """One in twenty is chance; more, exactly or nearly, leaves no bracket, with the reason."""
    evidence = Evidence(normal_flow(1.0), normal_rows(400))
    assert bracket(replace(evidence, seen=SeenRows(15, 5)))[0].upper is not None
    assert bracket(replace(evidence, seen=SeenRows(200, 0, by_chance=0.6)))[0].upper is not None
    found, (claim,) = bracket(replace(evidence, seen=SeenRows(15, 6)))
    assert (found.lower, found.estimate, found.upper) == (None, None, None)
    assert claim.verdict == "undecided"
    assert "21 of 400 rows" in claim.assumption


def test_same_evidence_same_number() -> None:
    evidence = Evidence(normal_flow(1.3), normal_rows(400), 7)
    assert bracket(evidence)[0] == bracket(evidence)[0]


def test_context_is_part_of_what_a_critic_sees() -> None:
    """Rows follow their context, the model does not: KL = E|c|²/2 given c, and nothing without it."""
    context = torch.randn(3000, 1, generator=generator(5))
    rows = normal_rows(3000, dim=1).x
    std = math.sqrt(2.0)
    evidence = Evidence(normal_flow(std, 1), Particles(rows + context, context))
    truth = 0.5 * (1 / 2 + 1 / 2 - 1 + 2 * math.log(std))
    lower = bracket(evidence)[0].lower
    assert lower is not None
    assert 0.4 * truth < lower <= truth


def test_rows_beyond_the_critics_ceiling_are_judged_by_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows 30 away in both columns and no mixture to say how far: KL = 900 nats, no ceiling in its place."""
    monkeypatch.setattr(witness_module, "_COMPONENTS", ())
    monkeypatch.setattr(witness_module, "_COMPONENTS_OF_SCORES", ())
    found, _ = bracket(Evidence(normal_flow(1.0), Particles(normal_rows(2000).x + 30)))
    assert found.lower is not None
    assert found.upper is not None
    assert 2 < found.lower < 900 < found.upper < 1500
    assert found.estimate == pytest.approx(900, rel=0.02)


def test_rows_beyond_the_ceiling_in_a_context_leave_no_upper_end() -> None:
    """Distances between rows of different contexts tell nothing, so that critics are alone."""
    rows = Particles(normal_rows(2000).x + 30, torch.ones(2000, 1))
    found, claims = bracket(Evidence(normal_flow(1.0), rows))
    assert found.upper == math.inf
    assert claims[-1].verdict == "undecided"
    assert "above what critics can tell" in claims[-1].assumption


def test_rows_in_other_units() -> None:
    """A model of N(0, I) on its rows times 1,000: KL = s² - 1 - log s² nats in two columns."""
    truth = 1000.0**2 - 1 - math.log(1000.0**2)
    found = bracket(Evidence(normal_flow(1.0), Particles(1000 * normal_rows(4000).x)))[0]
    assert found.lower is not None
    assert found.upper is not None
    assert 0.9 * truth < found.lower < truth < found.upper < 1.7 * truth


def test_narrow_law_against_a_broad_model() -> None:
    """N((3, 1), 0.01² I) against N(0, I): |m|²/2 + s² - 1 - log s² = 13.21 nats, to a hundredth."""
    std, mean = 0.01, torch.tensor([3.0, 1.0])
    truth = 5.0 + std**2 - 1 - math.log(std**2)
    found = bracket(Evidence(normal_flow(1.0), Particles(mean + std * normal_rows(4000).x)))[0]
    assert found.lower is not None
    assert found.upper is not None
    assert truth - 0.05 < found.lower < truth < found.upper < 1.7 * truth
    assert found.estimate == pytest.approx(truth, abs=0.05)


@pytest.mark.parametrize("law", ["cauchy", "pareto", "student"])
def test_tail_that_no_normal_model_can_hold_leaves_no_upper_end(law: str) -> None:
    """Cauchy, Pareto(1.2) and t(1.5): E[x²] is infinite, and the KL with it."""
    rng = np.random.default_rng(0)
    draws = {
        "cauchy": lambda: rng.standard_cauchy((3000, 2)),
        "pareto": lambda: rng.pareto(1.2, (3000, 2)),
        "student": lambda: rng.standard_t(1.5, (3000, 5)),
    }
    x = draws[law]()
    x = (x - np.median(x, axis=0)) / x.std(axis=0)
    found, claims = bracket(Evidence(normal_flow(1.0, x.shape[1]), Particles(torch.as_tensor(x).float())))
    assert (found.estimate, found.upper) == (None, math.inf)
    assert "tail is heavier" in found.assumption
    assert [claim.verdict for claim in claims[:3]] == ["holds", "undecided", "undecided"]


def test_copies_among_the_rows_prove_nothing() -> None:
    """Every row twice: critics that learned one copy know the other, and the model is right."""
    x = torch.randn(300, 5, generator=generator(3))
    found, claims = bracket(Evidence(normal_flow(1.0, 5), Particles(x.repeat_interleave(2, dim=0))))
    assert found.lower == 0.0
    assert claims[0].rows == 300
    few, (claim,) = bracket(Evidence(normal_flow(1.0, 5), Particles(x[:90].repeat_interleave(2, dim=0))))
    assert few.upper is None
    assert "90 different held-out rows" in claim.assumption


def test_rows_on_which_the_density_is_no_number_leave_it_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    told = CrossFitted(math.nan, math.nan, math.nan, 0.0)
    monkeypatch.setattr(kl_module, "cross_fit", lambda evidence, folds: told)
    found, (claim,) = bracket(Evidence(normal_flow(1.0), normal_rows(200)))
    assert (found.lower, found.estimate, found.upper) == (None, None, None)
    assert claim.verdict == "undecided"
    assert "no number" in claim.assumption


def test_a_draw_that_critics_put_far_off_does_not_silence_them() -> None:
    """The log-ratio of N(1, 1) to N(0, 1) at 820 draws, one of them said to be 15."""
    h = torch.randn(820, 1, generator=generator(1)).double() - 0.5
    shift = cross_fitting._shift(h[:, 0])
    far = h[:, 0].clone()
    far[0] = 15.0
    assert abs(cross_fitting._shift(far) - shift) < 0.15
    assert float((h[:, 0] + shift).clamp_max(4.0).exp().mean()) == pytest.approx(1)


def test_rows_with_atoms_have_no_density() -> None:
    rows = normal_rows(2000).x
    rows[:400] = rows[0]
    found, claims = bracket(Evidence(normal_flow(1.0), Particles(rows)))
    assert found.upper == math.inf
    assert "20% of the rows coincide" in claims[2].assumption


def columns_of(shift: float, seed: int, n: int = 20_000) -> Tensor:
    return torch.randn(n, 1, generator=generator(seed)) + shift


@pytest.mark.parametrize("kind", ["network", "trees"])
def test_critic_is_the_log_ratio(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """N(1, 1) against N(0, 1): h = x - 1/2."""
    longer = DescentSettings(updates=500, batch=512, learning_rate=3e-3, checkpoints=10)
    monkeypatch.setattr(critic_module, "_DESCENT", longer)
    p, q = columns_of(1.0, 1), columns_of(0.0, 2)
    if kind == "trees":
        h = fit_trees(p, q, seed=0)
    else:
        h = fit_network(p, q, generator=generator(0))
    x = torch.linspace(-1, 2, 7)[:, None]
    torch.testing.assert_close(h(x).to(x.dtype), x[:, 0] - 0.5, atol=0.3, rtol=0)


def test_trees_count_both_laws_alike_however_many_rows_they_have() -> None:
    h = fit_trees(columns_of(0.0, 1, 1000), columns_of(0.0, 2, 10_000), seed=0)
    assert float(h(columns_of(0.0, 3)).mean().abs()) < 0.2


def test_bins_of_trees_have_about_equal_weight() -> None:
    rows = np.column_stack([np.random.default_rng(0).normal(size=5000), np.repeat([0.0, 1.0], 2500)])
    weight = np.where(np.arange(5000) < 1000, 4.0, 1.0)
    numbers = critic_module._Bins.of(rows, weight, bins=20)(rows)
    of_bins = np.bincount(numbers[:, 0].astype(int), weights=weight)
    assert of_bins == pytest.approx(np.full(20, weight.sum() / 20), rel=0.02)
    assert np.array_equal(numbers[:, 1], rows[:, 1])


def test_fine_structure_is_seen_by_trees() -> None:
    """A comb of period 0.2 in data of width 1: a network finds nothing in it."""
    u = torch.rand(16_000, 1, generator=generator(1)) * 4 - 2
    p = (u / 0.2).round() * 0.2 + 0.02 * torch.randn(len(u), 1, generator=generator(2))
    critics = [fit_network(p, u, generator=generator(0)), fit_trees(p, u, seed=0)]
    gain = [float(h(p).clamp(-8, 4).mean() - h(u).clamp(-8, 4).exp().mean() + 1) for h in critics]
    assert gain[0] < 0.05 < 0.2 < gain[1]


def seen(n: int, *, std: float = 1.0, context: Tensor | None = None) -> Seen:
    return Seen.by(Evidence(normal_flow(std), None), Particles(normal_rows(n).x, context))


def test_what_critics_see_is_what_the_model_makes_of_the_rows() -> None:
    context = torch.randn(50, 3, generator=generator(6))
    rows = seen(50, std=2.0, context=context)
    torch.testing.assert_close(rows.z, rows.x / 2)
    x = rows.x.double()
    expected = -x.square().sum(1) / 8 - math.log(2 * math.pi * 4)
    torch.testing.assert_close(rows.log_q0, expected, atol=1e-5, rtol=0)
    columns = rows.columns()
    assert columns.shape == (50, 2 + 2 + 1 + 1 + 3)
    torch.testing.assert_close(columns[:, -3:], context)
    torch.testing.assert_close(columns[:, 5], rows.z.norm(dim=1))


def test_columns_are_finite_where_the_density_is_zero() -> None:
    rows = Seen(torch.zeros(1, 1), torch.zeros(1, 1), torch.tensor([-math.inf]), torch.zeros(1), None)
    assert rows.columns().isfinite().all()


def test_certify_gathers_every_reader_and_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    evidence = Evidence(normal_flow(1.2), normal_rows(300))
    found = certify(evidence)
    assert found.kl.lower is not None
    assert {claim.verdict for claim in found.claims} <= {"holds", "fails", "undecided", "told"}
    record = found.to_dict()
    assert record["format"] == "jkoflow/1"
    assert len(record["claims"]) == len(found.claims) >= 8
    assert '"lower"' in found.to_json()

    def broken(evidence: Evidence) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr("jkoflow.certify._READERS", {"a reader": broken})
    monkeypatch.setattr(kl_module, "bracket", broken)
    told = certify(evidence)
    assert [claim.verdict for claim in told.claims] == ["undecided", "undecided"]
    assert all("no memory" in claim.assumption for claim in told.claims)
