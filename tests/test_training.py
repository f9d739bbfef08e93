"""From settings to a flow: the Gaussian oracle, decisions on record, no clock, and resuming bit for bit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from jkoflow import recipe, training
from jkoflow.blocks import NeuralODEBlock
from jkoflow.budget import Decisions
from jkoflow.config import Settings
from jkoflow.exact.gaussian import GaussianState, Quadratic, jko_step
from jkoflow.fit import FitState, TakenStep
from jkoflow.flow.likelihood import log_prob
from jkoflow.particles import Particles
from jkoflow.runtime import Runtime
from jkoflow.schedule import reparametrise
from jkoflow.training import train_flow
from oracles.blocks import points
from oracles.clocks import Clock
from oracles.quick_training import make_training_quick
from oracles.trainers import gaussian_particles, restored

Steps = list[tuple[FitState, TakenStep]]

ADAPTIVE = {"kind": "adaptive", "first": 0.2, "rounds": 3, "stop_ratio": None}
FITS: dict[str, dict[str, Any]] = {
    "jko": {
        "objective": "jko",
        "gamma": {"kind": "constant", "value": 0.4, "stop_ratio": None},
        "max_blocks": 3,
    },
    "jko with a free last step": {
        "objective": "jko",
        "gamma": {"kind": "geometric", "free_last": True, "stop_ratio": None},
        "max_blocks": 2,
    },
    "jko, re-parametrised": {"objective": "jko", "gamma": ADAPTIVE, "max_blocks": 2},
    "auto": {"max_blocks": 4},
    "end_to_end": {"objective": "end_to_end", "gamma": 0.4, "max_blocks": 2},
}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same training with a small network and few updates."""
    make_training_quick(monkeypatch, updates=12)


def two_clusters(n: int, seed: int) -> Particles:
    x = points(n, 2, torch.float32, seed=seed)
    return Particles(torch.where(x[:, :1] > 0.3, 0.3 * x + 1.2, 0.3 * x - 1.2))


def run(
    name: str = "auto", *, decisions: Decisions | None = None, taken: list[TakenStep] | None = None
) -> Steps:
    return list(
        train_flow(
            two_clusters(300, 1),
            two_clusters(100, 2),
            settings=Settings(**FITS[name]),
            runtime=Runtime(0),
            decisions=decisions or Decisions(),
            taken=taken or [],
        )
    )


def same_flow(first: Steps, second: Steps) -> bool:
    one, other = first[-1][0].flow.state_dict(), second[-1][0].flow.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def infos(steps: Steps) -> list[dict[str, Any]]:
    return [step.info for _, step in steps]


def forbidden_clock() -> float:
    raise AssertionError("a clock was read")


def oracle_errors(dim: int, gamma: float) -> list[tuple[float, float]]:
    """For each of two trained blocks, the largest error of the mean and of the standard deviations.

    Against the closed form started from the measured moments before the block, along its principal axes.
    """
    train = gaussian_particles(ORACLE_ROWS, dim, torch.float32)
    validation = gaussian_particles(ORACLE_ROWS // 5, dim, torch.float32, seed=1)
    constant = {"kind": "constant", "value": gamma, "stop_ratio": None}
    before, errors = GaussianState.from_samples(train.x.double().numpy()), []
    for state, _ in train_flow(
        train,
        validation,
        settings=Settings(objective="jko", gamma=constant, max_blocks=2),
        runtime=Runtime(0),
        decisions=Decisions(),
    ):
        exact = jko_step(before, gamma, Quadratic.standard(dim))
        after = GaussianState.from_samples(state.train.x.double().numpy())
        variances, axes = np.linalg.eigh(exact.covariance)
        deviations = np.sqrt(np.diag(axes.T @ after.covariance @ axes))
        errors.append(
            (
                float(np.abs(after.mean - exact.mean).max()),
                float(np.abs(deviations - np.sqrt(variances)).max()),
            )
        )
        before = after
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


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", FITS)
def test_fit_lowers_the_held_out_nll(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_training_quick(monkeypatch, updates=60)
    steps = run(name)
    trained = any(isinstance(block, NeuralODEBlock) for block in steps[-1][0].flow)
    assert trained or name == "auto", "where two clusters may be a mixture of two"
    validation = two_clusters(100, 2).x
    last = steps[-1][0]
    base = -float(last.flow.base.log_prob(validation.double()).mean())
    assert last.nll < base
    assert last.nll == pytest.approx(-float(log_prob(last.flow, validation).mean()), abs=1e-5)
    assert len(last.flow) <= Settings(**FITS[name]).max_blocks


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", FITS)
def test_record_of_each_step(name: str) -> None:
    for _, step in run(name):
        record = step.info
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
        assert record["kept"] == (step.block is not None)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", FITS)
def test_same_seed_same_flow_and_no_clock(name: str) -> None:
    """Without a budget no decision reads a clock."""
    first = run(name, decisions=Decisions(clock=forbidden_clock))
    torch.manual_seed(3)
    second = run(name, decisions=Decisions(clock=forbidden_clock))
    assert same_flow(first, second)
    assert [step.info for _, step in first] == [step.info for _, step in second]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["jko", "jko, re-parametrised", "auto"])
def test_fit_that_is_interrupted_anywhere_ends_with_the_same_flow(name: str) -> None:
    log: list[dict[str, Any]] = []
    whole = run(name, decisions=Decisions(record=log.append))
    for n_taken in range(len(whole) + 1):
        again = run(
            name, decisions=Decisions(recorded=log), taken=[restored(step) for _, step in whole[:n_taken]]
        )
        assert same_flow(again, whole), n_taken
        assert [step.info for _, step in again] == [step.info for _, step in whole], n_taken


@pytest.mark.usefixtures("quick")
def test_interrupted_before_the_first_step() -> None:
    """The pilot's decision is on record before a block is trained, and is not taken again."""
    log: list[dict[str, Any]] = []
    whole = run(decisions=Decisions(record=log.append))
    first = next(
        train_flow(
            two_clusters(300, 1),
            two_clusters(100, 2),
            settings=Settings(**FITS["auto"]),
            runtime=Runtime(0),
            decisions=Decisions(record=log.append),
        )
    )
    assert [entry["what"] for entry in log] == ["pilot", "pilot"]
    assert log[0] == log[1]
    assert first[1].info == whole[0][1].info
    opposite = {**log[0], "value": {**log[0]["value"], "affine_first": not log[0]["value"]["affine_first"]}}
    assert infos(run(decisions=Decisions(recorded=[opposite]))) != infos(whole)
    other = "coarse" if log[0]["value"]["features"] == "even" else "even"
    coarser = {**log[0], "value": {**log[0]["value"], "features": other}}
    assert infos(run(decisions=Decisions(recorded=[coarser]))) != infos(whole)


@pytest.mark.usefixtures("quick")
def test_jko_trains_on_the_proximal_objective_alone() -> None:
    for _, step in run("jko"):
        assert step.info["updates"]["warm_start"] == 0
        assert step.info["updates"]["proximal"] > 0
        assert step.info["finished_on"] == "proximal"
        assert step.info["gamma"] == 0.4


@pytest.mark.usefixtures("quick")
def test_free_last_step() -> None:
    last = run("jko with a free last step")[-1][1]
    assert last.info["gamma"] is None
    assert last.info["transport_nats"] == 0
    assert last.block is not None
    assert last.block.free


@pytest.mark.usefixtures("quick")
def test_every_round_is_reparametrised_by_the_one_before() -> None:
    """Three rounds: the step sizes of each follow from the distances moved in the one before."""
    rounds: dict[int, list[dict[str, Any]]] = {}
    for state, step in run("jko, re-parametrised"):
        rounds.setdefault(step.info["round"], []).append(step.info)
        assert len(state.flow) == len(rounds[step.info["round"]])
    assert sorted(rounds) == [0, 1, 2]
    for earlier, later in ((0, 1), (1, 2)):
        moved = [(record["gamma"], record["mean_distance"]) for record in rounds[earlier]]
        expected = reparametrise(moved, eta=0.5, cap=3.0)
        assert [record["gamma"] for record in rounds[later]] == pytest.approx(expected)


@pytest.mark.usefixtures("quick")
def test_reparametrisation_survives_dropped_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Distances belong to the steps that were taken, whichever they were."""
    monkeypatch.setattr(recipe, "WARM_START_RATE", 0.0)  # every block stays the identity, and is dropped
    monkeypatch.setattr(recipe, "FINISH_RATE", 0.0)
    monkeypatch.setitem(FITS, "adaptive", {"gamma": {**ADAPTIVE, "rounds": 2}, "max_blocks": 3})
    steps = run("adaptive")
    assert all(step.block is None for _, step in steps if step.info["round"] >= 0)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["jko", "auto", "end_to_end"])
def test_decisions_of_a_budget_are_recorded_and_replayed(name: str) -> None:
    """Whatever the clock does the second time, the flow is the one of the first."""
    log: list[dict[str, Any]] = []
    whole = run(name, decisions=Decisions(budget=1.0, clock=Clock(0.08), record=log.append))
    assert log
    assert len(whole[-1][0].flow) > 0
    again = run(name, decisions=Decisions(budget=1.0, clock=Clock(1e-9), recorded=log))
    assert same_flow(again, whole)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["jko", "end_to_end"])
def test_slower_resume_repeats_the_recorded_stop(name: str) -> None:
    """Interrupted inside the block whose stop is on record; now the budget is spent before that update."""
    log: list[dict[str, Any]] = []
    whole = run(name, decisions=Decisions(budget=1.0, clock=Clock(0.06), record=log.append))
    stopped = next(entry["block"] for entry in log)
    taken = [restored(step) for _, step in whole[: max(0, stopped - 1)]]
    slow = run(name, decisions=Decisions(budget=1.0, clock=Clock(0.06), recorded=log, spent=0.9), taken=taken)
    assert same_flow(slow, whole)


@pytest.mark.usefixtures("quick")
def test_spent_budget_skips_what_is_left_and_ends_as_the_gaussian() -> None:
    """A millionth of a second: nothing is trained, and the model is still no worse than a Gaussian."""
    log: list[dict[str, Any]] = []
    steps = run(decisions=Decisions(budget=1e-6, clock=Clock(1.0), record=log.append))
    decided = {entry["what"]: entry["value"] for entry in log}
    assert decided["updates"] == 0
    assert decided["blocks"] == 3, "the least that a pass has"
    last = steps[-1]
    assert last[1].info["fitted_on"] == "training and validation rows"
    assert len(last[0].flow) == 1
    trained = [step.info for _, step in steps if step.info["finished_on"] != "closed_form"]
    assert trained
    assert not any(record["kept"] for record in trained)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("seconds", "blocks"), [(1e-3, 4), (5.0, 3)])
def test_a_small_budget_trains_fewer_blocks(
    seconds: float, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty updates to each: 100 seconds pay for all at 1 ms, for one at five seconds; three are least."""
    monkeypatch.setitem(FITS, "auto", {**FITS["auto"], "max_blocks": 5})
    choice = {"affine_first": True, "features": "even", "seconds": seconds}
    monkeypatch.setattr(training, "timed_pilot", lambda *ignored: choice)
    log: list[dict[str, Any]] = []
    run(decisions=Decisions(budget=100.0, clock=Clock(1e-9), record=log.append))
    assert next(entry["value"] for entry in log if entry["what"] == "blocks") == blocks


@pytest.mark.usefixtures("quick")
def test_fit_with_context() -> None:
    context = points(300, 1, torch.float32)
    train = Particles(two_clusters(300, 1).x + context, context)
    *_, (state, _) = train_flow(
        train, train, settings=Settings(**FITS["jko"]), runtime=Runtime(0), decisions=Decisions()
    )
    assert state.train.context is context
    assert not torch.equal(state.flow.push(train.x, context), state.flow.push(train.x, -context))


@pytest.mark.usefixtures("quick")
def test_dtype_of_the_runtime() -> None:
    train = gaussian_particles(100, 2)
    *_, (state, _) = train_flow(
        train,
        train,
        settings=Settings(**FITS["jko"]),
        runtime=Runtime(0, dtype=torch.float64),
        decisions=Decisions(),
    )
    assert state.train.x.dtype == torch.float64
    assert math.isfinite(state.nll)
