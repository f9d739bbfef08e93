"""Every method: the resume law, decisions on record, no clock, the Gaussian oracle, and what each is for."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from jkoflow.blocks import AffineBlock, MixtureBlock, NeuralODEBlock
from jkoflow.blocks.zuko import ZukoBlock
from jkoflow.config import Settings
from jkoflow.errors import InputError
from jkoflow.exact.gaussian import GaussianState, Quadratic, jko_step
from jkoflow.flow import log_prob
from jkoflow.journal import Taken
from jkoflow.laws import Gaussian, make_law
from jkoflow.methods import METHODS, method_named
from jkoflow.particles import Particles
from jkoflow.recipe import BudgetRules, Recipe, UpdateRules
from jkoflow.runtime import Runtime
from jkoflow.schedule import reparametrise
from jkoflow.steps import State
from oracles.blocks import points
from oracles.clocks import Clock
from oracles.jobs import Recorded, restored, run_method, same_flow, start_state
from oracles.quick_training import quick_recipe
from oracles.solvers import gaussian_particles

ADAPTIVE = {"kind": "adaptive", "first": 0.2, "rounds": 2, "stop_ratio": None}
GIVEN = {"kind": "geometric", "first": 0.1, "growth": 3.0, "free_last": True}
FITS: dict[str, dict[str, Any]] = {
    "jko": {
        "objective": "jko",
        "gamma": {"kind": "constant", "value": 0.4, "stop_ratio": None},
        "max_blocks": 2,
    },
    "jko with a free last step": {
        "objective": "jko",
        "gamma": {"kind": "geometric", "free_last": True, "stop_ratio": None},
        "max_blocks": 2,
    },
    "jko, re-parametrised": {"objective": "jko", "gamma": ADAPTIVE, "max_blocks": 2},
    "jko of affine blocks": {"objective": "jko", "gamma": 0.4, "max_blocks": 3, "block": "affine"},
    "auto": {"max_blocks": 4},
    "auto, given steps": {"gamma": GIVEN, "max_blocks": 2},
    "auto, blocks alone": {"closing": None, "max_blocks": 2},
    "auto of affine blocks": {"gamma": 0.4, "max_blocks": 3, "block": "affine"},
    "jko of splines": {"objective": "jko", "gamma": 0.4, "max_blocks": 2, "block": "zuko"},
    "jko to a log-cosh law": {"objective": "jko", "gamma": 0.4, "max_blocks": 2, "law": "log_cosh"},
    "flow_matching": {"objective": "flow_matching"},
    "end_to_end": {"objective": "end_to_end", "gamma": 0.4, "max_blocks": 2},
}
RECIPE = quick_recipe(updates=12)


def two_clusters(n: int, seed: int) -> Particles:
    x = points(n, 2, torch.float32, seed=seed)
    return Particles(torch.where(x[:, :1] > 0.3, 0.3 * x + 1.2, 0.3 * x - 1.2))


def run(
    name: str = "auto",
    *,
    most: int | None = None,
    log: list[dict[str, Any]] | None = None,
    recipe: Recipe = RECIPE,
    **options: Any,
) -> Recorded:
    """The fit of that name, interrupted after `most` steps, with the decisions of `log` on record."""
    recorded = Recorded(decisions=list(log or []), most=most)
    law = make_law(FITS[name].get("law", "standard_normal"), dim=2)
    state = start_state(two_clusters(300, 1), two_clusters(100, 2), law)
    return run_method(state, Settings(**FITS[name]), recorded, recipe, **options)


@functools.cache
def whole_fit(name: str) -> Recorded:
    """The fit of that name, never interrupted, without a budget and so without a clock."""
    return run(name, clock=forbidden_clock)


def forbidden_clock() -> float:
    raise AssertionError("a clock was read")


def oracle_errors(dim: int, gamma: float) -> list[tuple[float, float]]:
    """For each of two trained blocks, the largest error of the mean and of the standard deviations.

    Against the closed form started from the measured moments before the block, along its principal axes.
    """
    train = gaussian_particles(ORACLE_ROWS, dim, torch.float32)
    validation = gaussian_particles(ORACLE_ROWS // 5, dim, torch.float32, seed=1)
    constant = {"kind": "constant", "value": gamma, "stop_ratio": None}
    settings = Settings(objective="jko", gamma=constant, max_blocks=2)
    states = [GaussianState.from_samples(train.x.double().numpy())]
    errors: list[tuple[float, float]] = []

    def compare(state: State, taken: Taken, *, replayed: bool) -> None:
        exact = jko_step(states[-1], gamma, Quadratic.standard(dim))
        after = GaussianState.from_samples(state.train.x.double().numpy())
        variances, axes = np.linalg.eigh(exact.covariance)
        deviations = np.sqrt(np.diag(axes.T @ after.covariance @ axes))
        mean_error = float(np.abs(after.mean - exact.mean).max())
        errors.append((mean_error, float(np.abs(deviations - np.sqrt(variances)).max())))
        states.append(after)

    recorded = Recorded()
    recorded.observe = compare  # type: ignore[method-assign]
    run_method(start_state(train, validation), settings, recorded, Recipe())
    return errors


ORACLE_ROWS = 20_000


@pytest.mark.slow
@pytest.mark.parametrize("dim", [1, 2, 10])
@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.5])
def test_gaussian_oracle(dim: int, gamma: float) -> None:
    errors = oracle_errors(dim, gamma)
    assert len(errors) == 2
    for mean_error, deviation_error in errors:
        assert mean_error <= 0.03
        assert deviation_error <= 0.03


def test_every_method_is_among_the_fits() -> None:
    assert {FITS[name].get("objective", "auto") for name in FITS} == set(METHODS)


def test_unknown_method_is_refused() -> None:
    with pytest.raises(InputError, match=r"objective: expected one of .*'end_to_end'.*, got 'annealing'"):
        method_named("annealing")


@pytest.mark.parametrize("name", FITS)
def test_fit_lowers_the_held_out_nll(name: str) -> None:
    last = run(name, recipe=quick_recipe(updates=60)).last
    trained = any(isinstance(block, NeuralODEBlock | ZukoBlock) for block in last.flow)
    assert trained or name == "auto" or "affine" in name, "where two clusters may be a mixture of two"
    validation = two_clusters(100, 2).x
    base = -float(last.flow.law.log_prob(validation.double()).mean())
    assert last.nll < base
    assert last.nll == pytest.approx(-float(log_prob(last.flow, validation).mean()), abs=1e-5)
    assert len(last.flow) <= Settings(**FITS[name]).max_blocks


@pytest.mark.parametrize("name", FITS)
def test_record_of_each_step(name: str) -> None:
    for taken in whole_fit(name).taken:
        record = taken.log
        assert {"warm_start", "proximal"} <= set(record["updates"])
        assert record["finished_on"] in ("warm_start", "proximal", "closed_form", "end_to_end")
        for key in (
            "block",
            "round",
            "gamma",
            "kept",
            "retries",
            "potential_nats",
            "neg_log_det_nats",
            "transport_nats",
            "held_out_nll_nats",
            "held_out_nll_se_nats",
            "transport",
            "step_doubling_error",
        ):
            assert key in record, key
        assert record["kept"] == (taken.block is not None)
        assert (record["block"], record["round"]) == (taken.number, taken.round)


@pytest.mark.parametrize("name", FITS)
def test_same_seed_same_flow_and_no_clock(name: str) -> None:
    """Without a budget no decision reads a clock."""
    first = whole_fit(name)
    torch.manual_seed(3)
    second = run(name, clock=forbidden_clock)
    assert same_flow(first, second)
    assert first.logs == second.logs


# ── the resume law ──


@pytest.mark.parametrize("budget", [None, 1.0], ids=["unlimited", "budget"])
@pytest.mark.parametrize("name", FITS)
def test_fit_that_is_interrupted_anywhere_ends_with_the_same_flow(name: str, budget: float | None) -> None:
    """After each step in turn the fit is cut off, its record read back, and the fit gone on with.

    Under a budget the second clock goes at another pace: what the first one caused is on record.
    """
    timing = {} if budget is None else {"budget": budget, "clock": Clock(0.02)}
    whole = run(name, **timing) if timing else whole_fit(name)
    n_steps = len(whole.steps)
    for n_taken in range(1, n_steps + 1):
        again_timing = {} if budget is None else {"budget": budget, "clock": Clock(0.02)}
        cut_off = run(name, most=n_taken, **again_timing)
        assert cut_off.logs == whole.logs[:n_taken]
        slower = {} if budget is None else {"budget": budget, "clock": Clock(1e-9)}
        # decisions that were taken for a later step are on record too where the fit was cut off behind them
        steps = [restored(taken) for taken in cut_off.taken]
        again = run(name, log=whole.decisions, steps=steps, **slower)
        assert again.replayed == [True] * n_taken + [False] * (n_steps - n_taken)
        assert same_flow(again, whole), n_taken
        assert again.logs == whole.logs, n_taken
        assert cut_off.decisions == whole.decisions[: len(cut_off.decisions)]


def test_interrupted_before_the_first_step() -> None:
    """The pilot's decision is on record before a block is trained, and is not taken again."""
    whole = whole_fit("auto")
    log = run(most=1).decisions
    assert [entry["what"] for entry in log] == ["pilot"]
    assert run(log=log).decisions == log
    chosen = log[0]["value"]
    opposite = {**log[0], "value": {**chosen, "affine_first": not chosen["affine_first"]}}
    assert run(log=[opposite]).logs != whole.logs
    other = "coarse" if chosen["features"] == "even" else "even"
    assert run(log=[{**log[0], "value": {**chosen, "features": other}}]).logs != whole.logs


@pytest.mark.parametrize("name", ["jko", "auto", "end_to_end"])
def test_decisions_of_a_budget_are_recorded_and_replayed(name: str) -> None:
    """Whatever the clock does the second time, the flow is the one of the first."""
    whole = run(name, budget=1.0, clock=Clock(0.08))
    assert whole.decisions
    assert len(whole.last.flow) > 0
    again = run(name, log=whole.decisions, budget=1.0, clock=Clock(1e-9))
    assert same_flow(again, whole)


@pytest.mark.parametrize("name", ["jko", "end_to_end"])
def test_slower_resume_repeats_the_recorded_stop(name: str) -> None:
    """Interrupted inside the block whose stop is on record; now the budget is spent before that update."""
    first = {"block": 1, "round": 0} if name == "jko" else {}
    log = [{"kind": "decision", "what": "updates", "value": 400 if name == "jko" else 12, **first}]
    whole = run(name, log=log, budget=1.0, clock=Clock(0.06))
    stopped = next(entry["block"] for entry in whole.decisions if entry["what"].startswith("stop"))
    steps = [restored(taken) for taken in whole.taken[: max(0, stopped - 1)]]
    slow = run(name, log=whole.decisions, steps=steps, budget=1.0, clock=Clock(0.06), spent=0.9)
    assert same_flow(slow, whole)


# ── what each method is for ──


def test_jko_trains_on_the_proximal_objective_alone() -> None:
    for taken in whole_fit("jko").taken:
        assert taken.log["updates"]["warm_start"] == 0
        assert taken.log["updates"]["proximal"] > 0
        assert taken.log["finished_on"] == "proximal"
        assert taken.log["gamma"] == 0.4


def test_free_last_step() -> None:
    last = whole_fit("jko with a free last step").taken[-1]
    assert last.log["gamma"] is None
    assert last.log["transport_nats"] == 0
    assert last.block is not None
    assert last.block.free


def test_every_round_is_reparametrised_by_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rounds: the step sizes of each follow from the distances moved in the one before."""
    monkeypatch.setitem(FITS["jko, re-parametrised"], "gamma", {**ADAPTIVE, "rounds": 3})
    rounds: dict[int, list[Any]] = {}
    for state, taken in run("jko, re-parametrised").steps:
        rounds.setdefault(taken.round, []).append(taken.log)
        assert len(state.flow) == len(rounds[taken.round])
    assert sorted(rounds) == [0, 1, 2]
    for earlier, later in ((0, 1), (1, 2)):
        moved = [(record["gamma"], record["mean_distance"]) for record in rounds[earlier]]
        expected = reparametrise(moved, eta=0.5, cap=3.0)
        assert [record["gamma"] for record in rounds[later]] == pytest.approx(expected)


def test_reparametrisation_survives_dropped_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Distances belong to the steps that were taken, whichever they were."""
    monkeypatch.setitem(FITS, "adaptive", {"gamma": ADAPTIVE, "max_blocks": 3})
    still = UpdateRules(
        fewest=12,
        most_regression=12,
        batches=(64, 64),
        regression_rate=0.0,  # every block stays the identity, and is dropped
        finish_rate=0.0,
    )
    taken = run("adaptive", recipe=replace(RECIPE, updates=still)).taken
    assert all(step.block is None for step in taken if step.round >= 0)


def test_spent_budget_skips_what_is_left_and_ends_as_the_gaussian() -> None:
    """A millionth of a second: nothing is trained, and the model is still no worse than a Gaussian."""
    recorded = run(budget=1e-6, clock=Clock(1.0))
    decided = {entry["what"]: entry["value"] for entry in recorded.decisions}
    assert decided["time for a block"] is False
    assert decided["blocks"] == 3, "the least that a round has"
    assert recorded.logs[-1]["fitted_on"] == "training and validation rows"
    assert len(recorded.last.flow) == 1
    assert all(log["finished_on"] == "closed_form" for log in recorded.logs), "no block is begun in vain"


@pytest.mark.parametrize(("seconds", "blocks"), [(1e-3, 4), (5.0, 3)])
def test_a_small_budget_trains_fewer_blocks(
    seconds: float, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty updates to each: 100 seconds pay for all at 1 ms, for one at five seconds; three are least."""
    monkeypatch.setitem(FITS, "auto", {**FITS["auto"], "max_blocks": 5})
    choice = {"affine_first": True, "features": "even", "seconds": seconds}
    pilot = {"kind": "decision", "what": "pilot", "value": choice}
    log = run(log=[pilot], budget=100.0, clock=Clock(1e-9)).decisions
    assert next(entry["value"] for entry in log if entry["what"] == "blocks") == blocks


def first_updates(gamma: Any, monkeypatch: pytest.MonkeyPatch) -> int:
    """Updates of the first of three blocks under a budget of 120 seconds, at five seconds an update."""
    monkeypatch.setitem(FITS, "under a budget", {"gamma": gamma, "max_blocks": 3})
    choice = {"affine_first": False, "features": "even", "seconds": 5.0}
    pilot = {"kind": "decision", "what": "pilot", "value": choice}
    recipe = replace(RECIPE, budget=BudgetRules(updates=(1, 100)))
    log = run("under a budget", log=[pilot], budget=120.0, clock=Clock(1e-9), recipe=recipe).decisions
    return next(entry["value"] for entry in log if entry["what"] == "updates")


def test_a_budget_is_shared_by_the_blocks_of_all_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    one, three = (first_updates({**ADAPTIVE, "rounds": rounds}, monkeypatch) for rounds in (1, 3))
    assert one == pytest.approx(3 * three, abs=3)


def test_time_is_held_back_for_a_free_block_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = {"kind": "geometric", "first": 0.1, "growth": 3.0}
    without, free = (first_updates({**steps, "free_last": last}, monkeypatch) for last in (False, True))
    assert without > free > 0


def test_blocks_alone_have_no_closing() -> None:
    recorded = whole_fit("auto, blocks alone")
    networks = [taken for taken in recorded.taken if isinstance(taken.block, NeuralODEBlock)]
    assert len(networks) == len(recorded.last.flow) > 0
    assert not any(isinstance(block, MixtureBlock) for block in recorded.last.flow)


def test_automatic_needs_the_standard_normal_law() -> None:
    law = Gaussian([1.0, 0.0], [[1.0, 0.0], [0.0, 2.0]])
    state = start_state(two_clusters(100, 1), two_clusters(50, 2), law)
    with pytest.raises(InputError, match=r"'auto' needs the standard normal law.*use 'jko'"):
        run_method(state, Settings(law="gaussian"), Recorded(), RECIPE)


@pytest.mark.parametrize("covariance", [None, [[1.0, 0.3], [0.3, 2.0]]], ids=["standard", "gaussian"])
def test_affine_blocks_are_the_exact_gaussian_recursion(covariance: Any) -> None:
    law = None if covariance is None else Gaussian([0.5, -1.0], covariance)
    start = start_state(gaussian_particles(500, 2), gaussian_particles(100, 2, seed=1), law)
    recorded = run_method(start, Settings(**FITS["jko of affine blocks"]), Recorded(), RECIPE)
    potential = Quadratic.standard(2)
    if law is not None:
        potential = Quadratic(np.linalg.inv(np.array(covariance)), np.array([0.5, -1.0]))
    exact = GaussianState.from_samples(start.train.x.numpy())
    for state, taken in recorded.steps:
        assert isinstance(taken.block, AffineBlock)
        exact = jko_step(exact, 0.4, potential)
        after = GaussianState.from_samples(state.train.x.double().numpy())
        np.testing.assert_allclose(after.mean, exact.mean, atol=1e-5)
        np.testing.assert_allclose(after.covariance, exact.covariance, atol=1e-5)
    assert len(recorded.steps) == 3


def test_fit_with_context() -> None:
    context = points(300, 1, torch.float32)
    train = Particles(two_clusters(300, 1).x + context, context)
    last = run_method(start_state(train, train), Settings(**FITS["jko"]), Recorded(), RECIPE).last
    assert last.train.context is context
    assert not torch.equal(last.flow.push(train.x, context), last.flow.push(train.x, -context))


def test_dtype_of_the_runtime() -> None:
    train, runtime = gaussian_particles(100, 2), Runtime(0, dtype=torch.float64)
    start = start_state(train, train)
    last = run_method(start, Settings(**FITS["jko"]), Recorded(), RECIPE, runtime=runtime).last
    assert last.train.x.dtype == torch.float64
    assert math.isfinite(last.nll)
