"""The known shapes of the example: the default fit comes as close to the truth as the documentation says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "shapes.py"


@pytest.fixture(scope="module")
def shapes() -> ModuleType:
    spec = importlib.util.spec_from_file_location("shapes_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_runs_on_few_rows(shapes: ModuleType, tmp_path: Path) -> None:
    kl, error, model = shapes.kl_to_truth("rings", rows=600)
    # rings of width 0.08 against one blob: even 600 rows tell them apart
    assert kl < 1.5
    assert error < 0.1
    picture = tmp_path / "rings.png"
    shapes.draw({"rings": model}, str(picture))
    assert picture.stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "largest_kl"), [("rings", 0.10), ("checkerboard", 0.10), ("rose", 0.40), ("tree", 0.40)]
)
def test_defaults_come_close_to_the_truth(shapes: ModuleType, name: str, largest_kl: float) -> None:
    kl, error, _ = shapes.kl_to_truth(name, rows=50_000)
    assert kl + 2 * error < largest_kl
