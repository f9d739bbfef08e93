"""Whatever the files say, a command ends with a documented status and a line that says why."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from hostile import mutations
from hostile.workplace import Outcome, Workplace, limits, run
from oracles.quick_training import use_quick_recipe


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("hostile") / "valid")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    use_quick_recipe(monkeypatch)


def fit(workplace: Workplace, options: str, folder: Path, table: str = "table.csv") -> Outcome:
    (folder / "options.toml").write_text(options)
    arguments = ["-o", str(folder / "fitted"), "--config", str(folder / "options.toml")]
    with limits():
        return run(["fit", str(workplace.folder / table), *arguments])


# ── faults that were found ──

LAWS = ('"rings", radii = 3', '"rose", rings = [1]', '"tree", forks = 60', '"log_cosh", weight = inf')
OPTIONS = (
    *(f"gamma = 1{'0' * 400}", "gamma = nan", "gamma = {kind = []}", "gamma = true", "gamma = [[1]]"),
    *('gamma = {kind = "constant", value = nan}', 'gamma = {kind = "geometric", cap = nan}'),
    *('gamma = {kind = "adaptive", rounds = 10000000}', "max_blocks = 1_000_000_000", "max_blocks = 2.5"),
    *('device = "mps"', 'device = "meta"', 'device = "cuda:99"', 'device = "privateuseone"', "device = []"),
    *('objective = "jko"\nlaw = {kind = "log_cosh", cells = 1_000_000_000_000}', "law = {kind = []}"),
    *('objective = "jko"\nlaw = {kind = "gaussian", mean = ["a"], covariance = 3}', "law = [1]"),
    *(f'objective = "jko"\nlaw = {{kind = {law}}}' for law in LAWS),
    *('block = {kind = "neural_ode", rules = 3}', 'block = {kind = "neural_ode", network = 3}'),
    *('block = {kind = "neural_ode", network = {width = -3}}', 'block = {kind = "zuko", transform = "GMM"}'),
    *('block = {kind = "zuko", transform = "Flow"}', 'block = {kind = "zuko", options = 3}'),
    *("smoothing = 1e200", f"smoothing = 1{'0' * 400}", "smoothing = {delta = 1e300}", "smoothing = [1]"),
    *("budget = inf", "budget = nan", f"budget = 1{'0' * 400}", f"seed = {'9' * 5000}", "seed = 1.5"),
    *("validation_fraction = nan", "holdout_fraction = -1", "gamma = 1979-05-27", '"" = 1'),
    *("block = {kind = []}", "x = " + "[" * 3000, "x = " + "[" * 3000 + "]" * 3000),
    *("a.b.c = 1", "gamma", "\0", '"\\u202e" = 1'),
)  # fmt: skip
"""Files of options, each of which ended in an internal error, took memory without end, or might have."""


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: options[:40].strip())
def test_options_that_cannot_be_are_refused(options: str, workplace: Workplace, tmp_path: Path) -> None:
    outcome = fit(workplace, options, tmp_path)
    assert (outcome.status, outcome.faults) == (2, []), outcome.printed
    assert outcome.seconds < 5
    assert not (tmp_path / "fitted").exists()


def test_network_in_a_file_of_options_is_used(workplace: Workplace, tmp_path: Path) -> None:
    options = (
        'max_blocks = 1\nclosing = "none"\nblock = {kind = "neural_ode", network = {width = 3, depth = 1}}\n'
    )
    outcome = fit(workplace, options, tmp_path)
    assert outcome.status == 0, outcome.printed


def test_flow_of_zuko_without_transforms_is_refused(workplace: Workplace, tmp_path: Path) -> None:
    outcome = fit(workplace, 'block = {kind = "zuko", options = {transforms = -1}}', tmp_path)
    assert (outcome.status, outcome.faults) == (2, []), outcome.printed


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_table_of_few_rows_is_refused(rows: int, workplace: Workplace, tmp_path: Path) -> None:
    lines = (workplace.folder / "table.csv").read_text().splitlines()[: rows + 1]
    (tmp_path / "few.csv").write_text("\n".join(lines))
    outcome = fit(workplace, "max_blocks = 1", tmp_path, str(tmp_path / "few.csv"))
    assert (outcome.status, outcome.faults) == (2, []), outcome.printed


LINES: dict[str, tuple[str, dict[str, Any], str]] = {
    "a block is text": ("steps.jsonl", {"block": "one"}, "block: expected a whole number"),
    "transport is text": ("steps.jsonl", {"transport": "far"}, "transport: expected a number"),
    "a number is beyond a figure": ("steps.jsonl", {"held_out_nll_nats": 1e300}, "held_out_nll_nats"),
    "another kind": ("steps.jsonl", {"kind": []}, "kind: expected 'step'"),
    "rows are text": ("run.json", {"table": {"rows": "many"}}, "table.rows: expected a whole number"),
    "no table": ("run.json", {"table": {}}, "is missing"),
    "a table is a list": ("run.json", {"table": [1]}, "table: expected a table"),
    "no results": ("run.json", {"results": {}}, "is missing"),
    "another status": ("run.json", {"status": ["finished"]}, "status"),
    "claims are no list": ("certificates.json", {"claims": 3.5}, "of another kind"),
    "notes are numbers": ("certificates.json", {"notes": [1]}, "a note is not text"),
}


@pytest.fixture(scope="module")
def with_run(workplace: Workplace) -> Workplace:
    with pytest.MonkeyPatch.context() as patch:
        use_quick_recipe(patch)
        workplace.fit_run()
    return workplace


@pytest.mark.parametrize("name", LINES)
def test_damaged_record_of_a_run_is_named(name: str, with_run: Workplace, tmp_path: Path) -> None:
    file, change, word = LINES[name]
    path = with_run.copied_run(tmp_path / "run") / file
    lines = path.read_text().splitlines() if file == "steps.jsonl" else [path.read_text()]
    place = next(i for i, line in enumerate(lines) if file != "steps.jsonl" or '"step"' in line)
    lines[place] = json.dumps({**json.loads(lines[place]), **change})
    path.write_text("\n".join([*lines, ""]))
    outcome = run(["report", str(tmp_path / "run")])
    assert (outcome.status, outcome.faults) == (4, []), outcome.printed
    assert file in outcome.printed
    assert word in outcome.printed


# ── faults that are looked for ──


@pytest.mark.parametrize("kind", ["model", "table"])
@pytest.mark.parametrize("number", range(40))
def test_mutated_file_is_refused_or_read(
    kind: str, number: int, workplace: Workplace, tmp_path: Path
) -> None:
    check(workplace, kind, number, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(40))
@pytest.mark.parametrize(("kind", "count"), [("model", 25), ("table", 15), ("options", 7), ("run", 3)])
def test_mutated_files_are_refused_or_read(
    kind: str, count: int, part: int, with_run: Workplace, tmp_path: Path
) -> None:
    """2,000 of them, in parts."""
    for number in range(part * count, (part + 1) * count):
        check(with_run, kind, 1000 + number, tmp_path)


def check(workplace: Workplace, kind: str, number: int, folder: Path) -> None:
    rng = random.Random(f"{kind} {number}")
    arguments = getattr(workplace, f"mutated_{kind}")(rng, folder / "work" / "m")
    with limits():
        outcome = run(arguments, seconds=60)
    assert outcome.faults == [], (kind, number, outcome)


def test_mutations_are_the_same_every_time() -> None:
    record = json.dumps({"a": [1, {"b": "c"}], "d": 2.0}).encode()
    one, other = (mutations.mutate_json(record, random.Random("3")) for _ in range(2))
    assert one == other
    assert mutations.mutate_options(random.Random("3")) == mutations.mutate_options(random.Random("3"))
