"""Blocks that are flows of zuko: identity at the start, beside other blocks, and what is refused."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import make_moons

from jkoflow import JKOFlow
from jkoflow.blocks.zuko import ZukoBlock, ZukoFamily
from jkoflow.errors import InputError
from jkoflow.flow import Flow
from jkoflow.particles import Particles
from oracles.blocks import autodiff_log_det, generator, make_block, points
from oracles.quick_training import use_quick_recipe


def new(transform: str, **options: Any) -> ZukoBlock:
    family = ZukoFamily(transform=transform, options={"transforms": 1, **options})
    return family.new(Particles(points(10, 3)), 0.5, generator=generator())


@pytest.mark.parametrize("transform", ["NSF", "MAF"])
def test_a_new_block_is_the_identity(transform: str) -> None:
    x = 0.9 * points(50, 3).clamp(-3, 3)
    z, log_det = new(transform).push_with_log_det(x)
    torch.testing.assert_close(z, x, atol=2e-6, rtol=0)
    torch.testing.assert_close(log_det, torch.zeros(50, dtype=torch.float64), atol=2e-6, rtol=0)


def test_new_and_read_blocks_seed_no_generator_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.manual_seed` would seed those of CUDA devices too, which nothing here puts back."""
    monkeypatch.setattr(torch, "manual_seed", lambda seed: pytest.fail("all generators were seeded"))
    before = torch.random.get_rng_state()
    config = new("NSF").to_config()
    ZukoBlock.from_config({name: value for name, value in config.items() if name != "kind"})
    assert torch.equal(before, torch.random.get_rng_state())


def test_new_weights_come_from_the_generator_alone() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = new("NSF").state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(2)
    second = new("NSF").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_mixed_with_other_blocks_the_flow_keeps_its_laws() -> None:
    names = ("affine", "zuko", "neural_ode", "zuko_affine", "mixture")
    flow = Flow([make_block(name) for name in names])
    x = points(20, 3)
    z, log_det = flow.push_with_log_det(x)
    torch.testing.assert_close(log_det, autodiff_log_det(flow, x), atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(flow.pull(z), x, atol=1e-6, rtol=1e-6)


def test_a_fit_of_splines_is_better_than_the_gaussian(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    use_quick_recipe(monkeypatch, updates=150)
    rows = make_moons(1500, noise=0.06, random_state=0)[0]
    held_out = make_moons(1000, noise=0.06, random_state=1)[0]
    model = JKOFlow(objective="jko", block="zuko", gamma=0.5, max_blocks=2, random_state=0).fit(rows)
    covariance = np.cov(rows.T)
    gaussian_nats = -(1 + np.log(2 * np.pi) + 0.5 * np.linalg.slogdet(covariance)[1])
    assert model.score(held_out) > gaussian_nats + 0.15
    model.save(tmp_path / "model")
    loaded = JKOFlow.load(tmp_path / "model")
    assert np.array_equal(loaded.score_samples(held_out), model.score_samples(held_out))


@pytest.mark.parametrize(
    ("transform", "options", "message"),
    [
        ("NoSuchFlow", {}, "expected transform to be a flow of zuko.flows, got 'NoSuchFlow'"),
        ("NSF", {"colour": 3}, "options of NSF"),
    ],
)
def test_wrong_transforms_are_refused_by_name(transform: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        new(transform, **options)


def test_without_zuko_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zuko", None)
    monkeypatch.setitem(sys.modules, "zuko.flows", None)
    with pytest.raises(InputError, match=r"pip install 'jkoflow\[zuko\]'"):
        new("NSF")
