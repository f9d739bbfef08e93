"""The race: its problems, its rows and their tables, at tiny sizes; no contender's package is needed."""

from __future__ import annotations

import importlib
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from race_modules import FOLDER, imported

MODULES = (
    "density",
    "planar",
    "tables",
    "problems",
    "contenders",
    "record",
    "pictures",
    "worker",
    "run",
    "table",
)


@pytest.fixture(scope="module")
def race() -> Iterator[dict[str, ModuleType]]:
    """The modules of the folder, with it on the path as when they are run."""
    with imported(MODULES) as modules:
        yield modules


def bent_rows(n: int = 400) -> np.ndarray:
    rows = np.random.default_rng(0).normal(size=(n, 2))
    rows[:, 1] += rows[:, 0] ** 2
    return rows


def test_duplicates_go_before_the_split_and_grids_get_noise_of_one_step(
    race: dict[str, ModuleType], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    rows = np.stack([rng.normal(size=6000), rng.integers(0, 7, size=6000) * 0.5], axis=1)
    np.savez(tmp_path / "uci_protein.npz", x=np.concatenate([rows, rows[:500]]))
    (problem,) = race["problems"].prepare("protein", tmp_path, 0)
    together = np.concatenate([problem.train, problem.test])
    assert together.shape == rows.shape
    assert len(np.unique(together[:, 1])) == 6000
    assert len(problem.test) == 600
    np.testing.assert_allclose(problem.train.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(problem.train.std(axis=0), 1, atol=1e-12)
    # uniform on 7 cells of width 0.5: the spread of the grid and the noise together, 3.5/√12
    raw = np.sort(together[:, 1])
    width = (raw[-1] - raw[0]) * 3.5 / math.sqrt(12)
    assert math.isclose(width, 3.5, rel_tol=0.02)
    # the first column is continuous and only standardised: its order statistics are those of the rows
    shape = np.diff(np.sort(together[:, 0]))
    np.testing.assert_allclose(
        shape / shape.sum(), np.diff(np.sort(rows[:, 0])) / np.ptp(rows[:, 0]), atol=1e-12
    )
    again = race["problems"].prepare("protein", tmp_path, 0)[0]
    assert np.array_equal(again.test, problem.test)
    assert not np.array_equal(race["problems"].prepare("protein", tmp_path, 1)[0].test, problem.test)


def test_a_small_table_is_cut_into_five_folds_that_share_no_test_row(race: dict[str, ModuleType]) -> None:
    rows = bent_rows(403)
    problems = race["problems"].split_table("small", rows, np.random.default_rng(1))
    assert [problem.fold for problem in problems] == [0, 1, 2, 3, 4]
    assert {problem.folds for problem in problems} == {5}
    assert sum(len(problem.test) for problem in problems) == 403
    assert all(len(problem.train) + len(problem.test) == 403 for problem in problems)
    for problem in problems:
        scale = rows[:, 0].std()
        joint = np.concatenate([problem.train[:, 0], problem.test[:, 0]])
        np.testing.assert_allclose(
            np.sort(joint - joint.mean()) / joint.std(), np.sort(rows[:, 0] - rows[:, 0].mean()) / scale
        )


def test_correlated_columns_go_and_the_first_stays(race: dict[str, ModuleType]) -> None:
    x, y = bent_rows(500).T
    rows = np.stack([x, -2 * x + 1e-3 * y, y], axis=1)
    assert np.array_equal(race["problems"].without_correlated(rows), rows[:, [0, 2]])


@pytest.mark.parametrize("name", ["rings", "checkerboard"])
def test_the_truth_of_a_standardised_law_is_a_density(race: dict[str, ModuleType], name: str) -> None:
    (problem,) = race["problems"].prepare(name, Path("no folder"), 0)
    assert problem.train.shape == (50_000, 2)
    assert race["problems"].prepare(name, Path("no folder"), 0, 20_000)[0].train.shape == (20_000, 2)
    assert len(problem.test) == 5000
    side = np.linspace(-5, 5, 800, endpoint=False) + 5 / 800
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    assert math.isclose(np.exp(problem.log_density(grid)).sum() * (side[1] - side[0]) ** 2, 1.0, abs_tol=0.01)


def test_a_picture_is_a_mixture_upright_and_darker_where_denser(
    race: dict[str, ModuleType], tmp_path: Path
) -> None:
    image = importlib.import_module("PIL.Image")
    grey = np.full((3, 4), 255, dtype=np.uint8)
    grey[0, 3], grey[2, 0] = 55, 155
    image.fromarray(grey).save(tmp_path / "picture.png")
    law = race["planar"].picture_law(tmp_path / "picture.png")
    found = {
        tuple(mean): weight for mean, weight in zip(law.means.tolist(), law.weights.tolist(), strict=True)
    }
    assert found == {(3.0, 2.0): pytest.approx(2 / 3), (-3.0, -2.0): pytest.approx(1 / 3)}
    assert law.stds.tolist() == [1.0, 1.0]


def test_a_missing_file_and_package_are_rows(
    race: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = race["contenders"].Entry("no_such_package")
    monkeypatch.setattr(race["run"], "CONTENDERS", {**race["run"].CONTENDERS, "nsf": entry})
    rows = run_race(race, tmp_path, ["protein"], ["nsf"], budget="1")
    assert [(row["outcome"], row["missing"]) for row in rows] == [("skipped", "uci_protein.npz")]
    small_problem(race, monkeypatch)
    rows = run_race(race, tmp_path / "two", ["rings"], ["nsf"], budget="1")
    assert [(row["outcome"], row["missing"]) for row in rows] == [("skipped", "package no_such_package")]


def small_problem(race: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    """A small table in place of whatever problem is asked for."""
    rows = bent_rows()
    monkeypatch.setattr(
        race["run"],
        "prepare",
        lambda name, folder, seed, draws: [race["problems"].Problem(name, rows[100:], rows[:100])],
    )


def run_race(
    race: dict[str, ModuleType], folder: Path, problems: list[str], contenders: list[str], *, budget: str
) -> list[dict[str, object]]:
    results = folder / "race.jsonl"
    options = ["--problems", *problems, "--contenders", *contenders, "--budgets", budget]
    race["run"].main(
        [*options, "--data-dir", "nowhere", "--results", str(results), "--runs", str(folder / "runs")]
    )
    return race["record"].read_rows(results)


def test_a_run_is_a_process_and_its_row_has_all_numbers(
    race: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_problem(race, monkeypatch)
    (row,) = run_race(race, tmp_path, ["rings"], ["gmm30"], budget="2")
    assert (row["outcome"], row["budget"], row["train_rows"], row["test_rows"]) == ("done", None, 300, 100)
    (file,) = (tmp_path / "runs" / row["run"]).glob("*.npy")
    nll = np.load(file)
    assert nll.shape == (100,)
    assert row["nll"] == pytest.approx(nll.mean())
    assert row["fit_cpu_seconds"] > 0
    assert row["not_measured"] == {}


def test_what_a_run_has_a_row_for_is_not_run_again(
    race: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_problem(race, monkeypatch)
    started = []

    def failing(task: object, **options: object) -> dict[str, object]:
        started.append(task)
        told = {key: getattr(task, key) for key in ("problem", "fold", "contender", "budget")}
        return {**told, "outcome": "failed", "error": "no"}

    monkeypatch.setattr(race["run"], "run_task", failing)
    rows = run_race(race, tmp_path, ["rings", "rose"], ["ours", "kde"], budget="2")
    assert len(rows) == len(started) == 4
    results = tmp_path / "race.jsonl"
    resumed = ["--resume", rows[0]["run"], "--results", str(results), "--runs", str(tmp_path / "runs")]
    race["run"].main(resumed)
    assert len(started) == 4
    lines = results.read_text().splitlines()
    gone = json.loads(lines.pop(2))
    results.write_text("\n".join(lines) + "\n")
    race["run"].main(resumed)
    assert [(task.problem, task.contender) for task in started[4:]] == [(gone["problem"], gone["contender"])]


def test_rivals_are_taken_over_from_a_run_of_the_same_rows(
    race: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_problem(race, monkeypatch)
    (first,) = run_race(race, tmp_path, ["rings"], ["gmm30"], budget="2")
    options = [
        "--problems",
        "rings",
        "--contenders",
        "gmm30",
        "ours",
        "--budgets",
        "2",
        "--data-dir",
        "nowhere",
    ]
    options += ["--results", str(tmp_path / "race.jsonl"), "--runs", str(tmp_path / "runs")]

    def made(task: object, *, folder: Path, **others: object) -> dict[str, object]:
        assert task.contender == "ours"
        np.save(folder / f"{task.name}.npy", np.full(100, 1.5))
        told = {key: getattr(task, key) for key in ("problem", "fold", "contender", "budget")}
        return {**first, **told, "run": folder.name}

    monkeypatch.setattr(race["run"], "run_task", made)
    race["run"].main([*options, "--rivals-of", first["run"]])
    gmm, ours, pair = race["record"].read_rows(tmp_path / "race.jsonl")[1:]
    assert gmm == {**first, "run": ours["run"], "taken_from": first["run"]}
    assert ours["run"] != first["run"]
    assert pair["difference"] == pytest.approx(1.5 - first["nll"])
    with pytest.raises(SystemExit, match="with seed 1"):
        race["run"].main([*options, "--rivals-of", first["run"], "--seed", "1"])
    with pytest.raises(SystemExit, match="got 'nothing' with no rows"):
        race["run"].main([*options, "--rivals-of", "nothing"])
    other = [race["problems"].Problem("rings", bent_rows()[50:], bent_rows()[:50])]
    monkeypatch.setattr(race["run"], "prepare", lambda name, folder, seed, draws: other)
    with pytest.raises(SystemExit, match="rings has other rows than in run"):
        race["run"].main([*options, "--rivals-of", first["run"]])


def test_an_interrupted_race_begins_no_more_runs(
    race: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_problem(race, monkeypatch)
    started = []

    def interrupted(task: object, **options: object) -> None:
        started.append(task)
        time.sleep(0.2)
        raise KeyboardInterrupt

    monkeypatch.setattr(race["run"], "run_task", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_race(race, tmp_path, ["rings", "rose", "tree", "protein"], ["ours", "kde"], budget="2")
    assert 1 <= len(started) <= 4
    assert race["record"].read_rows(tmp_path / "race.jsonl") == []


def test_resume_wants_a_run(race: dict[str, ModuleType], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="expected a run"):
        race["run"].main(["--resume", "nothing", "--runs", str(tmp_path)])


def test_a_failing_contender_is_a_row(race: dict[str, ModuleType], tmp_path: Path) -> None:
    problem = race["problems"].Problem("tiny", bent_rows(20), bent_rows(10))
    race["run"].write_problem(problem, tmp_path / "problems")
    task = race["record"].Task("tiny", 0, "gmm30", None)  # 30 components of 20 rows
    row = race["run"].run_task(task, folds=1, longest=1.0, folder=tmp_path, seed=0)
    assert row["outcome"] == "failed"
    assert "n_samples" in row["error"]


def test_time_over_the_limit_is_a_failure(
    race: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race["run"], "SCORING_LIMIT", 0.01)
    race["run"].write_problem(race["problems"].Problem("p", bent_rows(), bent_rows(9)), tmp_path / "problems")
    task = race["record"].Task("p", 0, "gmm30", None)
    row = race["run"].run_task(task, folds=1, longest=0.01, folder=tmp_path, seed=0)
    assert row["outcome"] == "failed"
    assert "not done after" in row["error"]


def test_a_density_that_is_not_finite_is_refused(race: dict[str, ModuleType]) -> None:
    with pytest.raises(race["worker"].NonFiniteError, match="1 of 3"):
        race["worker"].judged(np.array([1.0, math.inf, 2.0]), None)


def test_kl_is_the_mean_gap_to_the_truth(race: dict[str, ModuleType]) -> None:
    row = race["worker"].judged(np.array([1.0, 2.0, 4.0]), np.array([-0.5, -2.5, -1.0]))
    assert row["nll"] == pytest.approx(7 / 3)
    assert row["kl"] == pytest.approx(1.0)
    assert row["kl_se"] == pytest.approx(np.std([0.5, -0.5, 3.0], ddof=1) / math.sqrt(3))


def test_a_contender_never_sees_the_test_rows(
    race: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gmm30 = importlib.import_module("contenders.gmm30")
    problem = race["problems"].Problem("p", bent_rows(300), 100 + bent_rows(9))
    file = race["run"].write_problem(problem, tmp_path)
    seen = []
    fit, opened = gmm30.fit, np.load

    def watched(train: np.ndarray, **options: object) -> object:
        seen.append(train)
        monkeypatch.setattr(np, "load", opened)
        return fit(train, **options)

    class TrainOnly(dict):
        def __enter__(self) -> dict:
            return self

        def __exit__(self, *error: object) -> None:
            return

    monkeypatch.setattr(gmm30, "fit", watched)
    # until the fit starts, the file has training rows alone
    monkeypatch.setattr(np, "load", lambda *args, **options: TrainOnly(train=opened(file)["train"]))
    row = race["worker"].measure(file, "gmm30", budget=1.0, seed=0, out=tmp_path / "out")
    assert row["test_rows"] == 9
    assert len(seen) == 1
    assert np.array_equal(seen[0], problem.train)


def test_the_paired_row_is_the_difference_by_hand(race: dict[str, ModuleType], tmp_path: Path) -> None:
    record = race["record"].Record(tmp_path / "race.jsonl", tmp_path, {"run": "r"})
    nll = {
        ("ours", 10.0): ([1.0, 2.0], [5.0]),
        ("nsf", 10.0): ([0.0, 4.0], [5.5]),
        ("kde", None): ([1.0, 1.0], [1.0]),
        ("maf", 10.0): ([1.0, 1.0], None),  # its second fold is not done
    }
    for (name, budget), folds in nll.items():
        for fold, values in enumerate(folds):
            row = {"problem": "p", "fold": fold, "contender": name, "budget": budget, "folds": 2}
            if values is not None:
                np.save(tmp_path / f"{race['record'].Task('p', fold, name, budget).name}.npy", values)
            record.append("run", {**row, "outcome": "failed" if values is None else "done"})
    record.append_pairs()
    record.append_pairs()
    pairs = {row["contender"]: row for row in record.rows("paired")}
    assert len(record.rows("paired")) == 2
    # differences 1, -2, -0.5: mean -0.5, variance 2.25
    assert pairs["nsf"]["difference"] == pytest.approx(-0.5)
    assert pairs["nsf"]["difference_se"] == pytest.approx(math.sqrt(2.25 / 3))
    assert pairs["kde"]["difference"] == pytest.approx(5 / 3)
    assert (pairs["kde"]["budget"], pairs["kde"]["test_rows"]) == (10.0, 3)


def test_folds_are_pooled_as_if_all_rows_were_one(race: dict[str, ModuleType]) -> None:
    parts = [np.array([1.0, 2.0, 4.0]), np.array([0.0, 7.0])]
    rows = [race["worker"].judged(part, None) for part in parts]
    together = np.concatenate(parts)
    mean, se = race["table"].pooled(rows, "nll")
    assert mean == pytest.approx(together.mean())
    assert se == pytest.approx(together.std(ddof=1) / math.sqrt(5))


def made_row(contender: str, budget: float | None, **values: object) -> dict[str, object]:
    row: dict[str, object] = {
        "kind": "run",
        "run": "r",
        "jkoflow": "0",
        "torch": "2",
        "seed": 0,
        "problem": "rose",
        "fold": 0,
        "folds": 1,
        "outcome": "done",
        "settings_tried": 3,
        "fit_cpu_seconds": budget or 7.0,
        "score_cpu_seconds": 1.0,
        "peak_mb": 10.0,
        "test_rows": 100,
        "not_measured": {},
        "log_prob_rows_per_second": 1e4,
        "sample_rows_per_second": 1e3,
        "round_trip_error": 1e-6,
        "velocity_evaluations": None,
        "log_prob_check_nats": None,
    }
    return row | {"contender": contender, "budget": budget} | values


def test_tables_and_picture_show_the_rows(
    race: dict[str, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"nll": 2.0, "nll_se": 0.01, "kl_se": 0.01}
    rows = [
        *(made_row("ours", budget, kl=1 / budget, **values) for budget in (30.0, 100.0)),
        *(made_row("nsf", budget, kl=2 / budget, **values) for budget in (30.0, 100.0)),
        made_row("kde", None, kl=0.5, **values),
        {**made_row("maf", 30.0), "outcome": "failed", "error": "ValueError: no"},
        *(
            {"kind": "paired", "run": "r", "problem": "rose", "budget": 30.0, "contender": name, **pair}
            for name, pair in {
                "nsf": {"difference": -0.5, "difference_se": 0.1},
                "kde": {"difference": 0.5, "difference_se": 0.3},
            }.items()
        ),
    ]
    (tmp_path / "docs").mkdir()
    page = (FOLDER.parents[1] / "docs" / "race.md").read_text(encoding="utf-8")
    (tmp_path / "docs" / "race.md").write_text(page, encoding="utf-8")
    results = tmp_path / "race.jsonl"
    results.write_text("".join(json.dumps(row) + "\n" for row in rows))
    race["table"].main(["--results", str(results), "--folder", str(tmp_path)])
    shown = (tmp_path / "docs" / "race.md").read_text(encoding="utf-8")
    assert "| rose | 30 | 0.033 ± 0.010 | 0.067 ± 0.010 | – | 0.500 ± 0.010 |" in shown
    assert "| rose | 30 | **-0.500 ± 0.100** | – | +0.500 ± 0.300 |" in shown
    assert "| rose | 0 | maf | 30 | failed | ValueError: no |" in shown
    assert "Not run yet" not in shown
    assert (tmp_path / "docs" / "race.png").stat().st_size > 10_000
    assert "| done | 5 |" in capsys.readouterr().out
    points = race["table"].figures_of(rows)["rose"]
    assert [(point["contender"], point["seconds"], point["value"]) for point in points] == [
        ("ours", 30.0, pytest.approx(1 / 30)),
        ("ours", 100.0, 0.01),
        ("nsf", 30.0, pytest.approx(2 / 30)),
        ("nsf", 100.0, 0.02),
        ("kde", None, 0.5),
    ]


def test_contenders_of_a_problem_and_budget_run_side_by_side(race: dict[str, ModuleType]) -> None:
    tasks = race["run"].tasks_of({"a": 2, "b": 1}, ["ours", "gmm30"], [1.0, 2.0])
    assert [(t.problem, t.fold, t.contender, t.budget) for t in tasks] == [
        ("a", 0, "ours", 1.0),
        ("a", 0, "gmm30", None),
        ("a", 1, "ours", 1.0),
        ("a", 1, "gmm30", None),
        ("b", 0, "ours", 1.0),
        ("b", 0, "gmm30", None),
        ("a", 0, "ours", 2.0),
        ("a", 1, "ours", 2.0),
        ("b", 0, "ours", 2.0),
    ]


def test_the_standard_race_is_estimated_generously_below_four_hours(race: dict[str, ModuleType]) -> None:
    folds = {name: 5 if name == "miniboone" else 1 for name in race["problems"].STANDARD}
    tasks = race["run"].tasks_of(folds, race["contenders"].STANDARD, [30.0, 100.0, 300.0])
    assert 1.5 < race["run"].upper_hours(tasks, 2) < 4.0
