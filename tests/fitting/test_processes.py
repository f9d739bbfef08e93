"""A fit by several processes is the fit of one, bit for bit: every decision, block and number told."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from jkoflow.blocks import AffineBlock
from jkoflow.config import Settings
from jkoflow.data import Table, read_table
from jkoflow.data.shared_rows import SharedRows
from jkoflow.errors import NumericalError
from jkoflow.fitting import Fitted, fit_table
from jkoflow.fitting.record import Recorder
from jkoflow.journal import Taken
from jkoflow.storage.chunks import PUSH_ROWS
from jkoflow.world import ALONE, World
from oracles.quick_training import quick_recipe
from oracles.worlds import ThreadWorld, run_forks, run_together

N = 42_000
FITS: dict[str, dict[str, Any]] = {
    "auto": {"max_blocks": 2},
    "auto, blocks alone": {"closing": None, "max_blocks": 2},
    "auto, smoothed": {"smoothing": 0.1, "max_blocks": 2},
    "jko": {"objective": "jko", "gamma": 0.4, "max_blocks": 2},
    "affine": {"objective": "jko", "gamma": 0.4, "max_blocks": 2, "block": "affine"},
    "flow_matching": {"objective": "flow_matching"},
    "end_to_end": {"objective": "end_to_end", "gamma": 0.4, "max_blocks": 2},
    "a Gaussian": {"max_blocks": 1, "gamma": 1e-9},
}
UNTOLD = ("cpu_seconds", "cpu_seconds_so_far")


def rows(n_rows: int = N) -> np.ndarray:
    """Two columns, the first on a grid, with copies, near copies and an outlier."""
    rng = np.random.default_rng(4)
    x = np.round(rng.normal(size=n_rows), 2)
    y = rng.normal(size=n_rows) + x**2
    y[10], y[20] = y[11], 1e7
    x[10] = x[11]
    return np.column_stack([x, y])


def divided(values: np.ndarray, world: World) -> Table:
    table = read_table(values)
    part = values[world.part(len(values))]
    return table if world.size == 1 else dataclasses.replace(table, values=SharedRows(part, world))


State = dict[str, bytes]
Told = tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]


def told(fitted: Fitted) -> Told:
    """All but times: results, steps and columns."""
    steps = [{key: value for key, value in step.items() if key not in UNTOLD} for step in fitted.steps]
    results = {key: value for key, value in fitted.results.items() if key not in UNTOLD}
    return results, steps, fitted.model.schema.to_dict()


def state_of(fitted: Fitted) -> State:
    """The bytes of each of the flow's tensors."""
    return {name: tensor.numpy().tobytes() for name, tensor in fitted.model.flow.state_dict().items()}


def check_same(size: int, options: dict[str, Any], **more: Any) -> Told:
    values = rows(more.pop("n_rows", N))
    weight = np.random.default_rng(5).random(len(values)) + 0.1 if more.pop("weighted", False) else None
    has_context = more.pop("context", False)

    def fit(world: World) -> tuple[Told, State]:
        table = divided(values, world)
        given = table.select(["x0"]) if has_context else None
        fitted = fit_table(
            table.drop(["x0"]) if has_context else table,
            context=given,
            weight=weight,
            settings=Settings(**{"holdout_fraction": 0.1, **options}),
            recipe=quick_recipe(updates=12),
            world=world,
        )
        return told(fitted), state_of(fitted)

    alone, state = fit(ALONE)
    statuses, found = run_forks(size, fit)
    assert statuses == [0] * size
    for together, other in found:
        assert repr(together) == repr(alone)  # by repr, since NaN is not NaN
        assert other == state
    return alone


def test_a_fit_by_two_is_the_fit_of_one_with_rows_in_both() -> None:
    results, _, _ = check_same(2, {"max_blocks": 1, "gamma": 0.3, "closing": None}, n_rows=21_000)
    assert results["blocks"] == 1
    assert PUSH_ROWS < 0.8 * 21_000


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("options", FITS.values(), ids=FITS)
def test_a_fit_by_several_is_the_fit_of_one(options: dict[str, Any], size: int) -> None:
    check_same(size, options)


@pytest.mark.slow
@pytest.mark.parametrize("more", [{"weighted": True}, {"context": True}, {"n_rows": 300}], ids=str)
def test_weights_contexts_and_few_rows_change_nothing_in_that(more: dict[str, Any]) -> None:
    check_same(2, {"max_blocks": 2}, **more)


@pytest.mark.slow
def test_under_a_budget_the_first_ones_clock_is_that_of_all() -> None:
    values = rows()

    def fit(world: World) -> State:
        settings = Settings(max_blocks=3, budget=4.0)
        table = divided(values, world)
        fitted = fit_table(table, settings=settings, recipe=quick_recipe(updates=200), world=world)
        return state_of(fitted)

    statuses, (one, other) = run_forks(2, fit)
    assert statuses == [0, 0]
    assert one == other


def test_processes_that_find_other_blocks_are_told_of() -> None:
    def record(world: ThreadWorld) -> str:
        block = AffineBlock(dim=1, offset=torch.tensor([float(world.rank)]))
        recorder = Recorder(0.0, None, lambda record: None, spent=0.0, world=world)
        with pytest.raises(NumericalError, match="machines of one kind") as raised:
            recorder(None, Taken(3, 0, block, {}), replayed=False)  # type: ignore[arg-type]
        return str(raised.value)

    assert "(block 3)" in run_together(2, record)[0]
