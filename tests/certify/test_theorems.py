"""The plug-in eps_n of the theorems, and the three readers that share what was measured."""

from __future__ import annotations

import math

import pytest

from jkoflow.certify import Claim, Evidence, forward_convergence, generation_guarantee, theorems
from jkoflow.certify.first_order_residual import residuals
from jkoflow.certify.step_errors import StepError, plug_in_errors, within_knowledge
from oracles.gaussian_flows import gaussian_flow


def test_the_plug_in_is_the_true_residual_where_the_model_is_exact():
    """A free last step ends in q, so q_n = p_n and every injected eps is found."""
    made = gaussian_flow(3, (0.4, 1.2, math.inf), eps=0.3)
    evidence = made.evidence()
    found = plug_in_errors(made.flow, residuals(evidence))
    assert [step.gamma for step in found] == [0.4, 1.2, math.inf]
    assert [step.eps for step in found[:2]] == pytest.approx([0.3, 0.3], abs=0.06)
    assert found[2].eps < 0.05


def test_the_last_block_is_not_judged_by_its_own_score():
    """q_N = q, so that its own score gives |T - id|/gamma, whatever the step was."""
    made = gaussian_flow(2, (0.5, 0.5), eps=0.4)
    measured = residuals(made.evidence())
    found = plug_in_errors(made.flow, measured)
    assert measured[-1].own == pytest.approx(measured[-1].step_length / 0.5, rel=0.1)
    assert found[-1].eps == pytest.approx(0.4, abs=0.05)


def test_the_distance_to_the_optimal_map_is_added():
    made = gaussian_flow(2, (0.5, 0.5))
    measured = residuals(made.evidence())
    first = measured[0]
    assert (
        plug_in_errors(made.flow, measured)[0].eps == max(first.variational, first.own) + first.transport_gap
    )


def test_without_rows_nothing_is_known_and_everything_is_undecided():
    made = gaussian_flow(2, (0.5, 0.5))
    assert all(math.isnan(step.eps) for step in plug_in_errors(made.flow, []))
    found = theorems.claims(Evidence(made.flow, None))
    assert found
    assert {claim.verdict for claim in found} == {"undecided"}


def test_an_exact_flow_is_never_told_to_break_a_theorem():
    found = theorems.claims(gaussian_flow(2, (0.5, 1.0, math.inf)).evidence())
    assert not [claim for claim in found if claim.verdict == "fails"]
    assert sum(claim.verdict == "holds" for claim in found) > 5


def test_a_plug_in_from_below_refutes_nothing():
    """Blocks that learned nothing, said to be exact steps: bounds are exceeded, and nobody is accused."""
    made = gaussian_flow(2, (1e-6, 1e-6, 1e-6))
    steps = [StepError(2.0, 0.0)] * 3
    accused = [
        *forward_convergence.claims(made.evidence(), steps),
        *generation_guarantee.claims(made.evidence(), steps),
    ]
    failing = [claim for claim in accused if claim.verdict == "fails"]
    assert len(failing) > 3
    told = within_knowledge(accused)
    assert [claim.verdict for claim in told if claim.claim in {f.claim for f in failing}].count("fails") == 0
    assert sum("too small" in claim.assumption for claim in told) == len(failing)


def test_a_decrease_that_fails_rests_on_no_plug_in():
    worse = Claim("a decrease", "", "plug-in", "fails", 1.0, bound=0.0)
    assert within_knowledge([worse]) == [worse]
