"""A sweep trains each setting once, and a network without units or updates is worse."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from experiments.scripts import load, run
from jkoflow.flow import Flow
from jkoflow.laws import StandardNormal
from jkoflow.runtime import seed_stream


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load("error_sources", monkeypatch)


def test_series_takes_the_others_as_ample(script: ModuleType) -> None:
    """eps = 3 width^-1/2 updates^-2 gives back both exponents, and no row of another sweep."""
    ample = {"width": 64, "updates": 400}
    settings = [
        ample,
        *({**ample, "width": w} for w in (4, 16)),
        *({**ample, "updates": u} for u in (25, 100)),
    ]
    rows = [
        {**setting, "seed": seed, "eps_1": (3 + seed) * setting["width"] ** -0.5 * setting["updates"] ** -2.0}
        for setting in settings
        for seed in (0, 1)
    ]
    for name, expected, values in (("width", -0.5, [4, 16, 64]), ("updates", -2.0, [25, 100, 400])):
        at, centres, spread = script.series(rows, name, ample, "eps_1")
        assert at == values
        assert script.slope(at, centres) == pytest.approx(expected)
        assert spread == pytest.approx([centre / 7 for centre in centres])


def test_a_small_run_shows_that_training_lowers_the_kl(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "SWEEPS", {"width": (2,), "rows": (4000,), "updates": (80,)})
    monkeypatch.setattr(script, "AMPLE", {"width": 32, "rows": 16_000, "updates": 500})
    rows = run(script, tmp_path, "--scale", "0.1", "--repeats", "1", "--fresh-rows", "500")
    assert [(row["width"], row["rows"], row["updates"]) for row in rows] == [
        (32, 1600, 50),
        (2, 1600, 50),
        (32, 400, 50),
        (32, 1600, 20),
    ]
    untrained = script.kl_to_truth(
        Flow(StandardNormal(2)),
        script.law(),
        script.law().sample(500, seed_stream(0, "fresh rows")),
    )[0]
    assert rows[0]["kl_nats"] < 0.9 * untrained
    assert rows[0]["kl_nats"] < min(rows[1]["kl_nats"], rows[3]["kl_nats"])
    assert all(row["eps_1"] > 0 for row in rows)
