"""A guard against slower code: CPU times as ratios within one run, never as seconds.

The partner of each ratio is what the work cannot do without: the matrix products of an update, a push for
each tangent, a push for a pull. Both take turns, and the least of several times counts, so that a busy
machine does not fail a test. Bounds are about twice the ratios measured: 2.8, 2.1, 10, 1.5, 2.0 in the order
below.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

import torch

from jkoflow.blocks import NeuralODEBlock
from jkoflow.blocks.log_det import push_with_log_det_by
from jkoflow.blocks.ode.family import NeuralODEFamily
from jkoflow.blocks.ode.velocity.perceptron import product
from jkoflow.functionals import KL
from jkoflow.global_state import one_thread
from jkoflow.laws import StandardNormal
from jkoflow.recipe import DescentSettings, Recipe
from jkoflow.runtime import Runtime
from jkoflow.steps import Step
from jkoflow.steps.proximal import descend_on_objective
from jkoflow.steps.regression import regress
from oracles.blocks import generator
from oracles.solvers import gaussian_particles

DIM, ROWS, UPDATES, TURNS = 10, 1024, 20, 6
PARTICLES = gaussian_particles(ROWS, DIM, torch.float32)
JUDGED = PARTICLES.rows(slice(0, 16))
STEP = Step(1, 0.1, PARTICLES, JUDGED, KL(StandardNormal(DIM)), Runtime(0))
NETWORK = Recipe().network.started(DIM, 1.0, 10**6)


def new_block() -> NeuralODEBlock:
    return NeuralODEFamily(network=NETWORK).new(PARTICLES, 0.1, generator=generator(0))


def least_ratio(work: Callable[[], object], partner: Callable[[], object]) -> float:
    """Least CPU time of `work` over the least of `partner`, by turns, on one thread."""
    times: dict[Callable[[], object], list[float]] = {work: [], partner: []}
    with one_thread():
        for _ in range(TURNS + 1):
            for job, taken in times.items():
                before = time.process_time()
                job()
                taken.append(time.process_time() - before)
    first_loads = 1
    return min(times[work][first_loads:]) / min(times[partner][first_loads:])


def products_of_an_update(rows: int) -> None:
    """Forward, gradient of the input and gradient of the weights of every layer: no less makes an update."""
    sizes = [DIM + 2 * NETWORK.n_frequencies + 2, *[NETWORK.width] * NETWORK.depth, DIM]
    for n_in, n_out in pairwise(sizes):
        x, above, weight = torch.ones(rows, n_in), torch.ones(rows, n_out), torch.ones(n_out, n_in)
        product(x, weight), product(above, weight.T.contiguous()), product(above.T, x.T)


def test_an_update_of_a_start_is_mostly_its_products() -> None:
    settings = DescentSettings(UPDATES, Recipe().updates.batches[1], 1e-3, checkpoints=1)

    def start() -> None:
        regress(new_block().velocity, STEP, settings)

    def products() -> None:
        for _ in range(UPDATES):
            products_of_an_update(settings.batch)

    assert least_ratio(start, products) < 6


def test_an_update_on_the_objective_is_four_stages_of_values_and_one_tangent() -> None:
    settings = DescentSettings(2, ROWS, 1e-3, checkpoints=1)

    def finish() -> None:
        descend_on_objective(new_block(), STEP, settings, "hutchinson")

    def products() -> None:
        for _ in range(2 * 4):  # updates, stages
            products_of_an_update(2 * ROWS)

    assert least_ratio(finish, products) < 5


def test_a_determinant_costs_a_push_for_each_tangent() -> None:
    block = new_block().requires_grad_(False)
    x = PARTICLES.x
    assert least_ratio(lambda: block.push_with_log_det(x), lambda: block.push(x)) < 2 * (1 + DIM)


def test_one_probe_costs_one_more_push() -> None:
    block = new_block().requires_grad_(False)
    push = push_with_log_det_by("hutchinson", dim=DIM, generator=generator(0))
    assert least_ratio(lambda: push(block, PARTICLES), lambda: block.push(PARTICLES.x)) < 3.5


def test_a_pull_of_a_gentle_block_costs_few_pushes() -> None:
    block = new_block().requires_grad_(False)
    with torch.no_grad():
        block.velocity.out.weight.normal_(0, 0.02, generator=generator(0))
    y = block.push(PARTICLES.x)
    assert least_ratio(lambda: block.invert(y), lambda: block.push(y)) < 5
