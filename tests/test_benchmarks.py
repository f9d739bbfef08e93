"""The benchmarks of speed run and write what they print, at tiny sizes."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from jkoflow import JKOFlow
from jkoflow.blocks import AffineBlock
from jkoflow.certify import Certificates, Claim, Evidence, KLBracket
from jkoflow.config import Settings
from jkoflow.data import Schema, read_table
from jkoflow.flow import Flow
from jkoflow.flow.likelihood import log_prob
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


# ── rows, blocks, memory ──


def test_scaling_tells_seconds_and_memory_by_rows_and_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real fits at tiny sizes; a page is filled and a picture drawn."""
    scaling = load(FOLDER / "scaling.py", monkeypatch)
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "performance.md"
    keys = ("scaling_rows", "scaling_blocks", "scaling_memory")
    page.write_text("".join(f"<!-- table {key} -->\n<!-- end -->\n" for key in keys))
    sizes = ["--rows", "50", "4000", "--blocks", "1", "4", "--memory-blocks", "1", "3"]
    options = ["--fit-rows", "5000", "--columns", "2", "--updates", "1", "--repeats", "1"]
    scaling.main([*sizes, *options, "--folder", str(tmp_path)])
    rows = [
        json.loads(line) for line in (tmp_path / "benchmarks/results/scaling.jsonl").read_text().splitlines()
    ]
    assert [(row["part"], row["size"]) for row in rows] == [
        *[("push", 50), ("push", 4000), ("score", 50), ("score", 4000)],
        *[("fit", 1), ("fit", 4), ("memory", 1), ("memory", 3)],
    ]
    seconds = {(row["part"], row["size"]): row["cpu_seconds"] for row in rows[:6]}
    assert min(seconds.values()) > 0
    assert seconds["score", 4000] > seconds["score", 50]
    assert seconds["fit", 4] > 1.5 * seconds["fit", 1]
    assert all(row["peak_mb"] > row["fit_mb"] >= 0 for row in rows[6:])
    assert "| push, CPU s |" in page.read_text()
    assert "| whole process, MB |" in page.read_text()
    assert (tmp_path / "docs" / "scaling.png").stat().st_size > 10_000


def test_scaling_reads_the_exponent_of_known_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    scaling = load(FOLDER / "scaling.py", monkeypatch)
    power = {"push": 1.0, "score": 2.0, "fit": 1.5}
    rows = [
        {"part": part, "size": size, "cpu_seconds": 0.1 * size**p}
        for part, p in power.items()
        for size in (20_000, 40_000, 80_000)
    ]
    rows += [{"part": "memory", "size": size, "fit_mb": 100 + size, "peak_mb": 500.0} for size in (4, 32)]
    found = scaling.tables(rows)
    ends = [line.split(" | ")[-1] for table in found.values() for line in table.splitlines()[2:]]
    assert ends == ["1 |", "2 |", "1.5 |", "1.269 |", "1 |"]
    mixed = scaling.whole_chunk_slope([1000, 20_000, 80_000], [9.0, 2.0, 8.0])
    assert mixed == pytest.approx(1.0)  # what is less than a chunk is left out


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_large_table_is_fitted_under_its_limit_and_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large_table = load(FOLDER / "large_table.py", monkeypatch)
    results = tmp_path / "large_table.jsonl"
    size = ["--rows", "400", "--columns", "2", "--max-blocks", "1", "--results", str(results)]
    large_table.main(size)
    large_table.main([*size, "--limit-mb", "16"])
    done, refused = (json.loads(line) for line in results.read_text().splitlines())
    assert done["outcome"] == "done"
    assert done["blocks"] <= 1
    assert done["table_mb"] == pytest.approx(400 * 2 * 8 / 2**20, rel=0.1)
    assert done["before_mb"] <= done["peak_anonymous_mb"] <= min(2048, done["peak_resident_mb"] + 1)
    assert done["excess_nats"] == pytest.approx(done["nll_nats"] - done["true_nll_nats"])
    assert done["excess_nats"] > -5 * done["excess_se_nats"]
    assert refused["outcome"] != "done"
    assert "nll_nats" not in refused


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_processes_end_with_the_same_model_and_rounding_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes, results = load(FOLDER / "processes.py", monkeypatch), tmp_path / "processes.jsonl"
    size = ["--rows", "600", "--columns", "3", "--rounding-rows", "60", "--processes", "1", "2"]
    processes.main([*size, "--results", str(results)])
    one, two, exact, changed = (json.loads(line) for line in results.read_text().splitlines())
    assert one["model_sha256"] == two["model_sha256"]
    assert min(one["peak_anonymous_mb"], two["peak_anonymous_mb"]) > 50
    assert (exact["changed_by"], changed["changed_by"]) == (0.0, 5e-8)
    assert len(exact["updates"]) == len(exact["kept"])


def test_large_table_records_how_a_process_ended_that_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    large_table = load(FOLDER / "large_table.py", monkeypatch)
    row = large_table.row_of_child([sys.executable, "-c", "raise SystemExit(3)"])
    assert row == {"outcome": "the process ended with exit code 3"}
    assert large_table.row_of_child([sys.executable, "-c", "print('{\"a\": 1}')"]) == {"a": 1}


# ── certificates that fail safely ──


@pytest.fixture
def fails_safely(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load(FOLDER / "certificates_fail_safely.py", monkeypatch)


def whitened(x: torch.Tensor, folder: Path, *more: AffineBlock) -> JKOFlow:
    """The Gaussian step of rows x and `more` blocks, as a fitted model in a folder."""
    table = read_table(x.numpy())
    schema = Schema.fit(table)
    rows = torch.as_tensor(schema.standardise(x.numpy()))
    first = AffineBlock.whitening(rows.mean(dim=0), rows.T.cov())
    flow = Flow(StandardNormal(x.shape[1]), [first, *more])
    save_model(Model(schema, flow, Settings(dtype="float64")), folder)
    return JKOFlow.load(folder)


def subject_in(folder: Path, *more: AffineBlock):
    subject = importlib.import_module("sabotages").Subject(folder, held_out=120)
    whitened(subject.rows("fit", 500), folder / "untouched", *more)
    return subject


def by_nll(evidence: Evidence) -> tuple[KLBracket, list[Claim]]:
    """In place of the bracket, which takes seconds: what -E[log q_0] is above 2 nats."""
    nats = -log_prob(evidence.flow, evidence.held_out.x).mean()
    return KLBracket(lower=max(0.0, float(nats) - 2)), []


def test_a_ladder_of_sabotages_ends_and_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_safely: ModuleType
) -> None:
    by_name = {sabotage.name: sabotage for sabotage in fails_safely.SABOTAGES}
    ladders = [
        replace(by_name["log-det sign"], sizes=(2.0, 1e-12, 1e-13, 1e-14)),
        replace(by_name["wrong scale"], sizes=(-0.8, 0.0)),
        replace(by_name["block skipped"], sizes=(1.0, 2.0)),  # there is one block
    ]
    monkeypatch.setattr(fails_safely.kl, "bracket", by_nll)
    record, subject = fails_safely.Record(tmp_path / "rows.jsonl"), subject_in(tmp_path)
    fails_safely.run_sabotages(record, subject, ladders)
    good, *rows = record.rows
    assert good["failed"] == []
    assert 0 < good["true_kl_nats"] < 2  # a Gaussian against six modes
    (block,) = subject.untouched().flow
    nll = math.log(2 * math.pi) + 1 - float(torch.linalg.slogdet(block.matrix)[1])
    assert good["kl_lower_nats"] == pytest.approx(nll - 2, abs=0.1)
    assert [(row["name"], row["size"], row["caught"]) for row in rows] == [
        ("log-det sign", 2.0, True),
        ("log-det sign", 1e-12, False),  # within rounding
        ("log-det sign", 1e-13, False),  # and the ladder ends
        ("wrong scale", -0.8, True),
        ("wrong scale", 0.0, False),
        ("block skipped", 1.0, False),
    ]
    assert len(rows[0]["failed"]) >= 1
    assert rows[0]["kl_lower_nats"] is None
    assert rows[3]["failed"] == []
    assert rows[3]["kl_lower_nats"] > rows[3]["threshold_nats"] == pytest.approx(3 * good["kl_lower_nats"])
    again = fails_safely.Record(tmp_path / "rows.jsonl")
    assert again.rows == record.rows
    fails_safely.run_sabotages(again, subject, ladders)
    assert len(again.rows) == len(record.rows)
    found = fails_safely.tables(again, ladders)
    line = found["sabotages"].splitlines()[2]
    assert line.startswith(
        "| log-det sign | log-determinants times 1 - size (2 flips the sign) | relative | 2 | 2 |"
    )
    assert line.endswith("| 1e-12, 1e-13 |")
    assert found["sums"].splitlines()[2].startswith("| 3 | 2 | 0 | 0 | 0 |")


@pytest.mark.parametrize(
    ("name", "size", "differs"),
    [
        ("log-det sign", 0.1, {"log_det"}),
        ("log-det of few rows", 0.5, {"log_det"}),
        ("log-det skipped", 1, {"log_det"}),
        ("inverse skipped", 1, {"pull"}),
        ("biased inverse", 0.1, {"pull"}),
        ("inverse of few rows", 0.5, {"pull"}),
        ("cold samples", 0.1, {"pull"}),
        ("wrong constant", 0.1, {"base"}),
        ("block skipped", 1, {"push", "pull", "log_det"}),
        ("shuffled blocks", 1, {"push", "pull"}),
    ],
)
def test_a_sabotage_changes_what_it_says_and_nothing_else(
    tmp_path: Path, fails_safely: ModuleType, name: str, size: float, differs: set[str]
) -> None:
    matrix, offset = torch.tensor([0.5, 1.0]).diag().double(), torch.tensor([0.0, 0.3]).double()
    subject = subject_in(tmp_path, AffineBlock(dim=2, matrix=matrix, offset=offset))
    (sabotage,) = (sabotage for sabotage in fails_safely.SABOTAGES if sabotage.name == name)
    honest, broken = subject.untouched(), sabotage.make(subject, size)
    x = honest.held_out.x
    assert torch.equal(broken.held_out.x, x)
    assert broken.seed == honest.seed
    answers = {
        "push": lambda flow: flow.push(x),
        "pull": lambda flow: flow.pull(x),
        "log_det": lambda flow: flow.log_det(x),
        "base": lambda flow: flow.law.log_prob(x),
    }
    changed = {
        key
        for key, answer in answers.items()
        if not torch.allclose(answer(honest.flow), answer(broken.flow), atol=1e-9)
    }
    assert changed == differs
    if "rank" in sabotage.unit:
        assert sabotage.make(subject, 9) is None


def test_weights_are_rounded_to_a_grid(fails_safely: ModuleType) -> None:
    rounded = importlib.import_module("sabotages")._rounded
    weights = torch.tensor([1.0, 0.3, -2.0, 0.2])
    assert torch.equal(rounded(weights, 0.25, torch.Generator()), torch.tensor([1.0, 0.5, -2.0, 0.0]))
    torch.testing.assert_close(rounded(weights, 1e-6, torch.Generator()), weights, atol=1e-6, rtol=0)
    assert torch.equal(rounded(torch.zeros(2), 0.5, torch.Generator()), torch.zeros(2))


def test_a_claim_that_fails_on_an_honest_flow_is_looked_at_again(
    tmp_path: Path, fails_safely: ModuleType
) -> None:
    honest_flows = importlib.import_module("honest_flows")
    case = honest_flows.draw_case("mixtures", 500, published=False)
    dim = case.problem.dim
    away = AffineBlock(dim=dim, matrix=torch.eye(dim).double(), offset=torch.ones(dim).double())
    stays = AffineBlock(dim=dim, matrix=torch.eye(dim).double())
    model = whitened(torch.as_tensor(case.rows("fit", 2000)), tmp_path / "model", away, stays)
    honest = honest_flows.Honest(case, model, 0.5, 0.01)

    def right(text: str, block: int | None = None, **changes: float) -> bool:
        claim = Claim(text, "", "plug-in", "fails", block=block)
        return fails_safely.right_to_fail(claim, honest._replace(**changes))

    normal = "pushed held-out rows cannot be told from N(0, I) by their energy distance: p = 0.005"
    assert right(normal)
    assert not right(normal, kl_nats=0.02)
    rises = "the block does not raise KL(.‖q), in nats"
    assert [right(rises, block) for block in (1, 2, 3)] == [False, True, False]
    assert math.isclose(honest.kl_nats, 0.5)
    assert not right("W2(p_n, q) after the block is at most the bound of Theorem 4.3", 2)


def test_honest_flows_are_counted_by_whether_a_claim_fails_rightly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_safely: ModuleType
) -> None:
    honest_flows = importlib.import_module("honest_flows")
    case = honest_flows.draw_case("mixtures", 500, published=False)
    model = whitened(torch.as_tensor(case.rows("fit", 300)), tmp_path / "model")
    normal = Claim("rows cannot be told from N(0, I): p = 0.005", "", "plug-in", "fails", rows=1000)
    bound = Claim("W2(p_n, q) is at most the bound", "", "plug-in", "fails", block=1)
    seen = []

    def one_or_two(evidence: Evidence) -> Certificates:
        seen.append(evidence)
        found = (normal, bound) if len(seen) == 2 else (normal,)
        return Certificates(KLBracket(lower=0.1), (*found, replace(bound, verdict="holds")))

    monkeypatch.setattr(
        fails_safely,
        "load_honest",
        lambda number, folder: honest_flows.Honest(case, model, 0.05 + number, 0.01),
    )
    monkeypatch.setattr(fails_safely, "certify", one_or_two)
    record = fails_safely.Record(tmp_path / "rows.jsonl")
    fails_safely.run_honest(record, 3, tmp_path)
    fails_safely.run_honest(
        fails_safely.Record(tmp_path / "rows.jsonl"), 3, tmp_path
    )  # nothing is left to do
    assert [evidence.seed for evidence in seen] == [0, 1, 2]
    assert len(seen[0].held_out) == case.fit.held_out
    assert [[entry["right"] for entry in row["failed"]] for row in record.rows] == [
        [True],
        [True, False],
        [True],
    ]
    found = fails_safely.tables(record)
    assert found["sums"].splitlines()[2].startswith("| 0 | 0 | 3 | 2 | 1 |")
    assert [line.split(" | ")[-2:] for line in found["honest"].splitlines()[2:]] == [
        ["1", "0 |"],
        ["1", "1 |"],
        ["1", "0 |"],
    ]
    assert "| rows cannot be told from N(0, I) | 3 | 0 |" in found["failed"]
    assert "| W2(p_n, q) is at most the bound | 0 | 1 |" in found["failed"]
