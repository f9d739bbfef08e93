"""The laws of the coverage table have the densities that they say, and a case runs and is recorded once."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
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
        for name in ("laws", "cases", "run", "table"):
            spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
            assert spec is not None
            assert spec.loader is not None
            found[name] = importlib.util.module_from_spec(spec)
            patch.setitem(sys.modules, name, found[name])
            spec.loader.exec_module(found[name])
        yield found


TABLES = ("cases", "coverage", "missed")
COUNTS = {"shapes": 6, "mixtures": 1, "tails": 5}
KINDS = [(family, index) for family, count in COUNTS.items() for index in range(count)]


@pytest.mark.parametrize(("family", "index"), KINDS)
def test_density_is_that_of_the_samples(scripts: dict[str, ModuleType], family: str, index: int) -> None:
    """E_p[g/(p + g)] = E_g[p/(p + g)] for a Gaussian g half as wide again as p: both are bounded averages."""
    draws = [draw for part in scripts["laws"].FAMILIES[family] for draw in part]
    problem, rng = draws[index](np.random.default_rng(5)), np.random.default_rng(6)
    x = problem.sample(20_000, 3)
    assert x.shape == (20_000, problem.dim)
    gaussian = stats.multivariate_normal(x.mean(axis=0), 1.5 * np.cov(x.T))
    y = gaussian.rvs(20_000, random_state=rng).reshape(20_000, problem.dim)
    of_p = expit(gaussian.logpdf(x) - problem.log_prob(x))
    of_g = expit(problem.log_prob(y) - gaussian.logpdf(y))
    error = math.hypot(of_p.std(), of_g.std()) / math.sqrt(20_000)
    assert of_p.mean() > 20 * error
    assert abs(of_p.mean() - of_g.mean()) < 5 * error


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
    monkeypatch.setattr(run, "KL_RANGE", (0.0, 100.0))
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
        {"kl_nats": 0.1, "lower_nats": 0.06, "estimate_nats": 0.09, "upper_nats": 0.2},
        {"kl_nats": 0.1, "lower_nats": 0.12, "estimate_nats": 0.3, "upper_nats": 0.4},
        {"kl_nats": 0.1, "lower_nats": 0.01, "estimate_nats": 0.04, "upper_nats": 0.05},
        {"kl_nats": 0.01, "lower_nats": 0.0, "estimate_nats": 0.0, "upper_nats": None},
    ]
    assert table.summary("all", rows) == ["all", "3 of 4", "2 of 4", "2.00", "1 of 3", "2 of 3"]
