"""The processes of a fit: a shard with its world gives the numbers of all rows, and alone nothing changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jkoflow.config import Settings
from jkoflow.data import read_table
from jkoflow.fitting import fit_table
from jkoflow.journal import Journal
from jkoflow.particles import Moments, Particles
from jkoflow.recipe import DescentSettings
from jkoflow.steps.descent import AveragedAdam
from jkoflow.steps.mixture import EMRules, maximise_likelihood
from jkoflow.world import ALONE, World
from oracles.blocks import generator, points
from oracles.quick_training import quick_recipe
from oracles.worlds import run_together

X = points(501, 3)
FITS: dict[str, dict[str, Any]] = {
    "auto": {"max_blocks": 3},
    "auto, blocks alone": {"closing": None, "max_blocks": 3},
    "jko": {"objective": "jko", "gamma": 0.4, "max_blocks": 2},
    "flow_matching": {"objective": "flow_matching"},
    "end_to_end": {"objective": "end_to_end", "gamma": 0.4, "max_blocks": 2},
}
WEIGHT = torch.rand(501, generator=generator(3), dtype=torch.float64)


def shard(world: World, *, weighted: bool) -> Particles:
    """Every second row, or all rows alone."""
    rows = slice(None) if world is ALONE else slice(world.rank, None, 2)
    return Particles(X[rows], weight=WEIGHT[rows] if weighted else None, world=world)


@pytest.mark.parametrize("weighted", [False, True])
def test_statistics_of_shards_are_those_of_all_rows(weighted: bool) -> None:
    def statistics(world: World) -> Tensor:
        rows = shard(world, weighted=weighted)
        norms, moments = rows.x.norm(dim=1), Moments.of(rows)
        numbers = [rows.mean(norms), rows.standard_error(norms), rows.effective_rows]
        parts = [moments.mean, moments.covariance.flatten(), moments.shrunk.flatten()]
        return torch.cat([torch.tensor(numbers, dtype=torch.float64), *parts])

    alone = statistics(ALONE)
    for together in run_together(2, statistics):
        torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_em_of_shards_is_that_of_all_rows(weighted: bool) -> None:
    start = torch.rand(501, 3, generator=generator(1), dtype=torch.float64)
    start = start / start.sum(dim=1, keepdim=True)

    def mixture(world: World) -> Tensor:
        rows = shard(world, weighted=weighted)
        own = start if world is ALONE else start[world.rank :: 2]
        rules = EMRules(tolerance=0.0, iterations=6)
        law, _ = maximise_likelihood(rows.x, own, rules, weight=rows.weight, world=world)
        return torch.cat([law.weights, law.means.flatten(), law.full_covariances.flatten()])

    alone = mixture(ALONE)
    for together in run_together(2, mixture):
        torch.testing.assert_close(together, alone, rtol=1e-8, atol=1e-10)


def test_an_update_is_against_the_gradient_of_all_rows() -> None:
    """Each process has its half of the batch; the weights stay the same in both."""
    batch = X[:500]

    def trained(world: World) -> Tensor:
        model = nn.Linear(3, 1, bias=False).double()
        with torch.no_grad():
            model.weight.fill_(0.3)
        own = batch if world is ALONE else batch[world.rank :: 2]
        optimiser = AveragedAdam(model, DescentSettings(5, 500, 0.1), world)
        for _ in range(5):
            optimiser.update((model(own).squeeze(1) - own[:, 0]).square().mean(), 0.1)
        return model.weight.detach().clone()

    alone = trained(ALONE)
    assert not torch.allclose(alone, torch.full_like(alone, 0.3))
    for together in run_together(2, trained):
        torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-12)


def test_a_decision_is_the_first_ones_and_is_written_once() -> None:
    log: list[dict[str, object]] = []

    def decided(world: World) -> object:
        return Journal(write=log.append, world=world).decide("updates", lambda: 70 + world.rank, block=1)

    assert run_together(2, decided) == [70, 70]
    assert [entry["value"] for entry in log] == [70]


def test_a_draw_is_divided() -> None:
    sizes = run_together(2, lambda world: len(shard(world, weighted=False).draw(101, generator())))
    assert sizes == [51, 50]


def test_rows_are_gathered_and_the_largest_number_found() -> None:
    gathered = run_together(2, lambda world: world.gather(shard(world, weighted=False).x))
    assert all(torch.equal(rows, torch.cat([X[::2], X[1::2]])) for rows in gathered)
    assert run_together(2, lambda world: world.largest(float(world.rank))) == [1.0, 1.0]


def test_alone_nothing_changes() -> None:
    assert ALONE.sum(X) is X
    assert ALONE.gather(X) is X
    assert ALONE.largest(2.5) == 2.5
    assert ALONE.broadcast("a") == "a"
    assert ALONE.share(7) == 7
    assert ALONE.is_first
    values = torch.full((2**20,), 0.1, dtype=torch.float32)
    assert ALONE.mean(values) == pytest.approx(float(values[0].double()), rel=1e-13)


@pytest.mark.parametrize("options", FITS.values(), ids=FITS)
def test_processes_with_rows_of_their_own_end_with_one_flow(options: dict[str, Any]) -> None:
    """A whole fit, bit for bit: every decision, moment and gradient is that of all processes."""
    table = points(400, 2)
    table[:, 1] += table[:, 0] ** 2

    def fit(world: World) -> dict[str, Tensor]:
        rows = read_table(table[world.rank :: 2].numpy())
        fitted = fit_table(rows, settings=Settings(**options), recipe=quick_recipe(updates=12), world=world)
        assert len(fitted.model.flow) > 0
        flow, gammas = fitted.model.flow, torch.tensor([block.gamma for block in fitted.model.flow])
        return {"scale": torch.from_numpy(fitted.model.schema.scale), "gammas": gammas, **flow.state_dict()}

    one, other = run_together(2, fit)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
