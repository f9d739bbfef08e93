"""The code of docs/extending.md runs, and each part that it adds does what it is for."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from jkoflow.config import Settings
from jkoflow.data import Schema, read_table
from jkoflow.data.columns import COLUMNS
from jkoflow.functionals import KL
from jkoflow.journal import Journal
from jkoflow.laws import StandardNormal
from jkoflow.methods import Job
from jkoflow.runtime import Runtime
from jkoflow.steps import State, initial_state
from oracles.blocks import autodiff_log_det, generator, points
from oracles.quick_training import quick_recipe
from oracles.solvers import gaussian_particles

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
LONGEST = 40


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    """What the blocks of the page define, in one session."""
    namespace: dict[str, Any] = {"__name__": "extending"}
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL):
        exec(compile(code, str(PAGE), "exec", dont_inherit=True), namespace)
    return namespace


def job_with(parts: dict[str, Any], **changes: Any) -> Job:
    settings = Settings(objective="jko", max_blocks=4)
    job = Job(settings, parts["ScaleFamily"](), Runtime(0), Journal(), quick_recipe(updates=400))
    return replace(job, **changes)


def start(functional: Any = None) -> State:
    rows = gaussian_particles(1500, 1, torch.float32)
    validation = gaussian_particles(500, 1, torch.float32, seed=1)
    return initial_state(functional or KL(StandardNormal(1)), rows, validation)


def test_no_part_takes_more_than_forty_lines() -> None:
    codes = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(codes) == 5
    assert max(code.count("\n") for code in codes) <= LONGEST


def test_the_block_keeps_the_laws_of_blocks(parts: dict[str, Any]) -> None:
    block = parts["ScaleBlock"](dim=3, gamma=0.5).double().requires_grad_(False)
    for parameter in block.parameters():
        parameter.normal_(generator=generator())
    x = points(20, 3)
    y, log_det = block.push_with_log_det(x)
    torch.testing.assert_close(log_det, autodiff_log_det(block, x))
    torch.testing.assert_close(block.pull(y), x)


def test_the_method_takes_a_gaussian_to_the_normal_law(parts: dict[str, Any]) -> None:
    state = parts["doubling"](start(), job_with(parts))
    assert [type(block).__name__ for block in state.flow] == ["ScaleBlock"] * 4
    assert float(state.train.x.std()) == pytest.approx(1, abs=0.05)
    assert float(state.train.x.mean()) == pytest.approx(0, abs=0.05)


def test_the_functional_ends_at_its_temperature(parts: dict[str, Any]) -> None:
    tempered = parts["Tempered"](StandardNormal(1), 2.0)
    state = parts["doubling"](start(tempered), job_with(parts))
    assert float(state.train.x.std()) == pytest.approx(2**0.5, abs=0.08)


def test_the_scheme_makes_two_blocks_of_a_step(parts: dict[str, Any]) -> None:
    job = job_with(parts, scheme=parts["halved"], settings=Settings(objective="jko", max_blocks=1))
    state = parts["doubling"](start(), job)
    assert [block.gamma for block in state.flow] == [0.5, 0.5]


def test_the_column_takes_a_log_normal_one_to_the_normal_law_with_its_density(parts: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    values = np.column_stack([np.exp(rng.normal(1.0, 2.0, size=5000)), rng.normal(size=5000)])
    schema = Schema.fit(read_table(values), kinds=(parts["PositiveColumn"], *COLUMNS.values()))
    assert [column.kind for column in schema.columns] == ["positive", "continuous"]
    z = schema.standardise(values)
    np.testing.assert_allclose(schema.decode(z), values, rtol=1e-9)
    assert stats.kstest(z[:, 0], "norm").pvalue > 0.01
    first, second = schema.columns
    nats = stats.norm.logpdf(z).sum(axis=1) + schema.log_jacobian(torch.from_numpy(z)).numpy()
    truth = stats.lognorm.logpdf(values[:, 0], first.scale, scale=np.exp(first.location))
    truth += stats.norm.logpdf(values[:, 1], second.location, second.scale)
    np.testing.assert_allclose(nats, truth, rtol=1e-9)
