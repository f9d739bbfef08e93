"""Fits whose every bit is on record: whether a change of the code's shape has changed its results.

    digest = SHA-256 of the model's tensors, of samples, of scores, and of which steps were kept

Every method is fitted to small tables through the shell's own verb, with and without a context, and under a
budget whose decisions are replayed from run folders of an earlier version (benchmarks/pins/*_run). With
`--resume` each fit is also cut off after every step and gone on with, and must end with the same digests. The
numbers hold for one processor and one set of versions, which are recorded with them.

    python benchmarks/pinned_fits.py              compare with benchmarks/pins/digests.json; exit 1 if other
    python benchmarks/pinned_fits.py --resume     the same, after interruptions too
    python benchmarks/pinned_fits.py --write      put the digests of this code on record
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from sklearn.datasets import load_digits, load_wine, make_moons

from jkoflow import JKOFlow
from jkoflow.cli import main as shell

PINS = Path(__file__).parent / "pins"
DIGESTS = PINS / "digests.json"
BUDGET_RUN, JKO_BUDGET_RUN = PINS / "budget_run", PINS / "jko_budget_run"
SAMPLES = 300


def _wine() -> npt.NDArray[np.float64]:
    return load_wine().data[:, [0, 6, 9, 12]]


def _moons() -> npt.NDArray[np.float64]:
    return make_moons(500, noise=0.06, random_state=0)[0]


def _heavy_tails() -> npt.NDArray[np.float64]:
    source = np.random.default_rng(0)
    return source.standard_t(3, (800, 3)) @ source.normal(size=(3, 3))


def _digits() -> npt.NDArray[np.float64]:
    rows = load_digits().data[:400]
    return rows[:, rows.std(axis=0) > 0]


def _normal() -> npt.NDArray[np.float64]:
    source = np.random.default_rng(1)
    return source.normal(size=(300, 2)) @ np.array([[1.0, 0.9], [0.0, 0.4]])


TABLES: dict[str, Callable[[], npt.NDArray[np.float64]]] = {
    "wine": _wine,
    "moons": _moons,
    "heavy_tails": _heavy_tails,
    "digits": _digits,
    "normal": _normal,
}
GIVEN = {"kind": "geometric", "first": 0.1, "growth": 3.0, "free_last": True}
ADAPTIVE = {"kind": "adaptive", "first": 0.3, "rounds": 2, "stop_ratio": 1e-4}


@dataclass(frozen=True)
class Case:
    """A fit: the table, its settings, the columns that it is conditioned on, and a run to replay."""

    table: str
    settings: dict[str, Any] = field(default_factory=dict)
    context: str | None = None
    replayed: Path | None = None


CASES = {
    "auto on wine": Case("wine"),
    "auto on moons": Case("moons"),
    "auto on heavy tails": Case("heavy_tails"),
    "auto on digits": Case("digits"),
    "auto on normal rows": Case("normal"),
    "auto with a context": Case("wine", context="column 3"),
    "auto in float64": Case("moons", {"dtype": "float64"}),
    "auto, smoothed": Case("moons", {"smoothing": 0.05}),
    "auto under a budget": Case("heavy_tails", {"budget": 12.0}, replayed=BUDGET_RUN),
    "given step sizes": Case("moons", {"gamma": GIVEN, "max_blocks": 3}),
    "given step sizes with a context": Case("wine", {"gamma": 0.4, "max_blocks": 2}, context="column 3"),
    "jko": Case("moons", {"objective": "jko", "gamma": 0.4, "max_blocks": 2}),
    "jko, adaptive steps": Case("wine", {"objective": "jko", "gamma": ADAPTIVE, "max_blocks": 2}),
    # the budget is far beyond what block 1 takes, so that only the stop on record is obeyed on any machine
    "jko under a budget": Case(
        "moons", {"objective": "jko", "gamma": 0.4, "budget": 250.0, "max_blocks": 2}, replayed=JKO_BUDGET_RUN
    ),
    "end to end": Case("moons", {"objective": "end_to_end", "gamma": 0.4, "max_blocks": 2}),
}


def environment() -> dict[str, str]:
    """What the bits depend on beside the code."""
    model = next((line for line in _cpu_lines() if line.startswith("model name")), platform.processor())
    return {
        "processor": model.split(":")[-1].strip(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _cpu_lines() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []


def write_table(case: Case, folder: Path) -> Path:
    """The case's table as CSV, its numbers to the last digit."""
    rows = TABLES[case.table]()
    header = ",".join(f"column {number}" for number in range(rows.shape[1]))
    lines = [header, *(",".join(repr(float(number)) for number in row) for row in rows)]
    file = folder / f"{case.table}.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def fit(case: Case, run: Path, *, resume: bool = False) -> None:
    """Fit the case into the folder `run`, or go on with what is there."""
    settings = run.parent / "settings.toml"
    settings.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in case.settings.items()))
    if case.replayed is not None and not run.exists():
        shutil.copytree(case.replayed, run)
        resume = True
    table = write_table(case, run.parent)
    options = ["fit", str(table), "-o", str(run), "--seed", "0", "--config", str(settings)]
    options += ["--context", case.context] if case.context else []
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        status = shell([*options, *(["--resume"] if resume else [])])
    if status:
        raise SystemExit(f"the fit ended with exit status {status}: {told.getvalue()}")


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value)


def digests(case: Case, run: Path) -> dict[str, str]:
    """What the fit in `run` came to, as digests."""
    model, rows = JKOFlow.load(run), TABLES[case.table]()
    context = None if case.context is None else rows[:, [3]]
    data = rows if context is None else np.delete(rows, 3, axis=1)
    frame = dict(zip(model.model_.schema.names, data.T, strict=True))
    given = None if context is None else pd.DataFrame({case.context: context[:, 0]})
    drawn = model.sample(SAMPLES, random_state=1, context=None if given is None else given[:1])
    scores = model.score_samples(pd.DataFrame(frame), context=given)
    steps = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    taken = [[s["block"], s["round"], s["kept"], s["block_type"]] for s in steps if s["kind"] == "step"]
    return {
        "tensors": hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()[:16],
        "samples": hashlib.sha256(np.ascontiguousarray(drawn).tobytes()).hexdigest()[:16],
        "scores": hashlib.sha256(scores.tobytes()).hexdigest()[:16],
        "steps": json.dumps(taken),
    }


def interrupted(run: Path, n_steps: int, into: Path) -> Path:
    """A copy of a finished run as it was when `n_steps` steps were stored."""
    shutil.copytree(run, into)
    shutil.rmtree(into / "model")
    for file in (into / "checkpoints").iterdir():
        if int(file.stem.removeprefix("block_")) > n_steps:
            file.unlink()
    record = json.loads((into / "run.json").read_text())
    record.pop("results", None)
    (into / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))
    return into


def measure(name: str, folder: Path, *, resume: bool) -> tuple[dict[str, str], list[int]]:
    """The digests of a case, and after how many steps an interruption led elsewhere."""
    case = CASES[name]
    folder.mkdir()
    fit(case, folder / "run")
    found = digests(case, folder / "run")
    n_steps = len(json.loads(found["steps"])) if resume else 0
    astray = []
    for n_taken in range(n_steps):
        run = interrupted(folder / "run", n_taken, folder / f"resumed_{n_taken}")
        fit(case, run, resume=True)
        if digests(case, run) != found:
            astray.append(n_taken)
    return found, astray


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, or put on record; exit status 1 where something is other than on record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the digests on record")
    parser.add_argument(
        "--resume", action="store_true", help="also go on after an interruption at every step"
    )
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    options = parser.parse_args(arguments)
    recorded = json.loads(DIGESTS.read_text()) if DIGESTS.exists() else {"digests": {}}
    if recorded.get("environment") != environment():
        print(f"note: on record are the digests of {recorded.get('environment')}")
    measured, wrong = {}, 0
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(options.cases):
            measured[name], astray = measure(name, Path(folder) / str(number), resume=options.resume)
            expected = recorded["digests"].get(name, {})
            other = [key for key, value in measured[name].items() if expected.get(key) != value]
            wrong += bool(astray) or bool(other and not options.write)
            print(f"{name}: {'other ' + ', '.join(other) if other else 'the same'}", end="")
            print(f"; led elsewhere when resumed after {astray} steps" if astray else "", flush=True)
    if options.write:
        together = {**recorded["digests"], **measured}
        content = {"environment": environment(), "digests": together}
        DIGESTS.write_text(json.dumps(content, indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
