"""The tables and the picture of the race, from the rows of one run of `run.py`.

    python benchmarks/race/table.py [--run RUN] [--results FILE] [--folder ROOT]

Fills the tables of docs/race.md and draws docs/race.png. The mean over all test rows of several folds and
its standard error follow from those of the folds: N m = Σ n_k m_k, (N - 1) N SE² = Σ (n_k - 1) n_k SE_k² + Σ
n_k (m_k - m)². Of several seeds the mean is taken, and SE² is the mean of theirs, an upper bound on that of
their mean, plus what the seeds vary by (record.py).
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from contenders import CONTENDERS, is_ours
from pictures import draw
from record import OURS, Row, is_complete, read_rows, seed_variance
from scipy import stats

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "experiments"))

from publish import fill_tables, markdown_table  # noqa: E402  (after its folder is known)

__all__ = ["figures_of", "pooled", "tables_of"]

KINDS = ("laws", "wide tables and images", "small tables", "other tables")
WIDE_COLUMNS = 40
_BLANK = "–"


def pooled(rows: Sequence[Row], key: str) -> tuple[float, float]:
    """Mean over the test rows of all folds and over seeds, and its standard error."""
    seeds = {row.get("fit_seed") for row in rows}
    found = [_pooled_folds([row for row in rows if row.get("fit_seed") == seed], key) for seed in seeds]
    variance = statistics.mean(error**2 for _, error in found)
    if len(seeds) > 1:
        sizes = {row["fold"]: row["test_rows"] for row in rows}
        for fold, size in sizes.items():
            means = [row[key] for row in rows if row["fold"] == fold]
            variance += seed_variance(means, size / sum(sizes.values()))
    return statistics.mean(mean for mean, _ in found), math.sqrt(variance)


def _pooled_folds(rows: Sequence[Row], key: str) -> tuple[float, float]:
    total = sum(row["test_rows"] for row in rows)
    mean = sum(row["test_rows"] * row[key] for row in rows) / total
    within = sum((row["test_rows"] - 1) * row["test_rows"] * row[f"{key}_se"] ** 2 for row in rows)
    between = sum(row["test_rows"] * (row[key] - mean) ** 2 for row in rows)
    return mean, math.sqrt((within + between) / (total - 1) / total)


class Results:
    """The rows of one run, by problem, contender and budget."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = [row for row in rows if row["kind"] == "run"]
        self.pairs = [row for row in rows if row["kind"] == "paired"]
        self.done = [row for row in self.rows if row["outcome"] == "done"]
        self.problems = list(dict.fromkeys(row["problem"] for row in self.done))
        self.budgets = sorted({row["budget"] for row in self.done if row["budget"] is not None})
        raced = {row["contender"] for row in self.rows}
        self.contenders = [name for name in CONTENDERS if name in raced]

    def folds(self, problem: str, contender: str, budget: float | None) -> list[Row]:
        """Rows of all folds and seeds; nothing while one is missing."""
        found = [
            row
            for row in self.done
            if (row["problem"], row["contender"]) == (problem, contender) and row["budget"] in (budget, None)
        ]
        return found if is_complete(found) else []

    def value(
        self, problem: str, contender: str, budget: float | None, key: str
    ) -> tuple[float, float] | None:
        """Pooled mean and standard error of `nll` or `kl`; None where there is none."""
        found = self.folds(problem, contender, budget)
        return pooled(found, key) if found and key in found[0] else None


def values_table(results: Results, key: str) -> str:
    """Mean ± standard error of `nll` or `kl`, a line for each problem and budget."""
    lines = []
    for problem in results.problems:
        for budget in results.budgets:
            cells = [results.value(problem, name, budget, key) for name in results.contenders]
            if any(cells):
                lines.append([problem, f"{budget:g}", *(_with_error(cell) for cell in cells)])
    header = ("problem", "CPU s", *results.contenders)
    return markdown_table(header, lines) if lines else "None."


def paired_table(results: Results) -> str:
    """Ours - theirs ± standard error, bold where Student's interval of 95 % is on one side of 0."""
    found = {(row["problem"], row["budget"], row["contender"]): row for row in results.pairs}
    others = [name for name in results.contenders if name != OURS]
    lines = []
    for problem in results.problems:
        for budget in results.budgets:
            cells = [_difference(found.get((problem, budget, name))) for name in others]
            if any(cell != _BLANK for cell in cells):
                lines.append([problem, f"{budget:g}", *cells])
    return markdown_table(("problem", "CPU s", *others), lines) if lines else "None."


def cost_table(results: Results) -> str:
    """What each contender costs, at the largest budget: medians and largest values over runs."""
    lines = []
    for name in results.contenders:
        rows = [
            row
            for row in results.done
            if row["contender"] == name and row["budget"] in (results.budgets[-1], None)
        ]
        if rows:
            fit, peak = _all(rows, "fit_cpu_seconds"), _all(rows, "peak_mb")
            speed, draws = (_all(rows, f"{what}_rows_per_second") for what in ("log_prob", "sample"))
            evaluations, trips = _all(rows, "velocity_evaluations"), _all(rows, "round_trip_error")
            lines.append(
                [
                    name,
                    "not counted" if rows[0]["settings_tried"] is None else rows[0]["settings_tried"],
                    _summary(fit, max, ".0f"),
                    _summary(peak, statistics.median, ".0f"),
                    _summary(speed, statistics.median, ",.0f"),
                    _summary(draws, statistics.median, ",.0f"),
                    _summary(evaluations, statistics.median, ".0f"),
                    _summary(trips, statistics.median, ".1e"),
                    _summary(trips, max, ".1e"),
                    _summary(_all(rows, "log_prob_check_nats"), max, ".1e"),
                ]
            )
    header = (
        "contender",
        "settings tried",
        "fit, CPU s, largest",
        "memory of the fit, MB",
        "log_prob, rows/s",
        "samples/s",
        "velocity evaluations per sample",
        "round trip, median",
        "round trip, largest",
        "change of log_prob at a tenth of the tolerance, largest, nats",
    )
    return markdown_table(header, lines)


def budgets_table(results: Results) -> str:
    """CPU-seconds of our fits over their budgets, by kind of problem: median, largest, and where that was."""
    lines = []
    for name in filter(is_ours, results.contenders):
        rows = [row for row in results.done if row["contender"] == name and row["budget"]]
        for kind in KINDS:
            mine = [(row["fit_cpu_seconds"] / row["budget"], row) for row in rows if kind_of(row) == kind]
            if mine:
                shares = [share for share, _ in mine]
                largest, where = max(mine, key=lambda pair: pair[0])
                place = f"{where['problem']}, {where['budget']:g} s"
                lines.append(
                    [name, kind, len(mine), f"{statistics.median(shares):.2f}", f"{largest:.2f}", place]
                )
    header = ("contender", "problems", "fits", "median", "largest", "the largest was on")
    return markdown_table(header, lines) if lines else "None."


def units_table(results: Results) -> str:
    """What is to be added to an NLL for the unit of the source, by problem, and bits per dimension."""
    lines = []
    for problem in results.problems:
        rows = [row for row in results.done if row["problem"] == problem and "log_scale_nats" in row]
        if rows:
            added = statistics.mean({row["fold"]: row["log_scale_nats"] for row in rows}.values())
            told = [
                f"{row['contender']} {row['bits_per_dimension']:.3f}"
                for row in rows
                if row["budget"] in (results.budgets[-1], None) and "bits_per_dimension" in row
            ]
            lines.append([problem, rows[0]["columns"], f"{added:.3f}", ", ".join(told) or _BLANK])
    header = ("problem", "columns", "to be added, nats", "bits per dimension at the largest budget")
    return markdown_table(header, lines) if lines else "None."


def kind_of(row: Row) -> str:
    """The kind of problem that a row is of: by truth, columns and folds."""
    laws, wide, small, large = KINDS
    if "kl" in row:
        return laws
    if row["columns"] >= WIDE_COLUMNS:
        return wide
    return small if row["folds"] > 1 else large


def runs_table(results: Results) -> str:
    """Which run this is, and what it took."""
    first = next((row for row in results.rows if "taken_from" not in row), results.rows[0])
    outcomes = [row["outcome"] for row in results.rows]
    taken = dict.fromkeys(row["taken_from"] for row in results.rows if "taken_from" in row)
    hours = sum(row["fit_cpu_seconds"] + row["score_cpu_seconds"] for row in results.done) / 3600
    lines = [
        ["run", f"`{first['run']}`"],
        ["jkoflow, torch, seed", f"{first['jkoflow']}, {first['torch']}, {first['seed']}"],
        *(["other contenders' rows from", f"`{run}`"] for run in taken),
        *([outcome, outcomes.count(outcome)] for outcome in ("done", "failed", "skipped")),
        ["fits and likelihoods, CPU hours", f"{hours:.1f}"],
    ]
    return markdown_table(("", ""), lines)


def failures_table(results: Results) -> str:
    """What failed or was skipped, and what could not be measured of a fit that is done."""
    lines = [
        [*_where(row), row["outcome"], row.get("error") or row.get("missing")]
        for row in results.rows
        if row["outcome"] != "done"
    ]
    for row in results.done:
        lines += [[*_where(row), f"no {key}", why] for key, why in row["not_measured"].items()]
    header = ("problem", "fold", "contender", "CPU s", "outcome", "why")
    return markdown_table(header, lines) if lines else "None."


def tables_of(rows: Sequence[Row]) -> dict[str, str]:
    """All tables by the key of their place on the page."""
    results = Results(rows)
    return {
        "runs": runs_table(results),
        "kl": values_table(results, "kl"),
        "nll": values_table(results, "nll"),
        "paired": paired_table(results),
        "cost": cost_table(results),
        "budgets": budgets_table(results),
        "units": units_table(results),
        "failures": failures_table(results),
    }


def figures_of(rows: Sequence[Row]) -> dict[str, list[dict[str, Any]]]:
    """For each problem its points: contender, CPU-seconds (None without a budget), value, error, quantity."""
    results = Results(rows)
    panels: dict[str, list[dict[str, Any]]] = {}
    for problem in results.problems:
        key = "kl" if any("kl" in row for row in results.done if row["problem"] == problem) else "nll"
        panels[problem] = []
        for name in results.contenders:
            for budget in results.budgets if CONTENDERS[name].budgeted else [None]:
                value = results.value(problem, name, budget, key)
                if value is None:
                    continue
                spent = statistics.mean(_all(results.folds(problem, name, budget), "fit_cpu_seconds"))
                panels[problem].append(
                    {
                        "contender": name,
                        "seconds": None if budget is None else spent,
                        "value": value[0],
                        "error": value[1],
                        "quantity": key,
                    }
                )
    return panels


def _where(row: Row) -> list[Any]:
    return [row["problem"], row["fold"], row["contender"], row["budget"] or _BLANK]


def _all(rows: Sequence[Row], key: str) -> list[float]:
    return [row[key] for row in rows if row[key] is not None]


def _summary(values: Sequence[float], of: Callable[[Sequence[float]], float], shown: str) -> str:
    return format(of(values), shown) if values else _BLANK


def _with_error(value: tuple[float, float] | None) -> str:
    return _BLANK if value is None else f"{value[0]:.3f} ± {value[1]:.3f}"


def _difference(row: Row | None) -> str:
    if row is None:
        return _BLANK
    told = f"{row['difference']:+.3f} ± {row['difference_se']:.3f}"
    times = stats.t.ppf(0.975, row["degrees"]) if "degrees" in row else 2.0
    return f"**{told}**" if abs(row["difference"]) > times * row["difference_se"] else told


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables; write page and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--run", help="the run to show; the last in the file if not given")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--folder", type=Path, default=ROOT, help="root of results and docs")
    options = parser.parse_args(arguments)
    file = options.results or options.folder / "benchmarks" / "results" / "race.jsonl"
    rows = read_rows(file)
    if not rows:
        raise SystemExit(f"expected rows of run.py in {file}, got none; run the race first")
    run = options.run or rows[-1]["run"]
    rows = [row for row in rows if row["run"] == run]
    tables = tables_of(rows)
    print("\n\n".join(tables.values()))
    draw(figures_of(rows)).savefig(options.folder / "docs" / "race.png", bbox_inches="tight")
    tables["picture"] = "![Test NLL, or KL to the truth, against CPU-seconds](race.png)"
    page = options.folder / "docs" / "race.md"
    page.write_text(fill_tables(page.read_text(encoding="utf-8"), tables), encoding="utf-8")


if __name__ == "__main__":
    main()
