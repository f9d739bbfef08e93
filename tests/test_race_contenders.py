"""Every contender's density has mass one, its draws are of it, and its map comes back."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks" / "race"
PACKAGES = {
    "ours": None,
    "ours_blocks": None,
    "ours_jko": None,
    "ours_zuko": "zuko",
    "ours_log_cosh": None,
    "ours_flow_matching": None,
    "gmm_validated": None,
    "gmm30": None,
    "forest": None,
    "vine": "pyvinecopulib",
    "kde": None,
    "published_jko": None,
    "nsf": "zuko",
    "maf": "zuko",
    "naf": "zuko",
    "maf_best": "zuko",
    "nsf_best": "zuko",
    "ffjord": "zuko",
    "flow_matching": "torchcfm",
    "flow_matching_ot": "torchcfm",
}
MODULES = ("density", "timed_descent", "trace_integral", "contenders")
BUDGET = {
    "ours": 2.5,
    "ours_blocks": 2.5,
    "ours_jko": 0.7,
    "ours_zuko": 0.7,
    "ours_log_cosh": 0.7,
    "gmm_validated": 0.4,
    "maf_best": 1.0,
    "nsf_best": 1.5,
    "naf": 1.0,
    "ours_flow_matching": 0.7,
    "published_jko": 1.0,
}
SHORTER = {name: {"gamma": 0.5, "max_blocks": 2} for name in ("ours_jko", "ours_zuko", "ours_log_cosh")}
"""What makes a fit end sooner than its budget does."""
SLOW = ("ours_blocks", "ours_jko", "naf", "maf_best", "nsf_best", "forest", "vine")


@pytest.fixture(scope="module")
def race() -> Iterator[dict[str, ModuleType]]:
    """The modules that contenders share, with their folder on the path as when they are run."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(FOLDER), *sys.path])
        for name in MODULES:
            patch.delitem(sys.modules, name, raising=False)
        yield {name: importlib.import_module(name) for name in MODULES}
        for name in set(sys.modules) - before:
            if str(FOLDER) in str(getattr(sys.modules[name], "__file__", None)):
                del sys.modules[name]


def load(name: str) -> ModuleType:
    if PACKAGES[name] is not None:
        pytest.importorskip(PACKAGES[name])
    entry = importlib.import_module("contenders").CONTENDERS[name]
    return importlib.import_module(f"contenders.{entry.module or name}")


def bent_rows(n: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(n, 2))
    rows[:, 1] = 0.7 * rows[:, 1] + 0.5 * (rows[:, 0] ** 2 - 1)
    return rows


def test_the_registry_names_the_packages(race: dict[str, ModuleType]) -> None:
    entries = race["contenders"].CONTENDERS
    assert {name: entry.package for name, entry in entries.items()} == PACKAGES
    files = {path.stem for path in (FOLDER / "contenders").glob("*.py")} - {"__init__", "zuko_flow"}
    assert files == {entry.module or name for name, entry in entries.items()}
    assert set(race["contenders"].STANDARD) <= files


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in PACKAGES]
)
def test_a_contender_is_a_density(
    race: dict[str, ModuleType], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    contender = load(name)
    if name == "published_jko":
        monkeypatch.setattr(contender, "BLOCKS", 2)
    options = {**race["contenders"].CONTENDERS[name].options, **SHORTER.get(name, {})}
    density = contender.fit(bent_rows(1500, 0), budget=BUDGET.get(name, 0.7), seed=0, **options)
    side = np.linspace(-6.5, 7.5, 52)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    mass = np.exp(density.log_prob(grid)).sum() * (side[1] - side[0]) ** 2
    assert math.isclose(mass, 1.0, abs_tol=0.02), mass
    # its draws are of its own density: E[f] over draws is ∫ f q
    drawn = density.sample(1000, 3)
    assert drawn.shape == (1000, 2)
    inside = np.exp(-np.square(grid - 0.5).sum(axis=1))
    expected = (np.exp(density.log_prob(grid)) * inside).sum() * (side[1] - side[0]) ** 2
    found = np.exp(-np.square(drawn - 0.5).sum(axis=1))
    assert abs(found.mean() - expected) < 5 * found.std() / math.sqrt(1000) + 2e-3
    assert np.array_equal(drawn, density.sample(1000, 3))
    rows = bent_rows(100, 1)
    error, check, evaluations = (
        density.round_trip_error(rows),
        density.log_prob_check(rows),
        density.velocity_evaluations,
    )
    if name in ("gmm30", "kde", "gmm_validated", "forest"):
        assert error is None
    else:
        assert 0 < error < (0.02 if name == "vine" else 1e-3)
    is_integral = name in ("published_jko", "ffjord", "flow_matching", "flow_matching_ot")
    assert (check is not None) == is_integral
    assert check is None or 0 < check < 1e-3
    assert (evaluations is not None) == (is_integral or name.startswith("ours"))
    assert evaluations is None or evaluations >= (0 if name.startswith("ours") else 1), (
        "ours may be a closing alone"
    )
    assert contender.SETTINGS_TRIED is None or contender.SETTINGS_TRIED >= 1


def test_the_trace_integral_of_a_linear_field_is_its_closed_form(race: dict[str, ModuleType]) -> None:
    """dx/dt = A x over two segments, forwards and then backwards through -B: x(1) = e^B e^A x."""
    integral = race["trace_integral"]
    a = torch.tensor([[0.3, -0.5, 0.1], [0.4, -0.2, 0.0], [0.0, 0.7, 0.5]], dtype=torch.float64)
    b = torch.tensor([[-0.4, 0.2, 0.0], [0.0, 0.1, 0.3], [0.6, 0.0, 0.4]], dtype=torch.float64)
    segments = [
        integral.Segment(lambda t, x: x @ a.mT, 0.0, 1.0),
        integral.Segment(lambda t, x: -x @ b.mT, 1.0, 0.0),
    ]
    flow = integral.ContinuousFlow(segments, 3, tolerance=1e-9)
    x = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = x @ (torch.linalg.matrix_exp(b) @ torch.linalg.matrix_exp(a)).mT
    expected = torch.distributions.Normal(0, 1).log_prob(z).sum(dim=1) + a.trace() + b.trace()
    np.testing.assert_allclose(flow.log_prob(x.numpy()), expected.numpy(), atol=1e-6)
    noise = torch.as_tensor(flow.sample(50, 4))
    pushed = noise @ (torch.linalg.matrix_exp(b) @ torch.linalg.matrix_exp(a)).mT
    normal = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(pushed, normal, atol=1e-6, rtol=0)


def test_a_descent_keeps_its_best_weights_and_its_budget(race: dict[str, ModuleType]) -> None:
    """A loss that falls where the validation loss rises: what it kept is where it began."""
    descent = race["timed_descent"]
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(module.weight)
    seen: list[float] = []

    def validation() -> float:
        seen.append(module.weight.item())
        return -seen[0] + seen[-1] if len(seen) < 3 else 100.0

    clock = descent.Clock(0.3)
    descent.descend(module, lambda: -module.weight.sum(), validation, clock=clock, rate=0.1)
    assert module.weight.item() == seen[0]
    assert seen[-1] > seen[0]
    assert 0.25 < clock.used() < 0.6


def test_a_descent_with_patience_goes_back_and_on_with_half_the_rate(race: dict[str, ModuleType]) -> None:
    """The loss always asks for more, validation for no more than a tenth: it must not run away."""
    descent = race["timed_descent"]
    furthest = {}
    for patience in (None, 0.05):
        module = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(module.weight)
        seen: list[float] = []

        def validation(module: torch.nn.Linear = module, seen: list[float] = seen) -> float:
            seen.append(module.weight.item())
            return abs(seen[-1] - 0.1)

        loss = lambda module=module: -module.weight.sum()  # noqa: E731
        clock = descent.Clock(0.3)
        descent.descend(module, loss, validation, clock=clock, rate=0.01, patience=patience)
        furthest[patience] = max(seen)
        assert module.weight.item() == min(seen, key=lambda weight: abs(weight - 0.1))
    assert furthest[0.05] < 0.6 * furthest[None]


def test_an_update_that_is_not_finite_is_left_out(race: dict[str, ModuleType]) -> None:
    descent = race["timed_descent"]
    module = torch.nn.Linear(1, 1, bias=False)
    start = module.weight.item()
    descent.descend(
        module,
        lambda: module.weight.sum() * math.nan,
        module.weight.item,
        clock=descent.Clock(0.05),
        rate=0.1,
    )
    assert module.weight.item() == start


def test_every_row_is_in_one_batch_of_an_epoch(race: dict[str, ModuleType]) -> None:
    rows = torch.arange(10.0)[:, None]
    stream = race["timed_descent"].batches(rows, 5, torch.Generator().manual_seed(0))
    epoch = torch.cat([next(stream), next(stream)]).squeeze(1)
    assert sorted(epoch.tolist()) == list(range(10))
    assert epoch.tolist() != list(range(10))


def test_a_contender_splits_its_own_rows(race: dict[str, ModuleType]) -> None:
    rows = bent_rows(200, 0)
    fitted, held_out = race["density"].split(rows, 0)
    assert (len(fitted), len(held_out)) == (180, 20)
    assert len(np.unique(np.concatenate([fitted, held_out]), axis=0)) == 200


def test_global_random_state_is_given_back(race: dict[str, ModuleType]) -> None:
    torchs, numpys = torch.random.get_rng_state(), np.random.get_state()  # noqa: NPY002
    with race["density"].seeded(3):
        first = torch.rand(1), np.random.random()  # noqa: NPY002
    assert torch.equal(torch.random.get_rng_state(), torchs)
    assert np.array_equal(np.random.get_state()[1], numpys[1])  # noqa: NPY002
    with race["density"].seeded(3):
        assert (torch.rand(1), np.random.random()) == first  # noqa: NPY002
