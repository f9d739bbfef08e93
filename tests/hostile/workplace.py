"""A folder of small valid files to be mutated, and `jkoflow` run on them under limits of time and memory."""

from __future__ import annotations

import contextlib
import io
import random
import resource
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from hostile import mutations
from jkoflow.blocks import AffineBlock, NeuralODEBlock
from jkoflow.blocks.ode.velocity import MLPVelocity
from jkoflow.cli import main
from jkoflow.config import Settings
from jkoflow.data import Schema, read_table, write_table
from jkoflow.flow import Flow
from jkoflow.laws import StandardNormal
from jkoflow.model import Model, save_model
from oracles.blocks import make_block

__all__ = ["DOCUMENTED", "Outcome", "Workplace", "limits", "run"]

DOCUMENTED = {0, 1, 2, 3, 4}
"""Exit statuses that a command may end with, whatever it is given."""

DIM = 2


class TooLong(BaseException):
    """A command that goes on for longer than it may; no handler of errors takes it for one."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its status, what it printed, and how long it took."""

    status: int
    printed: str
    seconds: float

    @property
    def faults(self) -> list[str]:
        """What is wrong with it; nothing where it was refused or served as documented."""
        found = []
        if self.status not in DOCUMENTED:
            found.append(f"status {self.status}")
        if "Traceback" in self.printed:
            found.append("a traceback")
        if not all(line.isprintable() for line in self.printed.split("\n")):
            found.append("characters that act")
        if self.status and not self.printed.rstrip("\n").split("\n")[-1].startswith("jkoflow: "):
            found.append("no line that says why")
        if self.status and any(word in self.printed for word in ("Error:", "object is not", "object has no")):
            found.append("words of Python")
        return found


@contextlib.contextmanager
def limits(*, more_bytes: int = 2**30) -> Iterator[None]:
    """No more address space than now and `more_bytes`, for the time of the block."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def run(arguments: list[str], *, seconds: int = 20) -> Outcome:
    """`jkoflow` with these arguments, in this process; one that goes on for too long is a fault."""

    def stop(number: int, frame: object) -> None:
        raise TooLong(arguments)

    before, out, start = signal.signal(signal.SIGALRM, stop), io.StringIO(), time.monotonic()
    signal.alarm(seconds)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            status = main(arguments)
    except TooLong:
        status = -1
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return Outcome(status, out.getvalue(), time.monotonic() - start)


def _network(rng: torch.Generator) -> NeuralODEBlock:
    velocity = MLPVelocity(dim=DIM, width=4, depth=1, n_frequencies=2, generator=rng)
    velocity.set_reach(torch.randn(30, DIM, generator=rng), displacement=0.3)
    return NeuralODEBlock(velocity, gamma=0.5, steps=2)


@dataclass
class Workplace:
    """Valid files below `folder`, and a copy of them that mutations are made in.

    Attributes:
        folder: Where they are.
        models: Folders of models of every kind of block.
    """

    folder: Path
    models: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        rows = np.column_stack([rng.normal(size=30), rng.integers(0, 9, 30) + 0.0])
        write_table(self.folder / "table.csv", rows, ["a", "b"])
        write_table(self.folder / "table.tsv", rows, ["a", "b"])
        write_table(self.folder / "table.npy", rows, ["a", "b"])
        write_table(self.folder / "table.parquet", rows, ["a", "b"])
        (self.folder / "settings.toml").write_text("max_blocks = 1\n")
        schema = Schema.fit(read_table(self.folder / "table.csv"))
        source = torch.Generator().manual_seed(0)
        blocks = {
            "network": [_network(source)],
            "closed": [_network(source), make_block("mixture", torch.float32, DIM)],
            "affine": [make_block("affine", torch.float32, DIM)],
            "zuko": [make_block("zuko", torch.float32, DIM)],
        }
        for name, parts in blocks.items():
            flow = Flow(StandardNormal(DIM), parts)
            save_model(Model(schema, flow, Settings(), facts={"training_rows": 30}), self.folder / name)
        flow = Flow(StandardNormal(DIM), [AffineBlock(dim=DIM)])
        facts = {"smoothing": {"kind": "brownian", "time": 0.01}}
        save_model(Model(schema, flow, Settings(), facts=facts), self.folder / "smooth")
        self.models = [*blocks, "smooth"]

    def fit_run(self) -> None:
        """One finished run, by whatever recipe `fit` has now."""
        outcome = run(
            ["fit", str(self.folder / "table.csv"), "-o", str(self.folder / "run"), "--config",
             str(self.folder / "settings.toml")], seconds=200,
        )  # fmt: skip
        assert outcome.status == 0, outcome.printed
        outcome = run(["certify", str(self.folder / "run")], seconds=200)
        assert outcome.status == 0, outcome.printed

    def copied_run(self, to: Path) -> Path:
        """A copy of the finished run."""
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(self.folder / "run", to)
        return to

    def mutated_model(self, rng: random.Random, to: Path) -> list[str]:
        """A model with one file mutated, in `to`; the command that is to read it."""
        name = rng.choice(self.models)
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(self.folder / name, to)
        file = rng.choice(("config.json", "config.json", "schema.json", "model.safetensors"))
        path = to / file
        if file == "model.safetensors":
            data = mutations.mutate_tensors(path.read_bytes(), rng)
            path.write_bytes(data)
            (to / "config.json").write_bytes(mutations.follow_hash((to / "config.json").read_bytes(), data))
        else:
            path.write_bytes(mutations.mutate_json(path.read_bytes(), rng))
        output = str(to.parent / "out.csv")
        verb = rng.choice(("score", "score", "sample"))
        if verb == "score":
            return ["score", str(to), str(self.folder / "table.csv"), "-o", output, "--overwrite"]
        return ["sample", str(to), "-n", "3", "--seed", "0", "-o", output, "--overwrite"]

    def mutated_options(self, rng: random.Random, to: Path) -> list[str]:
        """A fit with a file of options that is mutated."""
        to.parent.mkdir(parents=True, exist_ok=True)
        path = to.parent / "options.toml"
        path.write_bytes(mutations.mutate_options(rng))
        fitted = ["-o", str(to.parent / "fitted"), "--overwrite"]
        return ["fit", str(self.folder / "table.csv"), *fitted, "--config", str(path)]

    def mutated_table(self, rng: random.Random, to: Path) -> list[str]:
        """A fit to, or scores of, a table that is mutated."""
        to.parent.mkdir(parents=True, exist_ok=True)
        kind = rng.choice(("csv", "csv", "csv", "tsv", "npy", "npy", "npz", "parquet"))
        path = to.parent / f"mutated.{kind}"
        if kind in ("csv", "tsv"):
            data = (self.folder / f"table.{kind}").read_bytes()
            path.write_bytes(mutations.mutate_text(data, rng, "\t" if kind == "tsv" else ","))
        elif kind == "parquet":
            path.write_bytes(mutations.mutate_bytes((self.folder / "table.parquet").read_bytes(), rng))
        else:
            data = mutations.mutate_npy((self.folder / "table.npy").read_bytes(), rng)
            path.write_bytes(data if kind == "npy" else mutations.npz_of(data))
        if rng.random() < 0.8:
            model = str(self.folder / rng.choice(self.models))
            return ["score", model, str(path), "-o", str(to.parent / "out.csv"), "--overwrite"]
        return ["fit", str(path), "-o", str(to.parent / "fitted"), "--overwrite", "--config",
                str(self.folder / "settings.toml")]  # fmt: skip

    def mutated_run(self, rng: random.Random, to: Path) -> list[str]:
        """A run of which a record is mutated, to be reported on, certified or gone on with."""
        self.copied_run(to)
        verb = rng.choice(("report", "fit", "fit", "score"))
        if verb == "fit":
            # as a fit leaves it that was interrupted before its end
            record = (to / "run.json").read_text().replace('"finished"', '"interrupted"')
            (to / "run.json").write_text(record)
        names = ["run.json", "steps.jsonl", "environment.json", "certificates.json"]
        names += [str(path.relative_to(to)) for path in (to / "checkpoints").iterdir()]
        path = to / rng.choice(names)
        change = mutations.mutate_tensors if path.suffix == ".safetensors" else mutations.mutate_json
        path.write_bytes(change(path.read_bytes(), rng))
        table = str(self.folder / "table.csv")
        if verb == "fit":
            return ["fit", table, "-o", str(to), "--resume", "--config", str(self.folder / "settings.toml")]
        if verb == "score":
            return ["score", str(to), table, "-o", str(to.parent / "out.csv"), "--overwrite"]
        return ["report", str(to), "--overwrite"]
