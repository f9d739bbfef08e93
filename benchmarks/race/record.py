"""Rows of the race: one JSON object a line, and the paired differences that follow from them.

difference = mean_i (NLL_ours(x_i) - NLL_theirs(x_i)),    SE = std_i/√n,    x_i test rows of all folds
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.append(str(Path(__file__).parents[1]))

from run_record import append_rows, mean_with_error

__all__ = ["OURS", "Record", "Task", "paired", "read_rows"]

Row = dict[str, Any]
Reals = npt.NDArray[np.float64]
OURS = "ours"


@dataclass(frozen=True)
class Task:
    """One run.

    Arguments:
        problem: Its name.
        fold: From 0.
        contender: Its name.
        budget: CPU-seconds; None for a contender that does not look at it.
    """

    problem: str
    fold: int
    contender: str
    budget: float | None

    @property
    def name(self) -> str:
        """Of the run's files."""
        budget = "free" if self.budget is None else f"{self.budget:g}"
        return f"{self.problem}-fold{self.fold}-{self.contender}-{budget}"


def read_rows(file: Path, run: str | None = None) -> list[Row]:
    """Rows of the file, or of one run of it."""
    if not file.exists():
        return []
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if run is None or row["run"] == run]


@dataclass(frozen=True)
class Record:
    """The rows of one run in a file that others may share.

    Arguments:
        file: JSON lines.
        folder: Where each run's NLLs are.
        head: What every row carries: the run's id, versions, seed.
    """

    file: Path
    folder: Path
    head: Mapping[str, Any]

    def rows(self, kind: str) -> list[Row]:
        """This run's rows of a kind."""
        return [row for row in read_rows(self.file, str(self.head["run"])) if row["kind"] == kind]

    def has(self, task: Task) -> bool:
        """Whether the run has a row for it, whatever its outcome."""
        return task in {_task(row) for row in self.rows("run")}

    def append(self, kind: str, row: Row) -> None:
        """One more row."""
        append_rows(self.file, [{"kind": kind, **self.head, **row}])

    def take_rivals(self, earlier: str, tasks: Collection[Task]) -> int:
        """Take over which of these tasks other contenders than ours did in an earlier run; how many.

        Raises:
            SystemExit: There is no such run with the same seed, or it had other rows.
        """
        before, rows = self.folder.parent / earlier, read_rows(self.file, earlier)
        seeds = {row["seed"] for row in rows}
        if not before.is_dir() or seeds != {self.head["seed"]}:
            raise SystemExit(
                f"--rivals-of: expected a run in {self.folder.parent} with seed {self.head['seed']}, "
                f"got {earlier!r} with {sorted(seeds) or 'no rows'}"
            )
        taken = 0
        for row in rows:
            is_rival = row["kind"] == "run" and row["contender"] != OURS and row["outcome"] == "done"
            if not is_rival or _task(row) not in tasks or self.has(_task(row)):
                continue
            name = f"problems/{row['problem']}-fold{row['fold']}.npz"
            if not _same_arrays(before / name, self.folder / name):
                raise SystemExit(f"--rivals-of: {row['problem']} has other rows than in run {earlier}")
            file = f"{_task(row).name}.npy"
            shutil.copyfile(before / file, self.folder / file)
            self.append("run", {**row, "run": self.head["run"], "taken_from": earlier})
            taken += 1
        return taken

    def append_pairs(self) -> None:
        """Rows of kind `paired` for which all folds of both are done and that are not there yet."""
        done = [row for row in self.rows("run") if row["outcome"] == "done"]
        seen = {(row["problem"], row["budget"], row["contender"]) for row in self.rows("paired")}
        ours = [row for row in done if row["contender"] == OURS]
        for problem, budget in dict.fromkeys((row["problem"], row["budget"]) for row in ours):
            names = dict.fromkeys(row["contender"] for row in done if row["problem"] == problem)
            mine = self._nll(done, problem, OURS, budget)
            for name in names:
                theirs = self._nll(done, problem, name, budget)
                if name == OURS or mine is None or theirs is None or (problem, budget, name) in seen:
                    continue
                row = {"problem": problem, "budget": budget, "contender": name}
                self.append("paired", row | paired(mine, theirs))

    def _nll(self, done: list[Row], problem: str, contender: str, budget: float) -> Reals | None:
        """NLL of every test row of all folds; None while folds are missing."""
        rows = {
            row["fold"]: row
            for row in done
            if (row["problem"], row["contender"]) == (problem, contender) and row["budget"] in (budget, None)
        }
        if not rows or len(rows) < next(iter(rows.values()))["folds"]:
            return None
        files = [self.folder / f"{_task(rows[fold]).name}.npy" for fold in sorted(rows)]
        return np.concatenate([np.load(file, allow_pickle=False) for file in files])


def paired(ours: Reals, theirs: Reals) -> Row:
    """Mean of ours - theirs over the same test rows, its standard error, and how many rows; nats."""
    return {**mean_with_error("difference", ours - theirs), "test_rows": len(ours)}


def _same_arrays(one: Path, other: Path) -> bool:
    with np.load(one, allow_pickle=False) as a, np.load(other, allow_pickle=False) as b:
        return set(a) == set(b) and all(np.array_equal(a[key], b[key]) for key in a)


def _task(row: Row) -> Task:
    return Task(row["problem"], row["fold"], row["contender"], row["budget"])
