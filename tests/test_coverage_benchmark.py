"""The laws of the coverage table have the densities that they say, and a case runs and is recorded once."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

FOLDER = Path(__file__).parents[1] / "benchmarks" / "coverage"


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    """The scripts of the folder, with it on the path as when they are run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        found = {}
        for name in ("laws", "further_laws", "cases", "run", "table"):
            spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
            assert spec is not None
            assert spec.loader is not None
            found[name] = importlib.util.module_from_spec(spec)
            patch.setitem(sys.modules, name, found[name])
            spec.loader.exec_module(found[name])
        yield found


TABLES = ("cases first", "coverage first", "missed")
COUNTS = {"shapes": 6, "mixtures": 1, "tails": 5}
FURTHER = {"heavy": 4, "spikes": 3, "wide": 4, "scales": 2, "small": 2}
"""Thin curves are mixtures as the others, and share next to no mass with a Gaussian."""

KINDS = [(family, index) for family, count in (COUNTS | FURTHER).items() for index in range(count)]


@pytest.mark.parametrize(("family", "index"), KINDS)
def test_density_is_that_of_the_samples(scripts: dict[str, ModuleType], family: str, index: int) -> None:
    """E_p[g/(p + g)] = E_g[p/(p + g)] for a Gaussian g half as wide again as p: both are bounded averages."""
    families = scripts["laws"].FAMILIES | scripts["further_laws"].FURTHER_FAMILIES
    draws = [draw for part in families[family] for draw in part]
    problem, rng = draws[index](np.random.default_rng(5)), np.random.default_rng(6)
    x = problem.sample(20_000, 3)
    assert x.shape == (20_000, problem.dim)
    # around the bulk: the variance of a heavy tail is that of its farthest row
    off = np.abs(x - np.median(x, axis=0))
    bulk = x[(off <= np.quantile(off, 0.99, axis=0)).all(axis=1)]
    gaussian = stats.multivariate_normal(bulk.mean(axis=0), 1.5 * np.atleast_2d(np.cov(bulk.T)))
    y = gaussian.rvs(20_000, random_state=rng).reshape(20_000, problem.dim)
    of_p = expit(gaussian.logpdf(x) - problem.log_prob(x))
    of_g = expit(problem.log_prob(y) - gaussian.logpdf(y))
    error = math.hypot(of_p.std(), of_g.std()) / math.sqrt(20_000)
    assert of_p.mean() > 20 * error
    assert abs(of_p.mean() - of_g.mean()) < 5 * error


@pytest.mark.parametrize("index", range(3))
def test_masses_on_a_grid_are_those_of_the_samples(scripts: dict[str, ModuleType], index: int) -> None:
    """The mass of a row's first column is how often it is drawn, its others given independently."""
    draws = [draw for part in scripts["further_laws"].FURTHER_FAMILIES["grids"] for draw in part]
    problem = draws[index](np.random.default_rng(5))
    x = problem.sample(50_000, 3)
    assert np.allclose(np.rint(x / problem.grid_step) * problem.grid_step, x)
    rows, counts = np.unique(x[:, 0], return_counts=True)
    at = np.tile(x[0], (len(rows), 1))
    at[:, 0] = rows
    mass = np.exp(problem.log_prob(at))
    assert counts / len(x) == pytest.approx(mass / mass.sum(), abs=0.01)


def test_infinite_divergence_is_known_from_the_tails(scripts: dict[str, ModuleType]) -> None:
    """-log q_0 of a flow that ends in a normal law grows as |x|²: infinite up to a tail index of 2."""
    from jkoflow import JKOFlow

    cases = scripts["cases"]
    case = next(
        case
        for case in (cases.draw_case("heavy", number, published=False) for number in range(20))
        if case.problem.tail_index < 2
    )
    model = JKOFlow(budget=0.5, max_blocks=1, random_state=0).fit(case.rows("fit", 300))
    assert cases.tail_growth(model.flow_) == pytest.approx(2.0, abs=1e-2)
    assert cases.true_kl(case, model) == (math.inf, 0.0)


def test_published_cases_are_other_ones(scripts: dict[str, ModuleType]) -> None:
    draw = scripts["cases"].draw_case
    one, again, other = (
        draw("tails", 3, published=True),
        draw("tails", 3, published=True),
        draw("tails", 3, published=False),
    )
    assert np.array_equal(one.rows("fit", 5), again.rows("fit", 5))
    assert one.rows("fit", 5).shape != other.rows("fit", 5).shape or not np.allclose(
        one.rows("fit", 5), other.rows("fit", 5)
    )
    assert not np.allclose(one.rows("fit", 5), one.rows("truth", 5))


def test_a_case_is_recorded_once_and_its_row_makes_the_tables(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, table = scripts["run"], scripts["table"]

    def quick(self: object) -> object:
        from jkoflow import JKOFlow

        return JKOFlow(budget=0.5, max_blocks=1, random_state=0).fit(self.rows("fit", 300))  # type: ignore[attr-defined]

    monkeypatch.setattr(scripts["cases"].Case, "fitted", quick)
    monkeypatch.setattr(scripts["cases"], "TRUTH_ROWS", 500)
    wide = {name: replace(suite, kl_range=(0.0, 100.0)) for name, suite in scripts["cases"].SUITES.items()}
    monkeypatch.setattr(scripts["cases"], "SUITES", wide)
    file = tmp_path / "benchmarks" / "results" / "coverage.jsonl"
    file.parent.mkdir(parents=True)
    for _ in range(2):
        run.run_family("tails", 1, file, first=0, stride=1, published=True)
    (row,) = [json.loads(line) for line in file.read_text().splitlines()]
    assert row["outcome"] == "done"
    assert row["lower_nats"] <= row["estimate_nats"] <= row["upper_nats"]
    page = tmp_path / "docs" / "coverage.md"
    page.parent.mkdir()
    page.write_text("".join(f"<!-- table {key} -->\n<!-- end -->\n" for key in TABLES))
    monkeypatch.setattr(sys, "argv", ["table.py", "--folder", str(tmp_path)])
    table.main()
    assert "| tails |" in page.read_text()
    assert (tmp_path / "docs" / "coverage.png").stat().st_size > 5000


def test_coverage_counts_what_lies_inside(scripts: dict[str, ModuleType]) -> None:
    table = scripts["table"]
    rows = [
        {
            "kl_nats": 0.1,
            "lower_nats": 0.06,
            "estimate_nats": 0.09,
            "upper_nats": 0.2,
            "neighbours_nats": [0, 1],
        },
        {
            "kl_nats": 0.1,
            "lower_nats": 0.12,
            "estimate_nats": 0.3,
            "upper_nats": 0.4,
            "neighbours_nats": None,
        },
        {"kl_nats": 0.1, "lower_nats": 0.01, "estimate_nats": 0.04, "upper_nats": 0.05},
        {"kl_nats": 0.01, "lower_nats": 0.0, "estimate_nats": 0.0, "upper_nats": math.inf},
        {"kl_nats": math.inf, "lower_nats": 0.0, "estimate_nats": None, "upper_nats": math.inf},
    ]
    assert table.summary("all", rows) == ["all", "4 of 5", "3 of 5", "2.00", "2 of 4", "2 of 3", "1 of 4"]
