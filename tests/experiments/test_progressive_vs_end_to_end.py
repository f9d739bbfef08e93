"""Problems are split and judged as they say, missing files are rows, and all methods train the same stack."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from experiments.scripts import load, run
from jkoflow.first_order.effective_gamma import ou_gammas
from jkoflow.functionals import KL
from jkoflow.laws import StandardNormal
from jkoflow.particles import Particles
from jkoflow.runtime import Runtime
from jkoflow.steps import initial_state


@pytest.fixture
def problems(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load("progressive_problems", monkeypatch)


@pytest.fixture
def script(problems: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load("progressive_vs_end_to_end", monkeypatch)


def normal(n: int, seed: int, dim: int = 2) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def test_frechet_of_known_gaussians(problems: ModuleType, seed: int) -> None:
    """A shift by c and a scale s of standard normals in d dimensions: |c|² + d (s - 1)²."""
    x = normal(1000, seed).double()
    whitened = (x - x.mean(dim=0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    moved = 1.5 * whitened + torch.tensor([0.3, -0.4])
    distance = problems.frechet(lambda rows: rows, whitened, moved)
    assert distance == pytest.approx(0.25 + 2 * 0.25, abs=2e-3)
    features = problems.fourier_features(2)
    assert problems.frechet(features, moved, moved) == pytest.approx(0, abs=1e-9)
    assert problems.frechet(features, whitened, moved) > problems.frechet(features, whitened, x)


def test_shape_in_standard_units_with_the_truth_beside_it(problems: ModuleType) -> None:
    problem = problems.make_problem("rings", None, rows=4000, seed=0)
    assert [len(part) for part in (problem.train, problem.validation, problem.test)] == [4000, 800, 800]
    assert float(problem.train.std(dim=0).sub(1).abs().max()) < 1e-3
    # no density has a smaller NLL than the truth; a standard normal has that of a Gaussian
    assert 1 < problem.truth_nll < 1 + math.log(2 * math.pi)


def test_table_from_a_file(problems: ModuleType, tmp_path: Path, seed: int) -> None:
    rows = np.random.default_rng(seed).gamma(2.0, size=(700, 3))
    np.savez(tmp_path / "uci_protein.npz", x=np.concatenate([rows, rows[:50]]))
    problem = problems.make_problem("protein", tmp_path, rows=10_000, seed=0)
    assert [len(part) for part in (problem.train, problem.validation, problem.test)] == [500, 100, 100]
    assert len(torch.unique(torch.cat([problem.train, problem.validation, problem.test]), dim=0)) == 700


def test_images_from_an_archive(
    problems: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Codes have variance 1 on the rows trained on, and decode to the pictures they are of."""
    import zipfile

    from PIL import Image

    monkeypatch.setattr(problems, "CODES", 4)
    monkeypatch.setattr(problems, "_IMAGE_PARTS", {"validation": 5, "test": 10})
    colours = np.random.default_rng(seed).integers(60, 200, size=(50, 3), dtype=np.uint8)
    with zipfile.ZipFile(tmp_path / "cifar10_test_jpg_5000.zip", "w") as archive:
        for number, colour in enumerate(colours):
            with archive.open(f"flat/{number:04}.jpg", "w") as file:
                Image.fromarray(np.broadcast_to(colour, (32, 32, 3)).copy()).save(file, "JPEG", quality=95)
    pixels = problems.read_images(tmp_path / "cifar10_test_jpg_5000.zip")
    np.testing.assert_allclose(pixels.reshape(50, -1, 3).mean(axis=1), colours / 255, atol=0.02)
    problem = problems.make_problem("images", tmp_path, rows=0, seed=0)
    assert [len(part) for part in (problem.train, problem.validation, problem.test)] == [35, 5, 10]
    np.testing.assert_allclose(problem.train[:, :3].std(dim=0), 1, rtol=1e-3)
    assert problem.features(problem.test.double()).shape == (10, 64)


@pytest.mark.parametrize("method", ["jko", "started", "end_to_end"])
def test_every_method_lowers_the_nll_with_the_same_stack(
    script: ModuleType, problems: ModuleType, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(script, "BLOCKS", 2)
    monkeypatch.setattr(script, "WIDTH", 16)
    problem = problems.make_problem("checkerboard", None, rows=500, seed=0)
    state = initial_state(KL(StandardNormal(2)), Particles(problem.train), Particles(problem.validation))
    runtime = Runtime(0)
    train = script.train_all if method == "end_to_end" else script.train_in_turn
    flow = train(method, state, (0.3, math.inf), 40, runtime, lambda number: False)
    # a started block bears the step size that its rows tell, which lies between these two
    least, most = ou_gammas(0.3) if method == "started" else (0.3, 0.3)
    first, last = flow
    assert least <= first.gamma <= most
    assert math.isinf(last.gamma)
    assert {block.velocity.width for block in flow} == {16}
    before = -float(StandardNormal(2).log_prob(problem.validation).mean())
    assert -float(script.log_prob(flow, problem.validation).mean()) < before


def test_the_budget_sets_the_updates(
    script: ModuleType, problems: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that gives a second to each update of a block, and 7 to whatever else a training does.

    Of 400 CPU-seconds 0.9 go into updates: 180 for a block alone, its 7 taken off; 360 for both at two each.
    """
    asked: list[tuple[int, int]] = []

    def train(
        method: str, state: object, gammas: tuple[float, ...], updates: int, runtime: object, stop: object
    ) -> None:
        asked.append((len(gammas), updates))
        clock[0] += updates * len(gammas) + 7

    clock = [0.0]
    monkeypatch.setattr(script.time, "process_time", lambda: clock[0])
    monkeypatch.setattr(script, "BLOCKS", 2)
    problem = problems.make_problem("checkerboard", None, rows=500, seed=0)
    state = initial_state(KL(StandardNormal(2)), Particles(problem.train), Particles(problem.validation))
    for name, method, updates in (("train_in_turn", "jko", 173), ("train_all", "end_to_end", 176)):
        monkeypatch.setattr(script, name, train)
        asked.clear()
        _, done = script.fit(method, state, budget=400, runtime=Runtime(0))
        assert asked[-1] == (2, updates)
        assert done["cpu_seconds"] == 2 * updates + 7


@pytest.mark.slow
def test_missing_files_are_rows_that_name_them(script: ModuleType, tmp_path: Path) -> None:
    sizes = ("--only", "rings", "protein", "--methods", "end_to_end", "--rows", "400", "--budget", "0.5")
    rows = run(script, tmp_path, "--data-dir", str(tmp_path), *sizes)
    assert rows[-1] == {"problem": "protein", "outcome": "skipped", "missing": "uci_protein.npz"}
    real, gaussian, trained = rows[:-1]
    assert [real["method"], gaussian["method"], trained["method"]] == ["real rows", "Gaussian", "end_to_end"]
    assert real["nll_nats"] < gaussian["nll_nats"]
    assert 0 < real["frechet"] < trained["frechet"]
    assert trained["fit_mb"] > 0
    assert trained["round_trip_error"] < 1e-3
