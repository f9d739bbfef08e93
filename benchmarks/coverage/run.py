"""Coverage: whether the bracket of the KL holds the true KL, over flows from bad to good.

    python benchmarks/coverage/run.py [--develop] [--cases 100] [--only FAMILY] [--share I/K]

Each family has a third of the cases. Cases are drawn in order of their numbers; those whose true KL lies
outside [0.005, 2] nats are recorded and replaced by the next number. Every case appends a row to
benchmarks/results/coverage.jsonl (or coverage_develop.jsonl); cases that are there already are not run
again, so an interrupted run goes on where it was. The certificate gets the model, its base law and rows that
the fit never saw, nothing of the truth. `--share 0/2` and `--share 1/2` in two processes split the work.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from cases import Case, draw_case, true_kl

import jkoflow
from jkoflow import JKOFlow
from jkoflow.certify import Evidence
from jkoflow.certify.kl import bracket
from jkoflow.particles import Particles
from laws import FAMILIES

RESULTS = Path(__file__).parents[1] / "results"
KL_RANGE = (0.005, 2.0)


def run_case(case: Case) -> dict[str, Any]:
    """Fit, measure the truth, certify; one row of the results."""
    row: dict[str, Any] = {**case.to_dict(), "jkoflow": jkoflow.__version__}
    start = time.process_time()
    model = case.fitted()
    row["fit_cpu_seconds"] = time.process_time() - start
    row["blocks"] = len(model.flow_)
    row["kl_nats"], row["kl_se_nats"] = true_kl(case, model)
    if not KL_RANGE[0] <= row["kl_nats"] <= KL_RANGE[1]:
        return {**row, "outcome": "outside"}
    start = time.process_time()
    found, _ = bracket(_evidence(case, model))
    row |= {"lower_nats": found.lower, "estimate_nats": found.estimate, "upper_nats": found.upper}
    return {**row, "certify_cpu_seconds": time.process_time() - start, "outcome": "done"}


def _evidence(case: Case, model: JKOFlow) -> Evidence:
    rows = model.model_.schema.standardise(case.rows("held out", case.fit.held_out))
    return Evidence(model.flow_, Particles(torch.as_tensor(rows).to(model.model_.like)), case.number)


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
    parser.add_argument("--only", choices=FAMILIES, nargs="*", default=list(FAMILIES))
    parser.add_argument("--share", default="0/1", metavar="I/K", help="every K-th number, from the I-th")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    index, count = (int(part) for part in options.share.split("/"))
    file = options.folder / f"coverage{'_develop' if options.develop else ''}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    for position, family in enumerate(FAMILIES):
        wanted = options.cases // len(FAMILIES) + (position < options.cases % len(FAMILIES))
        wanted = wanted // count + (index < wanted % count)
        if family in options.only:
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
    return (
        f"{told} in [{row['lower_nats']:.4f}, {row['upper_nats']:.4f}], "
        f"estimate {row['estimate_nats']:.4f}, {row['certify_cpu_seconds']:.0f} CPU s"
    )


if __name__ == "__main__":
    main()
