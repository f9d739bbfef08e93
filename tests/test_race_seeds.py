"""Several seeds of a fit: what is run, how differences and their errors follow; old rows are read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

from race_modules import imported

MODULES = ("density", "contenders", "record", "tables", "problems", "pictures", "worker", "run", "table")


@pytest.fixture(scope="module")
def race() -> Iterator[dict[str, ModuleType]]:
    with imported(MODULES) as modules:
        yield modules


def test_small_tables_and_laws_in_the_plane_are_fitted_with_every_seed(race: dict[str, ModuleType]) -> None:
    folds = {"uci-yacht": 2, "rose": 1, "protein": 1, "student": 1}
    tasks = race["run"].tasks_of(folds, ["ours", "kde"], [1.0, 2.0], [3, 4])
    seeds = {}
    for task in tasks:
        seeds.setdefault((task.problem, task.contender), set()).add(task.fit_seed)
    assert seeds["uci-yacht", "ours"] == seeds["rose", "kde"] == {3, 4}
    assert seeds["protein", "ours"] == seeds["student", "kde"] == {3}
    assert len(tasks) == len(set(tasks)) == (2 * 2 + 2 + 1 + 1) * 3
    assert {task.name for task in tasks if task.problem == "rose" and task.contender == "kde"} == {
        "rose-fold0-kde-free-seed3",
        "rose-fold0-kde-free-seed4",
    }
    (alone, *_) = race["run"].tasks_of({"rose": 1}, ["ours"], [1.0])
    assert (alone.fit_seed, alone.name) == (None, "rose-fold0-ours-1")


def test_a_run_is_fitted_with_its_own_seed(
    race: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def noted(command: list[str], **options: object) -> None:
        started.append(command)
        Path(command[-1]).with_suffix(".json").write_text("{}")

    monkeypatch.setattr(race["run"].subprocess, "run", noted)
    for fit_seed in (7, None):
        task = race["record"].Task("p", 0, "ours", 1.0, fit_seed)
        row = race["run"].run_task(task, folds=1, longest=1.0, folder=tmp_path, seed=5, seeds=2)
        assert (row["fit_seed"], row["seeds"]) == (fit_seed, 2)
    assert [command[-2] for command in started] == ["7", "5"]


def test_the_error_of_a_difference_has_rows_and_seeds_in_it(race: dict[str, ModuleType]) -> None:
    """Two folds of two and one test rows, two seeds; all by hand."""
    ours = [np.array([[1.0, 2.0], [3.0, 6.0]]), np.array([[5.0], [6.0]])]
    theirs = [np.zeros((2, 2)), np.zeros((2, 1))]
    row = race["record"].paired(ours, theirs)
    by_row = np.array([2.0, 4.0, 5.5])
    rows_part = by_row.var(ddof=1) / 3
    # means of fold 0 by seed: 1.5 and 4.5, variance 4.5; of fold 1: 5 and 6, variance 0.5
    first, second = (2 / 3) ** 2 * 4.5 / 2, (1 / 3) ** 2 * 0.5 / 2
    variance = rows_part + first + second
    assert row["difference"] == pytest.approx(by_row.mean())
    assert row["difference_se"] == pytest.approx(math.sqrt(variance))
    assert row["degrees"] == pytest.approx(variance**2 / (rows_part**2 / 2 + first**2 + second**2))
    assert (row["test_rows"], row["seeds"]) == (3, 2)
    alone = race["record"].paired([part[:1] for part in ours], [part[:1] for part in theirs])
    assert alone["difference_se"] == pytest.approx(np.std([1, 2, 5], ddof=1) / math.sqrt(3))
    assert alone["degrees"] == pytest.approx(2)


def test_the_interval_covers_where_rows_and_seeds_both_vary(race: dict[str, ModuleType]) -> None:
    """D_is = row + seed + both: Student's interval of 95 % holds the mean 0 about as often as it says."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        rows, seeds = rng.normal(size=(1, 60)), 0.3 * rng.normal(size=(3, 1))
        differences = rows + seeds + 0.5 * rng.normal(size=(3, 60))
        row = race["record"].paired([differences], [np.zeros((3, 60))])
        held += abs(row["difference"]) < stats.t.ppf(0.975, row["degrees"]) * row["difference_se"]
    assert 0.92 < held / 400 <= 1.0


def test_pairs_wait_for_every_seed(race: dict[str, ModuleType], tmp_path: Path) -> None:
    record = race["record"].Record(tmp_path / "race.jsonl", tmp_path, {"run": "r", "seed": 0})
    values = {("ours", 0): [1.0, 2.0], ("ours", 1): [3.0, 2.0], ("nsf", 0): [0.0, 0.0]}
    for (name, seed), nll in values.items():
        row = {"problem": "p", "fold": 0, "contender": name, "budget": 1.0, "fit_seed": seed}
        np.save(tmp_path / f"{race['record'].Task(**row).name}.npy", nll)
        record.append("run", {**row, "folds": 1, "seeds": 2, "outcome": "done"})
    record.append_pairs()
    assert record.rows("paired") == []
    row = {"problem": "p", "fold": 0, "contender": "nsf", "budget": 1.0, "fit_seed": 1}
    np.save(tmp_path / f"{race['record'].Task(**row).name}.npy", [1.0, 1.0])
    record.append("run", {**row, "folds": 1, "seeds": 2, "outcome": "done"})
    assert record.has(race["record"].Task(**row))
    record.append_pairs()
    (pair,) = record.rows("paired")
    assert pair["difference"] == pytest.approx(1.5)
    assert pair["seeds"] == 2


def test_the_mean_over_seeds_has_their_spread_in_its_error(race: dict[str, ModuleType]) -> None:
    rows = [
        {"fold": 0, "fit_seed": seed, "test_rows": 100, "nll": nll, "nll_se": 0.1}
        for seed, nll in ((0, 1.0), (1, 2.0), (2, 3.0))
    ]
    mean, se = race["table"].pooled(rows, "nll")
    assert mean == pytest.approx(2.0)
    assert se == pytest.approx(math.sqrt(0.1**2 + 1.0 / 3))


def test_rows_from_before_there_were_seeds_are_read(race: dict[str, ModuleType], tmp_path: Path) -> None:
    old = {
        "kind": "run",
        "run": "r",
        "seed": 0,
        "problem": "p",
        "fold": 0,
        "contender": "ours",
        "budget": 1.0,
    }
    (tmp_path / "race.jsonl").write_text(json.dumps({**old, "folds": 1, "outcome": "done"}) + "\n")
    record = race["record"].Record(tmp_path / "race.jsonl", tmp_path, {"run": "r", "seed": 0})
    assert record.has(race["record"].Task("p", 0, "ours", 1.0))
    assert race["record"].is_complete(record.rows("run"))


def test_the_budgets_table_tells_how_far_ours_goes_over(race: dict[str, ModuleType]) -> None:
    common = {"kind": "run", "outcome": "done", "fold": 0, "folds": 1, "columns": 10, "run": "r"}
    rows = [
        {**common, "contender": "ours", "problem": "a", "budget": 10.0, "fit_cpu_seconds": 9.0},
        {**common, "contender": "ours", "problem": "b", "budget": 30.0, "fit_cpu_seconds": 33.0},
        {
            **common,
            "contender": "ours",
            "problem": "w",
            "budget": 10.0,
            "fit_cpu_seconds": 5.0,
            "columns": 64,
        },
        {**common, "contender": "ours", "problem": "s", "budget": 10.0, "fit_cpu_seconds": 7.0, "folds": 5},
        {
            **common,
            "contender": "ours_blocks",
            "problem": "l",
            "budget": 10.0,
            "fit_cpu_seconds": 2.0,
            "kl": 0.0,
        },
        {**common, "contender": "nsf", "problem": "a", "budget": 10.0, "fit_cpu_seconds": 99.0},
    ]
    lines = race["table"].budgets_table(race["table"].Results(rows)).splitlines()[2:]
    assert [line.strip("| ").split(" | ") for line in lines] == [
        ["ours", "wide tables and images", "1", "0.50", "0.50", "w, 10 s"],
        ["ours", "small tables", "1", "0.70", "0.70", "s, 10 s"],
        ["ours", "other tables", "2", "1.00", "1.10", "b, 30 s"],
        ["ours_blocks", "laws", "1", "0.20", "0.20", "l, 10 s"],
    ]


def test_the_units_table_has_the_mean_over_folds(race: dict[str, ModuleType]) -> None:
    common = {"kind": "run", "outcome": "done", "folds": 2, "columns": 784, "run": "r", "problem": "mnist"}
    rows = [
        {**common, "fold": fold, "contender": name, "budget": 10.0, "log_scale_nats": float(fold), **more}
        for fold in (0, 1)
        for name, more in (("ours", {"bits_per_dimension": 1.5}), ("nsf", {}))
    ]
    (line,) = race["table"].units_table(race["table"].Results(rows[:3])).splitlines()[2:]
    assert line == "| mnist | 784 | 0.500 | ours 1.500, ours 1.500 |"


def test_the_picture_has_a_colour_or_a_line_for_every_contender(race: dict[str, ModuleType]) -> None:
    pictures = race["pictures"]
    entries = race["contenders"].CONTENDERS
    assert set(pictures._COLOUR) | set(pictures._LINE) == set(entries)
    assert set(pictures._LINE) == {name for name, entry in entries.items() if not entry.budgeted}


def test_ours_is_ours_with_whatever_options(race: dict[str, ModuleType]) -> None:
    is_ours = race["contenders"].is_ours
    assert is_ours("ours")
    assert is_ours("ours_blocks")
    assert not is_ours("nsf")
    assert not is_ours("all")
