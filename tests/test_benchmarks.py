"""The benchmarks of speed run and write what they print, at tiny sizes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from jkoflow.blocks import AffineBlock
from jkoflow.config import Settings
from jkoflow.data import Schema, read_table
from jkoflow.flow import Flow
from jkoflow.laws import StandardNormal
from jkoflow.model import Model, save_model

FOLDER = Path(__file__).parents[1] / "benchmarks"


def load(path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, with its own folder on the path as when it is run."""
    monkeypatch.syspath_prepend(str(path.parent))
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(importlib.import_module("sys").modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_iteration_measures_every_contender(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    iteration = load(FOLDER / "speed" / "iteration.py", monkeypatch)
    monkeypatch.setattr(iteration, "START_UPDATES", 2)
    monkeypatch.setattr(iteration, "FLOW_BLOCKS", 2)
    results = tmp_path / "speed.jsonl"
    threads = str(torch.get_num_threads())
    options = [
        "--dims",
        "2",
        "--rows",
        "16",
        "--repeats",
        "1",
        "--threads",
        threads,
        "--results",
        str(results),
    ]
    with torch.random.fork_rng():
        iteration.main(options)
        iteration.main([*options, "--only-iterations"])
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    runs = list(dict.fromkeys(row["run"] for row in rows))
    assert len(runs) == 2
    first = [row for row in rows if row["run"] == runs[0]]
    assert {row["part"] for row in first} == {"iteration", "push", "pull", "log_prob"}
    assert {row["part"] for row in rows if row["run"] == runs[1]} == {"iteration"}
    for part in ("iteration", "push", "pull", "log_prob"):
        contenders = {row["contender"] for row in first if row["part"] == part}
        assert iteration.BASELINE in contenders
        assert len(contenders) >= 3
    for row in rows:
        ratio = row.get("time_over_published", row.get("rate_over_published"))
        assert ratio > 0
        assert ratio == 1 or row["contender"] != iteration.BASELINE
    assert "| published recipe |" in capsys.readouterr().out


def test_published_recipe_is_what_it_is_compared_as(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all d probes its trace is the Jacobian's, and with one probe it is that on average."""
    recipe = load(FOLDER / "speed" / "published_recipe.py", monkeypatch)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        velocity = recipe.PublishedVelocity(3).double()
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda row: velocity(row[None], 0.5)[0]))(x)
    exact = jacobian.diagonal(dim1=1, dim2=2).sum(dim=1)
    monkeypatch.setattr(recipe, "DIFFERENCE", 1e-6)
    torch.testing.assert_close(
        velocity.with_divergence(x, 0.5, recipe.unit_probes(x))[1], exact, atol=1e-5, rtol=0
    )
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
    estimates = [velocity.with_divergence(x, 0.5, [sign.expand(4, 3)])[1] for sign in signs]
    torch.testing.assert_close(torch.stack(estimates).mean(dim=0), exact, atol=1e-5, rtol=0)


def test_certify_speed_tells_every_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that is there already, certified in a process of its own."""
    certify_speed = load(FOLDER / "certify_speed.py", monkeypatch)
    x = certify_speed.draw(40, 2, part=0)
    assert torch.equal(certify_speed.draw(40, 2, part=0), x)
    assert not torch.equal(certify_speed.draw(40, 2, part=1), x)
    table = read_table(x.numpy())
    flow = Flow(StandardNormal(2)).then(AffineBlock(dim=2))
    save_model(Model(Schema.fit(table), flow, Settings()), tmp_path / "model")
    results = tmp_path / "certify_speed.jsonl"
    options = ["--rows", "60", "--columns", "2", "--model", str(tmp_path / "model")]
    certify_speed.main([*options, "--results", str(results)])
    (row,) = (json.loads(line) for line in results.read_text().splitlines())
    assert row["rows"] == 60
    seconds = row["cpu_seconds_by_reader"]
    assert set(seconds) == {"KL bracket", *certify_speed.readers._READERS}
    assert 0.5 * row["cpu_seconds"] <= sum(seconds.values()) <= row["cpu_seconds"] + 0.01
    assert (
        0 < row["before_mb"] <= row["peak_mb"] == max(row["peak_mb"], *row["peak_mb_after_reader"].values())
    )
    assert "| KL bracket, CPU s |" in capsys.readouterr().out
