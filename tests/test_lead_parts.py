"""Parts of the default fit are taken away one after the other, on rows that no test of the race sees."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from race_modules import imported


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with imported(("density", "problems", "lead_parts")) as modules:
        yield modules["lead_parts"]


def spiky(n: int) -> np.ndarray:
    """A level of six, and a narrow column about another one for each of them."""
    source = np.random.default_rng(0)
    level = source.integers(6, size=n)
    steps = np.array([0.0, 3.0, -1.0, 2.0, -3.0, 1.0])[level]
    noise = source.normal(size=(3, n))
    return np.stack([level + 0.2 * noise[0], steps + 0.05 * noise[1], noise[2]], axis=1)


def test_rows_to_judge_by_are_none_of_those_fitted(script: ModuleType) -> None:
    rows = np.arange(200.0)[:, None]
    fitted, fresh = script.split_again(rows, 3)
    assert (len(fitted), len(fresh)) == (180, 20)
    assert sorted([*fitted[:, 0], *fresh[:, 0]]) == rows[:, 0].tolist()


def test_a_part_that_is_taken_away_is_not_there(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(script, "prepare", lambda name, folder, seed: [SimpleNamespace(train=spiky(900))])
    results = tmp_path / "parts.jsonl"
    parts = ["whole", "no kernels", "no autoregressive block"]
    script.main(["--problems", "spiky", "--budget", "6", "--results", str(results), "--parts", *parts])
    rows = {row["part"]: row for row in map(json.loads, results.read_text().splitlines())}
    assert list(rows) == parts
    assert "AutoregressiveBlock" in rows["whole"]["blocks"]
    assert max(rows["whole"]["trees"]) > 0
    assert max(rows["no kernels"]["trees"], default=0) == 0
    assert "AutoregressiveBlock" not in rows["no autoregressive block"]["blocks"]


def test_a_missing_file_is_a_row_that_names_it(script: ModuleType, tmp_path: Path) -> None:
    results = tmp_path / "parts.jsonl"
    script.main(["--data-dir", str(tmp_path), "--problems", "protein", "--results", str(results)])
    (row,) = map(json.loads, results.read_text().splitlines())
    assert (row["outcome"], row["missing"]) == ("skipped", "uci_protein.npz")
