"""The race's images, heavy-tailed laws and tables of whole numbers, at tiny sizes."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy import stats

from race_modules import imported

MODULES = ("density", "heavy_tails", "images", "planar", "tables", "problems", "contenders", "worker", "run")


@pytest.fixture(scope="module")
def race() -> Iterator[dict[str, ModuleType]]:
    with imported(MODULES) as modules:
        yield modules


def pixels(n: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size=(n, size)).astype(np.uint8)


def test_a_student_law_is_scipys(race: dict[str, ModuleType]) -> None:
    law = race["heavy_tails"].Student(dim=4)
    place = np.arange(4)
    shape = 0.6 ** np.abs(place[:, None] - place)
    draws = law.sample(200_000, torch.Generator().manual_seed(0))
    expected = stats.multivariate_t(np.zeros(4), shape, df=3).logpdf(draws[:50])
    np.testing.assert_allclose(law.log_prob(draws[:50]), expected, rtol=1e-10)
    # a row's squared Mahalanobis length over d has an F(d, nu) law
    lengths = np.einsum("ij,jk,ik->i", draws.numpy(), np.linalg.inv(shape), draws.numpy()) / 4
    assert stats.kstest(lengths, stats.f(4, 3).cdf).pvalue > 1e-3


def test_a_turned_laplace_law_is_independent_before_the_turn(race: dict[str, ModuleType]) -> None:
    law = race["heavy_tails"].RotatedLaplace(dim=4)
    draws = law.sample(100_000, torch.Generator().manual_seed(0))
    turn = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
    sources = draws.numpy() @ turn
    np.testing.assert_allclose(law.log_prob(draws), stats.laplace.logpdf(sources).sum(axis=1), rtol=1e-10)
    assert all(stats.kstest(column, stats.laplace.cdf).pvalue > 1e-3 for column in sources.T)
    assert abs(np.corrcoef(np.abs(sources.T))[np.triu_indices(4, 1)]).max() < 0.02


@pytest.mark.parametrize("name", ["student", "laplace"])
def test_the_truth_of_a_heavy_tailed_problem_is_that_of_its_standardised_rows(
    race: dict[str, ModuleType], name: str
) -> None:
    (problem,) = race["problems"].prepare(name, Path("no folder"), 0, 3000)
    assert problem.train.shape == (3000, 8)
    law = race["heavy_tails"].HEAVY_TAILS[name]
    raw = law.sample(3000, torch.Generator().manual_seed(0))
    # the constant between the two densities is Σ log s, of the training rows' deviations s
    scale = np.exp(problem.log_scale[0] / 8)
    assert 0.3 < scale / raw.std(dim=0).log().mean().exp() < 3
    centre = law.log_prob(torch.zeros(1, 8, dtype=torch.float64)).item()
    gap = problem.log_density(np.zeros((1, 8))).item() - centre
    assert gap == pytest.approx(problem.log_scale[0], abs=0.3)


def test_patches_lose_their_mean_and_what_is_twice(race: dict[str, ModuleType], tmp_path: Path) -> None:
    train, test = pixels(60, 64), pixels(20, 64, seed=1)
    train[1], test[0] = train[0], train[2]
    np.savez(tmp_path / "bsds300_patches_u8.npz", train=train, test=test)
    (problem,) = race["problems"].prepare("bsds", tmp_path, 0)
    assert problem.train.shape == (59, 63)
    assert problem.test.shape == (19, 63)
    # without its mean a row is known to 1/256, the noise of a pixel
    grey = train[0].astype(float) - train[0].mean()
    rows, _ = race["images"].patches({"train": train, "test": test}, np.random.default_rng(0))
    assert np.abs(rows[0] - grey[:-1] / 256).max() < 1 / 256
    np.testing.assert_allclose(problem.log_scale, np.log(rows.std(axis=0)).sum(), atol=0.5)


def test_usps_keeps_its_own_split_and_gets_noise_of_a_thousandth(
    race: dict[str, ModuleType], tmp_path: Path
) -> None:
    train, test = ((pixels(n, 256, seed=n) / 255).astype(np.float32) for n in (50, 20))
    np.savez(tmp_path / "usps.npz", X_train=train, X_test=test)
    (problem,) = race["problems"].prepare("usps", tmp_path, 0)
    assert (problem.train.shape, problem.test.shape) == ((50, 256), (20, 256))
    rows, _ = race["images"].usps_digits({"X_train": train, "X_test": test}, np.random.default_rng(0))
    noise = (rows - train) / 1e-3
    assert noise.min() >= 0
    assert noise.max() < 1
    assert noise.mean() == pytest.approx(0.5, abs=0.02)


def test_digits_are_logits_and_their_likelihood_comes_back_in_grey_levels(
    race: dict[str, ModuleType], tmp_path: Path
) -> None:
    images = pixels(100, 784).reshape(100, 28, 28)
    np.savez(tmp_path / "mnist_t10k.npz", images=images, labels=np.zeros(100, dtype=np.uint8))
    (problem,) = race["problems"].prepare("mnist", tmp_path, 0)
    assert (problem.train.shape, problem.test.shape) == ((90, 784), (10, 784))
    logits = race["images"].logit_digits(images, np.random.default_rng(0))
    share = (1 / (1 + np.exp(-logits)) - 1e-6) / (1 - 2e-6)
    assert np.array_equal(np.floor(256 * share).astype(int), images.reshape(100, 784))
    # log|dx/dy| by a difference quotient
    step = 1e-4
    x = 256 * (1 / (1 + np.exp(-np.stack([logits - step, logits + step]))) - 1e-6) / (1 - 2e-6)
    slopes = np.log((x[1] - x[0]) / (2 * step)).sum(axis=1)
    np.testing.assert_allclose(race["images"].grey_level_log_scale(logits), slopes, atol=1e-3)
    # grey levels uniform on 0, ..., 255 have 8 bits, and the law of logits that they come from gives them
    nll = race["images"].grey_level_log_scale(logits) * -1 + 784 * math.log(256)
    row = race["worker"].in_source_unit(nll, race["images"].grey_level_log_scale(logits), 784, is_grey=True)
    assert row["bits_per_dimension"] == pytest.approx(8.0)
    assert "bits_per_dimension" not in race["worker"].in_source_unit(nll, nll, 784, is_grey=False)


def test_a_problems_file_has_what_leads_to_the_sources_unit(
    race: dict[str, ModuleType], tmp_path: Path
) -> None:
    rows = np.random.default_rng(0).normal(size=(300, 2)) * [2.0, 5.0]
    problem = race["problems"].split_table("p", rows, np.random.default_rng(0))[0]
    np.testing.assert_allclose(problem.log_scale, math.log(10), atol=0.2)
    file = race["run"].write_problem(problem, tmp_path)
    row = race["worker"].measure(file, "kde", budget=1.0, seed=0, out=tmp_path / "out")
    assert row["log_scale_nats"] == pytest.approx(problem.log_scale[0])
    raw = stats.norm(scale=2).entropy() + stats.norm(scale=5).entropy()
    assert row["nll"] + row["log_scale_nats"] == pytest.approx(raw, abs=0.5)


def test_whole_numbers_of_adult_and_every_column_of_power_get_noise(
    race: dict[str, ModuleType], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 40, size=(6000, 6))
    names = race["problems"].ADULT_COLUMNS
    lines = [",".join(["workclass", *names]), *(", ".join(["Private", *map(str, row)]) for row in whole)]
    with gzip.open(tmp_path / "adult.csv.gz", "wt") as file:
        file.write("\n".join(lines))
    (adult,) = race["problems"].prepare("adult", tmp_path, 0)
    minutes = rng.integers(0, 1440, size=(6000, 8)).astype(float)
    np.savez(tmp_path / "power_raw_2weeks.npz", x=minutes)
    (power,) = race["problems"].prepare("power", tmp_path, 0)
    for problem in (adult, power):
        together = np.concatenate([problem.train, problem.test])
        assert together.shape[1] == 6
        assert all(len(np.unique(column)) == len(column) for column in together.T)
