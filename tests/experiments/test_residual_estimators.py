"""The injected error has the norm it says, and the estimators read what the page says they read."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from jkoflow.exact import Quadratic, jko_step
from test_benchmarks import load

SCRIPT = Path(__file__).parents[2] / "experiments" / "residual_estimators.py"


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load(SCRIPT, monkeypatch)


@pytest.mark.parametrize("eps", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("dim", [1, 4, 50])
def test_injected_error_has_its_norm(experiment: ModuleType, dim: int, eps: float) -> None:
    error, state = experiment.injected(experiment.start(dim), eps), experiment.start(dim)
    after = jko_step(state, experiment.GAMMA, Quadratic.standard(dim), error=error)
    assert error.norm(after) == pytest.approx(eps, rel=1e-6, abs=1e-12)


def test_estimators_read_what_was_injected(experiment: ModuleType, tmp_path: Path) -> None:
    sizes = ["--dims", "2", "8", "--rows", "600", "--repetitions", "1"]
    experiment.main(["--folder", str(tmp_path), *sizes])
    record = json.loads((tmp_path / "experiments" / "results" / "residual_estimators.json").read_text())
    rows = {(row["d"], row["eps"]): row for row in record["rows"]}
    assert len(rows) == 8
    for (dim, eps), row in rows.items():
        assert row["exact"] == pytest.approx(eps, rel=0.1, abs=1e-9)
        assert row["own"] == pytest.approx(eps, rel=0.1, abs=1e-6)  # followed by an exact free step
        assert row["variational"] < eps + 0.35
        if eps == 1:
            assert row["variational"] == pytest.approx(1, rel=0.25)
        if eps < 1:
            assert row["kernel"] > (0.4 if dim == 2 else 3)  # its floor, whatever eps
    # with nothing after the step the model's own score tells the step length over gamma
    assert rows[2, 0.0]["own_stopped"] > 1
