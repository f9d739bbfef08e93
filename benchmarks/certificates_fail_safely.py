"""Certificates fail safely: a broken flow is caught, an honest one is not accused.

    caught  = an integrity claim says *fails*, or KL lower > 3 max(KL lower of the untouched flow, 0.005 nats)
    accused = a claim of an honest flow says *fails* and is true

One good flow is broken in many ways, each at sizes from plain to slight; a ladder ends where two sizes in a
row are not caught. The KL is bracketed where no integrity claim fails. Then 20 flows that nothing was done
to, from poor to good, are certified in full. Every row is appended to
benchmarks/results/certificates_fail_safely.jsonl as it comes; what is there is not run again, so an
interrupted run goes on where it was. Fitted flows are kept in runs/fail_safely.

    python benchmarks/certificates_fail_safely.py [--table] [--only sabotage honest]

With `--table` nothing is run: the tables are printed and written into docs/fail_safely.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from honest_flows import load_honest, right_to_fail
from sabotages import SABOTAGES, Sabotage, Subject

import jkoflow
from jkoflow.certify import Claim, Evidence, certify, integrity, kl
from jkoflow.global_state import one_thread

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "experiments"))

from publish import markdown_table, write_tables  # noqa: E402  # a folder of scripts, no package

NAME = "certificates_fail_safely"
RESULTS, FITTED, PAGE = (
    ROOT / "benchmarks" / "results" / f"{NAME}.jsonl",
    ROOT / "runs" / "fail_safely",
    ROOT / "docs" / "fail_safely.md",
)
TIMES, FLOOR_NATS = 3.0, 0.005
MISSES = 2
POOR_NATS = 0.1
FLOWS = 20

SHORT = {
    "log_prob is the map's log-density, its Jacobian found anew": "Jacobian",
    "log_prob in float32 is, in the median row, that in float64": "float32",
    "all but a small share of the rows come back through the inverse and the map": "round trip",
    "samples and log_prob are of one normalised law": "one law",
}
"""What the table calls a claim on integrity."""

Row = dict[str, Any]


class Record:
    """Rows of the results, kept as they come.

    Arguments:
        file: JSON, a row per line.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        self.rows: list[Row] = [json.loads(line) for line in lines]

    def of(self, **key: Any) -> list[Row]:
        """The rows with these entries."""
        return [row for row in self.rows if all(row.get(name) == value for name, value in key.items())]

    def add(self, started: float, row: Row) -> Row:
        """Append a row, with the CPU-seconds since `started`."""
        seconds = round(time.process_time() - started, 2)
        full = {**row, "cpu_seconds": seconds, "jkoflow": jkoflow.__version__}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(full) + "\n")
        self.rows.append(full)
        return full


def run_sabotages(record: Record, subject: Subject, sabotages: Iterable[Sabotage] = SABOTAGES) -> None:
    """The untouched flow, then every ladder."""
    good = record.of(part="untouched") or [_untouched(record, subject)]
    threshold = TIMES * max(good[0]["kl_lower_nats"], FLOOR_NATS)
    for sabotage in sabotages:
        missed = 0
        for size in sabotage.sizes:
            found = record.of(part="sabotage", name=sabotage.name, size=size)
            row = found[0] if found else _sabotaged(record, subject, sabotage, size, threshold)
            if row is None:
                break
            missed = 0 if row["caught"] else missed + 1
            if missed == MISSES:
                break


def _untouched(record: Record, subject: Subject) -> Row:
    started, evidence = time.process_time(), subject.untouched()
    moves = [distance for distance, _ in subject.moves()]
    row = {"part": "untouched", **_seen(evidence, always=True), "blocks_move": moves}
    return record.add(started, {**row, "true_kl_nats": subject.true_kl()})


def _sabotaged(
    record: Record, subject: Subject, sabotage: Sabotage, size: float, threshold: float
) -> Row | None:
    started = time.process_time()
    evidence = sabotage.make(subject, size)
    if evidence is None:
        return None
    found = _seen(evidence)
    beyond = found["kl_lower_nats"] is not None and found["kl_lower_nats"] > threshold
    caught = bool(found["failed"]) or beyond
    row = {"part": "sabotage", "name": sabotage.name, "size": size, **found, "caught": caught}
    row = record.add(started, {**row, "threshold_nats": threshold})
    print(f"{sabotage.name} {size:g}: {_by(row)}", flush=True)
    return row


@one_thread()
def _seen(evidence: Evidence, *, always: bool = False) -> Row:
    """The integrity claims that fail, and where none does (or `always`) the lower end of the KL."""
    failed = [claim.claim for claim in integrity.claims(evidence) if claim.verdict == "fails"]
    lower = kl.bracket(evidence)[0].lower if always or not failed else None
    return {"failed": failed, "kl_lower_nats": lower}


def run_honest(record: Record, flows: int, folder: Path) -> None:
    """Full certificates of flows that nothing was done to."""
    for number in range(flows):
        if record.of(part="honest", number=number):
            continue
        started = time.process_time()
        honest = load_honest(number, folder)
        certificates = certify(honest.evidence("held out", honest.case.fit.held_out, seed=number))
        failed = [_told(claim, right=right_to_fail(claim, honest)) for claim in certificates.failed]
        row = {"part": "honest", "number": number, **honest.case.to_dict(), "failed": failed}
        row |= {"kl_nats": honest.kl_nats, "kl_se_nats": honest.kl_se_nats, "blocks": len(honest.model.flow_)}
        row |= {"kl_lower_nats": certificates.kl.lower, "claims": len(certificates.claims)}
        record.add(started, row)
        wrong = sum(not entry["right"] for entry in failed)
        print(f"honest {number}: {honest.kl_nats:.3g} nats, {len(failed)} fail, {wrong} wrongly", flush=True)


def _told(claim: Claim, *, right: bool) -> Row:
    kept = {"claim": claim.claim, "source": claim.source, "block": claim.block}
    return {**kept, "measured": claim.measured, "bound": claim.bound, "right": right}


def _by(row: Row) -> str:
    """What caught it."""
    if row["failed"]:
        return ", ".join(SHORT.get(claim, claim) for claim in row["failed"])
    return f"KL >= {row['kl_lower_nats']:.3g} nats" if row["caught"] else "not caught"


def tables(record: Record, sabotages: Sequence[Sabotage] = SABOTAGES) -> dict[str, str]:
    """The tables of the page by their keys."""
    return {
        "sabotages": markdown_table(
            ("sabotage", "what is done", "size is", "largest size", "smallest caught", "by", "not caught at"),
            [line for sabotage in sabotages if (line := _ladder(record, sabotage))],
        ),
        "untouched": markdown_table(
            (
                "blocks",
                "true KL, nats",
                "KL at least, nats",
                "caught above, nats",
                "integrity claims that fail",
            ),
            [
                (
                    ", ".join(f"{distance:.2g}" for distance in row["blocks_move"]),
                    row["true_kl_nats"],
                    row["kl_lower_nats"],
                    TIMES * max(row["kl_lower_nats"], FLOOR_NATS),
                    len(row["failed"]),
                )
                for row in record.of(part="untouched")
            ],
        ),
        "honest": markdown_table(
            (
                "flow",
                "law",
                "d",
                "true KL, nats",
                "KL at least, nats",
                "claims",
                "fail and are false",
                "accused",
            ),
            [_honest(row) for row in record.of(part="honest")],
        ),
        "failed": markdown_table(("claim that fails", "rightly", "wrongly"), _failed(record)),
        "sums": _sums(record, sabotages),
    }


def _ladder(record: Record, sabotage: Sabotage) -> Sequence[Any] | None:
    rows = record.of(part="sabotage", name=sabotage.name)
    if not rows:
        return None
    caught = [row for row in rows if row["caught"]]
    missed = [f"{row['size']:g}" for row in rows if not row["caught"]]
    last = (f"{caught[-1]['size']:g}", _by(caught[-1])) if caught else ("none", "–")
    largest = f"{sabotage.sizes[0]:g}" + ("" if rows[0]["caught"] else " (not caught)")
    return sabotage.name, sabotage.told, sabotage.unit, largest, *last, ", ".join(missed) or "–"


def _honest(row: Row) -> Sequence[Any]:
    wrong = sum(not entry["right"] for entry in row["failed"])
    law = f"{row['kind']}, {row['rows']} rows"
    told = (row["kl_nats"], row["kl_lower_nats"], row["claims"], len(row["failed"]) - wrong, wrong)
    return row["number"] + 1, law, row["dim"], *told


def _failed(record: Record) -> list[Sequence[Any]]:
    entries = [entry for row in record.of(part="honest") for entry in row["failed"]]
    names = dict.fromkeys(entry["claim"].split(":")[0] for entry in entries)
    return [
        (
            name,
            sum(entry["right"] for entry in entries if entry["claim"].startswith(name)),
            sum(not entry["right"] for entry in entries if entry["claim"].startswith(name)),
        )
        for name in names
    ]


def _sums(record: Record, sabotages: Sequence[Sabotage]) -> str:
    """What the page says first."""
    caught = [_ladder_caught(record, sabotage) for sabotage in sabotages]
    tried = [found for found in caught if found is not None]
    honest = record.of(part="honest")
    accused = [row for row in honest if any(not entry["right"] for entry in row["failed"])]
    poor = sum(row["kl_nats"] > POOR_NATS for row in honest)
    seconds = sum(row["cpu_seconds"] for row in record.rows)
    return markdown_table(
        ("sabotages", "caught at the largest size", "honest flows", "of them poor", "accused", "CPU min"),
        [(len(tried), sum(tried), len(honest), poor, len(accused), round(seconds / 60))],
    )


def _ladder_caught(record: Record, sabotage: Sabotage) -> bool | None:
    rows = record.of(part="sabotage", name=sabotage.name, size=sabotage.sizes[0])
    return bool(rows[0]["caught"]) if rows else None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("sabotage", "honest"), nargs="+", default=["sabotage", "honest"])
    parser.add_argument("--table", action="store_true", help="print and write the tables, run nothing")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--fitted", type=Path, default=FITTED, help="folder of the fitted flows")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    record = Record(options.results)
    if not options.table and "sabotage" in options.only:
        run_sabotages(record, Subject(options.fitted))
    if not options.table and "honest" in options.only:
        run_honest(record, FLOWS, options.fitted)
    found = tables(record)
    print("\n\n".join(found.values()))
    write_tables(options.page, found)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
