"""Rows of the race: one JSON object a line, and the paired differences that follow from them.

    D_is = NLL_ours(x_i) - NLL_theirs(x_i) by fits of seed s,    x_i of the n test rows of all folds, s of S
    difference = mean_is D_is,    SE² = std_i(mean_s D_is)²/n + Σ_f (n_f/n)² std_s(mean_(i in f) D_is)²/S

The first part of SE² is what other test rows would change, the second what other seeds of both fits would,
seeds being independent within a fold f. What is left over in D_is of row and seed together stands in both
parts, so that their sum is an upper bound in expectation. With few seeds the second part is itself
uncertain: `degrees` of freedom are by Welch and Satterthwaite, (v_1 + v_2)²/(v_1²/(n - 1) + Σ_f v_2f²/(S -
1)). With one seed the second part is not known, SE is that of the rows alone and `degrees` n - 1.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from contenders import is_ours

sys.path.append(str(Path(__file__).parents[1]))

from run_record import append_rows, mean_with_error

__all__ = ["OURS", "Record", "Task", "is_complete", "paired", "read_rows", "seed_variance"]

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
        fit_seed: Of the fit; None where it is the seed of the race, which splits the rows.
    """

    problem: str
    fold: int
    contender: str
    budget: float | None
    fit_seed: int | None = None

    @property
    def name(self) -> str:
        """Of the run's files."""
        budget = "free" if self.budget is None else f"{self.budget:g}"
        seed = "" if self.fit_seed is None else f"-seed{self.fit_seed}"
        return f"{self.problem}-fold{self.fold}-{self.contender}-{budget}{seed}"


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
            is_rival = row["kind"] == "run" and not is_ours(row["contender"]) and row["outcome"] == "done"
            if not is_rival or _task(row) not in tasks or self.has(_task(row)):
                continue
            name = f"problems/{row['problem']}-fold{row['fold']}.npz"
            if not _same_rows(before / name, self.folder / name):
                raise SystemExit(f"--rivals-of: {row['problem']} has other rows than in run {earlier}")
            file = f"{_task(row).name}.npy"
            shutil.copyfile(before / file, self.folder / file)
            self.append("run", {**row, "run": self.head["run"], "taken_from": earlier})
            taken += 1
        return taken

    def append_pairs(self) -> None:
        """Rows of kind `paired` for which all fits of both are done and that are not there yet."""
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

    def _nll(self, done: list[Row], problem: str, contender: str, budget: float) -> list[Reals] | None:
        """NLL of each fold's test rows by each seed, `(seeds, rows)`; None while fits are missing."""
        rows = [
            row
            for row in done
            if (row["problem"], row["contender"]) == (problem, contender) and row["budget"] in (budget, None)
        ]
        if not is_complete(rows):
            return None
        files = {(row["fold"], row.get("fit_seed")): self.folder / f"{_task(row).name}.npy" for row in rows}
        folds, seeds = (sorted({key[place] for key in files}, key=str) for place in (0, 1))
        return [
            np.stack([np.load(files[fold, seed], allow_pickle=False) for seed in seeds]) for fold in folds
        ]


def is_complete(rows: Collection[Row]) -> bool:
    """Whether rows of one problem, contender and budget are those of all its folds and seeds."""
    fits = {(row["fold"], row.get("fit_seed")) for row in rows}
    return bool(rows) and all(len(fits) == row["folds"] * row.get("seeds", 1) for row in rows)


def paired(ours: Sequence[Reals], theirs: Sequence[Reals]) -> Row:
    """Mean of ours - theirs, nats, its standard error, degrees of freedom, and how many test rows and seeds.

    Arguments:
        ours: Of each fold the NLLs by seed and test row, `(S, n_f)`, nats.
        theirs: The same of the same rows.
    """
    differences = [one - other for one, other in zip(ours, theirs, strict=True)]
    by_row = mean_with_error("difference", np.concatenate([part.mean(axis=0) for part in differences]))
    n, seeds = sum(part.shape[1] for part in differences), len(differences[0])
    rows_part = by_row["difference_se"] ** 2
    parts = [
        seed_variance(part.mean(axis=1), part.shape[1] / n) if seeds > 1 else 0.0 for part in differences
    ]
    variance = rows_part + sum(parts)
    spread = rows_part**2 / (n - 1) + sum(part**2 for part in parts) / max(seeds - 1, 1)
    return {
        "difference": by_row["difference"],
        "difference_se": math.sqrt(variance),
        "degrees": variance**2 / spread if spread > 0 else n - 1,
        "test_rows": n,
        "seeds": seeds,
    }


def seed_variance(means: Sequence[float] | Reals, share: float) -> float:
    """What the seeds of a fold with this share of the test rows add to the variance of the mean, nats²."""
    return share**2 * float(np.var(means, ddof=1)) / len(means)


def _same_rows(one: Path, other: Path) -> bool:
    with np.load(one, allow_pickle=False) as a, np.load(other, allow_pickle=False) as b:
        return all(np.array_equal(a[key], b[key]) for key in ("train", "test"))


def _task(row: Row) -> Task:
    return Task(row["problem"], row["fold"], row["contender"], row["budget"], row.get("fit_seed"))
