"""All blocks at once: better on held-out rows, the given flow untouched, every block reached."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from jkoflow.blocks import AffineBlock
from jkoflow.errors import NumericalError
from jkoflow.flow import Flow, log_prob
from jkoflow.functionals import KL
from jkoflow.laws import StandardNormal
from jkoflow.methods.end_to_end import train_end_to_end
from jkoflow.recipe import DescentSettings
from jkoflow.runtime import Runtime
from jkoflow.steps import Step
from jkoflow.steps.descent import Descent
from oracles.blocks import generator
from oracles.solvers import SMALL, gaussian_particles

TRAIN, VALIDATION = gaussian_particles(800, 2), gaussian_particles(300, 2, seed=1)
STEP = Step(0, 0.5, TRAIN, VALIDATION, KL(StandardNormal(2)), Runtime(0, dtype=torch.float64))


def untrained(n_blocks: int = 3) -> Flow:
    flow = Flow(StandardNormal(2))
    for number in range(1, n_blocks + 1):
        flow = flow.then(SMALL.new(TRAIN, 0.5, generator=generator(number)))
    return flow


def trained(
    flow: Flow, *, seed: int = 0, updates: int = 60, divergence: str = "auto"
) -> tuple[Flow, Descent]:
    return train_end_to_end(
        flow,
        STEP,
        settings=DescentSettings(updates, 128, 1e-2),
        divergence=divergence,
        generator=generator(seed),
    )


def held_out(flow: Flow) -> float:
    return -float(log_prob(flow, VALIDATION.x).mean())


def test_held_out_nll_falls_to_what_is_reported() -> None:
    flow = untrained()
    refined, done = trained(flow)
    assert done.first == held_out(flow)
    assert done.best == held_out(refined)
    assert done.best < done.first - 0.1


def test_likelihood_is_maximised_to_the_known_optimum() -> None:
    """Gaussian rows: the flow comes within 0.1 nats of the Gaussian fitted in closed form."""
    x = TRAIN.x
    gaussian = Flow(StandardNormal(2), [AffineBlock.whitening(x.mean(dim=0), torch.cov(x.T))])
    refined, _ = trained(untrained(), updates=200)
    assert held_out(refined) < held_out(gaussian) + 0.1


def test_given_flow_stays_as_it_is() -> None:
    flow = untrained()
    before = {key: value.clone() for key, value in flow.state_dict().items()}
    refined, _ = trained(flow, updates=5)
    assert all(torch.equal(flow.state_dict()[key], before[key]) for key in before)
    assert not any(parameter.requires_grad for parameter in [*flow.parameters(), *refined.parameters()])


def test_every_block_is_trained() -> None:
    flow = untrained()
    refined, _ = trained(flow, updates=20)
    for one, other in zip(flow, refined, strict=True):
        assert not torch.equal(one.velocity.out.weight, other.velocity.out.weight)


def test_finished_flow_is_polished_never_worsened() -> None:
    """The best weights on held-out rows are kept, the start among them."""
    refined, _ = trained(untrained())
    again, _ = trained(refined, seed=1, updates=10)
    assert held_out(again) <= held_out(refined)


def test_a_divergence_names_no_block_where_all_descend_together() -> None:
    with pytest.raises(NumericalError, match=r"diverged 4 times.*\(step \d+\)") as caught:
        train_end_to_end(
            untrained(),
            replace(STEP, train=TRAIN.at(TRAIN.x * math.inf)),
            settings=DescentSettings(20, 128, 1e-2),
            divergence="auto",
            generator=generator(0),
        )
    assert caught.value.block is None


def test_same_seed_same_flow() -> None:
    flow = untrained(2)
    states = [
        trained(flow, seed=seed, updates=5, divergence="hutchinson")[0].state_dict() for seed in (1, 1, 2)
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not all(torch.equal(states[0][key], states[2][key]) for key in states[0])
