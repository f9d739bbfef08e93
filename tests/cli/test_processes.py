"""`torchrun -m jkoflow`: what two processes fit, draw and score is what one does, killed or not."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import jkoflow
from cli.commands import SECONDS, tree
from jkoflow.storage.chunks import PUSH_ROWS

pytestmark = [pytest.mark.slow, pytest.mark.processes]

N = 2 * PUSH_ROWS  # of 80 % of them, which are trained on, each of two processes has some
OWN = Path(__file__).parent.parent
PROGRAM = f"""
import os, signal, sys, time
sys.path.insert(0, {str(OWN)!r})
from jkoflow.cli import fit, main
from jkoflow.cli.progress import Progress
from oracles.quick_training import quick_recipe
import functools

fit.fit_table = functools.partial(fit.fit_table, recipe=quick_recipe())
signal.signal(signal.SIGINT, signal.default_int_handler)
rank, after, number, of = (int(word) for word in sys.argv.pop(1).split(","))
call = Progress.__call__

def call_and_end(progress, record):
    call(progress, record)
    if progress.steps == after and rank == int(os.environ.get("RANK", "0")):
        os.kill(os.getppid() if of else os.getpid(), number)
        time.sleep(20)

Progress.__call__ = call_and_end
sys.exit(main(sys.argv[1:]))
"""
"""`jkoflow` with a quick fit, in which a process, or the one that started it, gets a signal after a step."""

NEVER = "0,-1,0,0"
UNTOLD = re.compile(r'"(cpu_seconds|cpu_seconds_so_far)": [\d.e+-]+')


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table in both formats, settings, the program, and what one process makes of it in `one`."""
    path = tmp_path_factory.mktemp("processes")
    rng = np.random.default_rng(1)
    x = rng.normal(size=N)
    y = np.round(x**2 + 0.3 * rng.normal(size=N), 3)
    frame = pd.DataFrame({"x": x, "y": y, "z": rng.normal(size=N) * np.exp(x / 2)})
    frame.to_parquet(path / "table.parquet", row_group_size=5000)
    np.save(path / "table.npy", frame.to_numpy())
    (path / "settings.toml").write_text("max_blocks = 3\n")
    (path / "program.py").write_text(PROGRAM)
    end(path, 1, fit(path, "one"))
    return path


def fit(folder: Path, run: str, *more: str, table: str = "table.parquet") -> list[str]:
    given = ["--config", str(folder / "settings.toml"), *more]
    return ["fit", str(folder / table), "-o", str(folder / run), *given]


def end(
    folder: Path, count: int, arguments: list[str], *, ending: str = NEVER, ok: bool = True
) -> tuple[str, str]:
    """Run `jkoflow` in so many processes; what it printed on stdout and stderr."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    program = [str(folder / "program.py"), ending, *arguments]
    done = subprocess.run(
        [sys.executable, *(torchrun if count > 1 else []), *program],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        check=False,
    )
    assert (done.returncode == 0) == ok, done.stderr
    return done.stdout, done.stderr


def lines_of(text: str) -> list[str]:
    """What jkoflow says on stderr, not torchrun."""
    return [line for line in text.splitlines() if line.startswith("jkoflow: ")]


def check_same_run(folder: Path, run: str, table: str = "table.parquet") -> None:
    """The run is that of one process: model, settings, split, results, decisions, steps and checkpoints."""
    one, other = tree(folder / "one"), tree(folder / run)
    assert one.keys() == other.keys()
    for name, data in one.items():
        if not name.endswith(".safetensors"):
            texts = (UNTOLD.sub("", part.decode()) for part in (data, other[name]))
            first, second = texts
            if name == "run.json":
                first, second = (json.loads(UNTOLD.sub('"t": 0', p.decode())) for p in (data, other[name]))
                for record in (first, second):
                    record["table"] = {key: record["table"][key] for key in ("rows",)}
                    record["results"].pop("notes")
            elif name.startswith("checkpoints") or (table != "table.parquet" and "model" in name):
                continue  # with hashes of their own, or names of columns
            assert first == second, name
        else:
            assert data == other[name], name


def test_a_fit_by_two_processes_is_that_of_one_and_printed_once(folder: Path) -> None:
    out, err = end(folder, 2, fit(folder, "two"))
    check_same_run(folder, "two")
    steps = [json.loads(line) for line in (folder / "one" / "steps.jsonl").read_text().splitlines()]
    assert {step["kept"] for step in steps if step["kind"] == "step"} == {True, False}, "else it shows little"
    assert out.count("held-out NLL") == out.count("next: jkoflow") == 1
    assert err.count("rows to train") == 1
    assert lines_of(err) == []


def test_the_same_of_an_npy_file_by_three(folder: Path) -> None:
    end(folder, 3, fit(folder, "npy", table="table.npy"))
    check_same_run(folder, "npy", "table.npy")


def test_samples_and_scores_of_two_processes_are_those_of_one(folder: Path) -> None:
    for count in (1, 2):
        out, _ = end(
            folder,
            count,
            ["sample", str(folder / "one"), "-n", "3000", "--seed", "4", "-o", str(folder / f"s{count}.npy")],
        )
        assert out.count("3,000 rows") == 1
        out, _ = end(
            folder,
            count,
            [
                "score",
                str(folder / "one"),
                str(folder / "table.parquet"),
                "-o",
                str(folder / f"l{count}.npy"),
            ],
        )
        assert out.count("log-likelihoods") == 1
    for name in "sl":
        assert (folder / f"{name}1.npy").read_bytes() == (folder / f"{name}2.npy").read_bytes()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_other_with_a_line_and_any_number_resumes(folder: Path, rank: int) -> None:
    run = f"killed{rank}"
    arguments = fit(folder, run)
    _, err = end(folder, 2, arguments, ending=f"{rank},2,{int(signal.SIGKILL)},0", ok=False)
    # torchrun ends the other one as soon as it has seen it, which may be before that one has
    gone = f"process {1 - rank} of 2: another process of this run has ended"
    (line,) = lines_of(err)
    assert gone in line or "SIGTERM: interrupted after 2 block(s)" in line
    assert str(Path(jkoflow.__file__).parent) not in err, "a traceback"
    count = 1 + rank
    end(folder, count, [*arguments, "--resume"])
    check_same_run(folder, run)


def test_a_terminated_torchrun_says_how_to_go_on(folder: Path) -> None:
    arguments = fit(folder, "terminated")
    _, err = end(folder, 2, arguments, ending=f"0,2,{int(signal.SIGTERM)},1", ok=False)
    assert any("interrupted after" in line and "--resume" in line for line in lines_of(err)), err
    assert json.loads((folder / "terminated" / "run.json").read_text())["status"] == "interrupted"
    end(folder, 2, [*arguments, "--resume"])
    check_same_run(folder, "terminated")
    out, _ = end(folder, 2, [*arguments, "--resume"])
    assert out.count("the run is finished") == 1


def test_what_is_refused_is_told_once(folder: Path) -> None:
    _, err = end(folder, 2, fit(folder, "one"), ok=False)
    (line,) = lines_of(err)
    assert "already holds a run" in line
    frame = pd.read_parquet(folder / "table.parquet")
    frame.loc[N - 1, "y"] = np.nan
    frame.to_parquet(folder / "wrong.parquet")
    _, err = end(folder, 2, fit(folder, "wrong", table="wrong.parquet"), ok=False)
    (line,) = lines_of(err)
    assert "y (1 NaN)" in line
    assert not (folder / "wrong").exists()
