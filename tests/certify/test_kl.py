"""The lower end of the KL against closed forms: below the truth, near it, and nothing where nothing is."""

from __future__ import annotations

import math

import pytest
import torch

from jkoflow.blocks import AffineBlock
from jkoflow.certify import Evidence, certify
from jkoflow.certify import critic as critic_module
from jkoflow.certify import kl as kl_module
from jkoflow.certify.critic import fit_critic
from jkoflow.certify.kl import bracket
from jkoflow.descent import DescentSettings
from jkoflow.flow import Flow
from jkoflow.laws import StandardNormal
from jkoflow.particles import Particles
from oracles.blocks import generator


@pytest.fixture(autouse=True)
def few_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """One candidate of each kind, trained little: the bound holds for any critic."""
    monkeypatch.setattr(kl_module, "_SCALES", ((),))
    monkeypatch.setattr(kl_module, "_COMPONENTS", (5,))
    monkeypatch.setattr(kl_module, "_DRAWS", 2048)
    quick = DescentSettings(updates=100, batch=256, learning_rate=1e-2, checkpoints=5)
    monkeypatch.setattr(critic_module, "_DESCENT", quick)


def normal_flow(std: float, dim: int = 2) -> Flow:
    """The model N(0, std² I)."""
    covariance = std**2 * torch.eye(dim, dtype=torch.float64)
    return Flow(StandardNormal(dim), [AffineBlock.whitening(torch.zeros(dim), covariance).float()])


def normal_rows(n: int, std: float = 1.0, dim: int = 2, seed: int = 3) -> Particles:
    return Particles(std * torch.randn(n, dim, generator=generator(seed)))


@pytest.mark.parametrize("std", [1.5, 0.7])
def test_lower_end_of_gaussians_of_other_widths(std: float) -> None:
    """KL(N(0, I)‖N(0, s² I)) = d (1/s² - 1 + 2 log s)/2."""
    truth = 2 * (1 / std**2 - 1 + 2 * math.log(std)) / 2
    found, claim = bracket(Evidence(normal_flow(std), normal_rows(4000)))
    assert 0.5 * truth < found.lower <= truth
    assert (claim.kind, claim.unit, claim.rows) == ("lower", "nats", 4000)
    assert claim.interval == (found.lower, math.inf)


def test_a_true_model_has_next_to_nothing_proved_against_it() -> None:
    lowers = [bracket(Evidence(normal_flow(1.0), normal_rows(1000, seed=s), s))[0].lower for s in range(3)]
    assert max(lowers) < 0.01


def test_a_mode_that_the_model_lacks_is_proved() -> None:
    """Half of the rows 6 away: no mass of the model is there, and log 2 is the least that this costs."""
    rows = normal_rows(3000)
    shifted = Particles(rows.x + 6 * (torch.arange(3000) % 2)[:, None])
    assert bracket(Evidence(normal_flow(1.0), shifted))[0].lower > math.log(2)


@pytest.mark.parametrize("held_out", [None, normal_rows(20)])
def test_without_rows_it_is_undecided_and_says_why(held_out: Particles | None) -> None:
    found, claim = bracket(Evidence(normal_flow(1.0), held_out))
    assert found.lower is None
    assert claim.verdict == "undecided"
    assert "held-out rows" in claim.assumption
    assert "holdout_fraction" in claim.remedy


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
    assert 0.4 * truth < bracket(evidence)[0].lower <= truth


def test_critic_is_the_log_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    """N(1, 1) against N(0, 1): h = x - 1/2."""
    longer = DescentSettings(updates=500, batch=512, learning_rate=3e-3, checkpoints=10)
    monkeypatch.setattr(critic_module, "_DESCENT", longer)
    p, q = (torch.randn(20_000, 1, generator=generator(s)) + shift for s, shift in ((1, 1.0), (2, 0.0)))
    h = fit_critic(p, q, scales=(), generator=generator(0))
    x = torch.linspace(-1, 2, 7)[:, None]
    torch.testing.assert_close(h(x), x[:, 0] - 0.5, atol=0.25, rtol=0)


def test_fine_structure_needs_fine_features() -> None:
    """A comb of period 0.2 in data of width 1: a critic without features finds nothing in it."""
    u = torch.rand(16_000, 1, generator=generator(1)) * 4 - 2
    p = (u / 0.2).round() * 0.2 + 0.02 * torch.randn(len(u), 1, generator=generator(2))
    coarse, fine = (fit_critic(p, u, scales=s, generator=generator(0)) for s in ((), (30.0,)))
    gain = [float(h(p).clamp(-8, 4).mean() - h(u).clamp(-8, 4).exp().mean() + 1) for h in (coarse, fine)]
    assert gain[0] < 0.05 < 0.2 < gain[1]


def test_certify_gathers_every_reader_and_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    evidence = Evidence(normal_flow(1.2), normal_rows(300))
    found = certify(evidence)
    assert found.kl.lower is not None
    assert {claim.verdict for claim in found.claims} <= {"holds", "fails", "undecided"}
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
