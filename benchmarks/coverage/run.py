"""Coverage: whether the bracket of the KL holds the true KL, over flows from bad to good.

    python benchmarks/coverage/run.py [--suite NAME] [--develop] [--cases 100] [--only FAMILY] [--share I/K]

There are two suites of a hundred cases, of laws of other kinds, in which all families have about the same
number of cases. Cases are drawn in order of their numbers; those whose true KL lies outside the range of the
suite are recorded and replaced by the next number. Every case appends a row to
benchmarks/results/coverage.jsonl (or coverage_develop.jsonl); cases that are there already are not run
again, so an interrupted run goes on where it was. The certificate gets the model, the rows of the fit and
rows that it never saw, nothing of the truth. `--share 0/2` and `--share 1/2` in two processes split the work.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from cases import SUITES, Case, draw_case, suite_of, true_kl

import jkoflow
from jkoflow.certify.kl import bracket

RESULTS = Path(__file__).parents[1] / "results"


def run_case(case: Case) -> dict[str, Any]:
    """Fit, measure the truth, certify; one row of the results."""
    row: dict[str, Any] = {**case.to_dict(), "jkoflow": jkoflow.__version__}
    start = time.process_time()
    model = case.fitted()
    row["fit_cpu_seconds"] = time.process_time() - start
    row["blocks"] = len(model.flow_)
    row["kl_nats"], row["kl_se_nats"] = true_kl(case, model)
    least, most = suite_of(case.family).kl_range
    if not least <= row["kl_nats"] <= most:
        return {**row, "outcome": "outside"}
    start = time.process_time()
    found, claims = bracket(case.evidence(model))
    row |= {"lower_nats": found.lower, "estimate_nats": found.estimate, "upper_nats": found.upper}
    row["neighbours_nats"] = next(claim.interval for claim in claims if "nearest" in claim.claim)
    return {**row, "certify_cpu_seconds": time.process_time() - start, "outcome": "done"}


def recorded(file: Path) -> dict[str, str]:
    """Outcome of each case that is in the file."""
    if not file.exists():
        return {}
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {row["case"]: row["outcome"] for row in rows}


def main() -> None:
    """Run the cases that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--develop", action="store_true", help="the cases that the bracket was developed on")
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--suite", choices=SUITES, default="first")
    parser.add_argument("--only", nargs="*", help="families of the suite; all if not given")
    parser.add_argument("--share", default="0/1", metavar="I/K", help="every K-th number, from the I-th")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    index, count = (int(part) for part in options.share.split("/"))
    file = options.folder / f"coverage{'_develop' if options.develop else ''}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    families = SUITES[options.suite].families
    for position, family in enumerate(families):
        wanted = options.cases // len(families) + (position < options.cases % len(families))
        wanted = wanted // count + (index < wanted % count)
        if not options.only or family in options.only:
            run_family(family, wanted, file, first=index, stride=count, published=not options.develop)


def run_family(family: str, wanted: int, file: Path, *, first: int, stride: int, published: bool) -> None:
    """Run a family's cases, in order, until as many as are wanted lie in the range."""
    done, number = 0, first
    outcomes = recorded(file)
    while done < wanted:
        case = draw_case(family, number, published=published)
        if case.name not in outcomes:
            row = run_case(case)
            outcomes[case.name] = row["outcome"]
            with file.open("a", encoding="utf-8") as results:
                results.write(json.dumps(row) + "\n")
            print(_line(row), flush=True)
        done += outcomes[case.name] == "done"
        number += stride


def _line(row: dict[str, Any]) -> str:
    told = f"{row['case']} {row['kind']}, {row['dim']} columns: KL {row['kl_nats']:.4f}"
    if row["outcome"] != "done":
        return f"{told}, {row['outcome']}"
    estimate = row["estimate_nats"]
    return (
        f"{told} in [{row['lower_nats']:.4f}, {row['upper_nats']:.4f}], "
        f"estimate {'none' if estimate is None else f'{estimate:.4f}'}, "
        f"{row['certify_cpu_seconds']:.0f} CPU s"
    )


if __name__ == "__main__":
    main()
