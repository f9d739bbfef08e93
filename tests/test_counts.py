"""Counts: what is none is refused in words, wherever the public interface takes one."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jkoflow import InputError, JKOFlow, NeuralODEBlock, Particles, Settings, make_law
from jkoflow.blocks.ode.velocity import MLPVelocity
from jkoflow.counts import checked_count, is_count
from jkoflow.flow import sample
from jkoflow.schedule import check_gamma
from jkoflow.storage import memory
from oracles.quick_training import use_quick_recipe

NO_COUNTS = (
    "3",
    "three",
    None,
    (2, 3),
    2.0,
    2.5,
    math.nan,
    math.inf,
    True,
    np.bool_(True),
    np.float64(2),
    [3],
)


@pytest.mark.parametrize("value", NO_COUNTS, ids=repr)
def test_what_is_no_count_is_refused_with_what_was_expected_what_came_and_a_remedy(value: object) -> None:
    with pytest.raises(InputError, match=r"^rows: expected a whole number, got .+; pass .+") as refusal:
        checked_count(value, "rows")
    assert "\n" not in str(refusal.value)
    assert not is_count(value)


@pytest.mark.parametrize(
    ("value", "remedy"), [("3", "pass 3"), (2.0, "pass 2"), (2.5, "pass a number such as 1"), (None, "as 1")]
)
def test_remedy_is_the_number_that_was_meant(value: object, remedy: str) -> None:
    with pytest.raises(InputError, match=f"{remedy}$"):
        checked_count(value, "rows")


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_whole_numbers_of_python_and_numpy_are_counts(value: Any) -> None:
    assert type(checked_count(value, "rows")) is int
    assert checked_count(value, "rows") == 3


def test_small_ones_are_refused_and_a_seed_may_be_any() -> None:
    with pytest.raises(InputError, match="rows: expected at least 2, got 1; pass 2 or more"):
        checked_count(1, "rows", least=2)
    assert checked_count(-(10**30), "seed", least=None) == -(10**30)


def test_long_value_is_told_in_one_short_line() -> None:
    with pytest.raises(InputError) as refusal:
        checked_count(np.zeros((40, 40)), "rows")
    assert len(str(refusal.value)) < 140
    assert "\n" not in str(refusal.value)


# ── everywhere ──


def rows() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.choice([-1.5, 1.5], size=(80, 1)) + 0.4 * rng.normal(size=(80, 2))


@pytest.fixture(scope="module")
def fitted() -> JKOFlow:
    with pytest.MonkeyPatch.context() as patch:
        use_quick_recipe(patch, updates=5)
        return JKOFlow(max_blocks=1, random_state=0).fit(rows())


def network(**options: Any) -> NeuralODEBlock:
    return NeuralODEBlock(MLPVelocity(dim=2, width=4, depth=1, n_frequencies=0), gamma=1.0, **options)


def normal() -> Any:
    return make_law("standard_normal", dim=2)


TAKERS: dict[str, Callable[[JKOFlow, Any], object]] = {
    "sample": lambda model, n: model.sample(n),
    "random_state of sample": lambda model, n: model.sample(1, random_state=n),
    "random_state": lambda model, n: JKOFlow(random_state=n).fit(rows()),
    "max_blocks": lambda model, n: JKOFlow(max_blocks=n, random_state=0).fit(rows()),
    "Model.sample": lambda model, n: model.model_.sample(n, seed=0),
    "seed of Model.sample": lambda model, n: model.model_.sample(1, seed=n),
    "sample of a flow": lambda model, n: sample(model.flow_, n, seed=0, like=torch.empty(0)),
    "Settings.max_blocks": lambda model, n: Settings(max_blocks=n),
    "Settings.seed": lambda model, n: Settings(seed=n),
    "rounds": lambda model, n: check_gamma({"kind": "adaptive", "rounds": n}),
    "Flow.truncated": lambda model, n: model.flow_.truncated(n),
    "Law.sample": lambda model, n: normal().sample(n, torch.Generator()),
    "Law.entropy": lambda model, n: make_law("rings").entropy(n, torch.Generator()),
    "make_law": lambda model, n: make_law("standard_normal", dim=n),
    "steps": lambda model, n: network(steps=n),
    "Particles.draw": lambda model, n: Particles(torch.zeros(3, 2)).draw(n, torch.Generator()),
    "Particles.chunks": lambda model, n: list(Particles(torch.zeros(3, 2)).chunks(n)),
}
MAY_BE_NONE = ("random_state", "random_state of sample")


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("value", NO_COUNTS, ids=repr)
def test_every_count_of_the_interface_is_checked(taker: str, value: object, fitted: JKOFlow) -> None:
    if value is None and taker in MAY_BE_NONE:
        return
    with pytest.raises(InputError, match="expected a whole number, got"):
        TAKERS[taker](fitted, value)


@pytest.mark.parametrize("taker", TAKERS)
def test_every_count_of_the_interface_may_be_numpys(
    taker: str, fitted: JKOFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_quick_recipe(monkeypatch, updates=5)
    TAKERS[taker](fitted, np.int64(2))


@pytest.mark.parametrize("law", ["standard_normal", "rings", "checkerboard", "log_cosh"])
def test_no_law_draws_what_is_no_count(law: str) -> None:
    made = make_law(law, **({"dim": 2} if law in ("standard_normal", "log_cosh") else {}))
    assert made.sample(0, torch.Generator()).shape == (0, 2)
    for value, word in (("3", "whole number"), (-1, "at least 0"), (10**12, "fit in memory")):
        with pytest.raises(InputError, match=word):
            made.sample(value, torch.Generator())


# ── memory ──


@pytest.mark.parametrize("n_rows", [10**12, 10**40])
def test_more_rows_than_fit_in_memory_are_refused_before_any_is_drawn(
    n_rows: int, fitted: JKOFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jkoflow.flow.sampling.base_noise", lambda *_, **__: pytest.fail("it was drawn"))
    with pytest.raises(InputError) as refusal:
        fitted.sample(n_rows)
    line = str(refusal.value)
    assert line.startswith(f"n_samples: expected rows that fit in memory, got {n_rows:,} of 2 columns")
    assert "are needed" in line
    assert "are free" in line
    if n_rows == 10**12:
        assert "about 96.0 TB of memory" in line
    assert line.endswith("draw fewer at a time, each time with another seed")


def test_rows_that_fit_are_drawn(fitted: JKOFlow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 100_000)
    assert len(fitted.sample(1000)) == 1000
    with pytest.raises(InputError, match=r"about 144 kB of memory are needed and 100 kB are free"):
        fitted.sample(1500)
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    assert len(fitted.sample(1500)) == 1500


@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell it otherwise")
def test_memory_of_this_machine_is_between_what_is_free_and_what_there_is() -> None:
    told = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total = 1024 * int(told["MemTotal"].split()[0])
    assert 0 < (memory.available_memory() or 0) <= total
