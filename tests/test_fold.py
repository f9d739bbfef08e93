"""The fold: pushed particles only, dropped blocks, the stop rule, flat memory, and resuming bit for bit."""

from __future__ import annotations

import gc
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from jkoflow.blocks import AffineBlock
from jkoflow.flow import Flow, log_prob
from jkoflow.fold import Fold, proximal_fold
from jkoflow.functionals import KL, ProximalObjective, Pushed
from jkoflow.journal import Journal, Solution, Taken
from jkoflow.laws import StandardNormal
from jkoflow.particles import Particles
from jkoflow.runtime import Runtime
from jkoflow.steps import Keep, State, Step, improves, taken_by
from oracles.blocks import make_block, points
from oracles.jobs import Recorded, restored, run_fold, start_state
from oracles.solvers import RecordingSolver, gaussian_particles, quick_solver

DIM = 2


def start(n: int = 400, dtype: torch.dtype = torch.float64) -> State:
    return start_state(gaussian_particles(n, DIM, dtype), gaussian_particles(100, DIM, dtype, seed=1))


def fold(
    solver: Any,
    gammas: tuple[float, ...] = (0.4, 0.6, 0.8),
    *,
    stop_ratio: float | None = None,
    **options: Any,
) -> list[tuple[State, Taken]]:
    state = options.pop("state", None) or start()
    if stop_ratio is not None:
        options["ended"] = lambda after: after.gradient_ratio < stop_ratio
    return run_fold(state, gammas, solver, **options).steps


def identical(first: Flow, second: Flow) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_empty_state() -> None:
    state = start()
    assert len(state.flow) == 0
    assert state.nll == pytest.approx(-float(StandardNormal(DIM).log_prob(state.validation.x).mean()))
    assert not state.log_det.any()
    assert (state.number, state.moved, state.dropped, state.closing) == (0, (), 0, None)


def test_each_block_sees_only_pushed_particles() -> None:
    """Step n is given T_{n-1}(...T_1(x)), rows in order, as plain numbers without a graph."""
    solver, first = RecordingSolver(), start()
    states = [state for state, _ in fold(solver)]
    assert [step.number for step in solver.steps] == [1, 2, 3]
    assert [step.gamma for step in solver.steps] == [0.4, 0.6, 0.8]
    for index, step in enumerate(solver.steps):
        flow = states[-1].flow.truncated(index)
        assert torch.equal(step.train.x, flow.push(first.train.x))
        torch.testing.assert_close(step.validation.x, flow.push(first.validation.x), atol=1e-12, rtol=0)
        for x in (step.train.x, step.validation.x):
            assert x.grad_fn is None
            assert not x.requires_grad
    assert not any(p.requires_grad for p in states[-1].flow.parameters())


def test_nothing_is_propagated_through_earlier_blocks() -> None:
    """Training block 2 leaves block 1 as it was, to the last bit."""
    steps = [step for _, step in fold(quick_solver(), (0.4,))]
    after_one = {key: value.clone() for key, value in steps[0].block.state_dict().items()}
    longer = [step for _, step in fold(quick_solver(), (0.4, 0.6))]
    kept = longer[0].block.state_dict()
    assert all(torch.equal(kept[key], after_one[key]) for key in after_one)


def test_held_out_nll_is_that_of_the_flow() -> None:
    validation = start().validation.x
    for state, step in fold(quick_solver()):
        nats = log_prob(state.flow, validation)
        assert state.nll == pytest.approx(-float(nats.mean()), abs=1e-10)
        assert step.log["held_out_nll_nats"] == state.nll
        assert step.log["held_out_nll_se_nats"] == pytest.approx(float(nats.std()) / 10)
        torch.testing.assert_close(state.log_det, state.flow.log_det(validation), atol=1e-10, rtol=0)


def test_record_of_a_step() -> None:
    before = start()
    block = make_block("neural_ode", dim=DIM)
    after, info = taken_by(before, block)
    x = before.validation.x
    y, log_det = block.push_with_log_det(x)
    objective = ProximalObjective(KL(StandardNormal(DIM)), block.gamma)
    terms = objective.terms_of(Pushed(before.validation, y, log_det))
    assert info["gamma"] == 0.5
    assert info["potential_nats"] == pytest.approx(float(terms.functional["potential"]))
    assert info["neg_log_det_nats"] == pytest.approx(float(terms.functional["neg_log_det"]))
    assert info["transport_nats"] == pytest.approx(float(terms.transport))
    assert info["transport"] == pytest.approx(float((x - y).square().sum(dim=1).mean()))
    assert info["transport_ratio"] == pytest.approx(info["transport"] / float(y.square().sum(dim=1).mean()))
    assert info["mean_distance"] == pytest.approx(float((x - y).norm(dim=1).mean()))
    assert info["step_doubling_error"] == block.step_doubling_error(x)
    assert after.moved == ((block.gamma, info["mean_distance"]),)
    assert all(isinstance(value, float) for value in info.values())


def test_free_step_has_no_transport_term_and_is_not_counted_as_moved() -> None:
    states = list(fold(RecordingSolver({2: lambda s: AffineBlock(dim=DIM).double()}), (0.5, math.inf)))
    (first, _), (last, step) = states
    assert step.log["gamma"] is None
    assert step.log["transport_nats"] == 0
    assert last.moved == first.moved
    assert len(first.moved) == 1


def worse(step: Step) -> AffineBlock:
    matrix = 5 * torch.eye(DIM, dtype=step.train.x.dtype)
    return AffineBlock(dim=DIM, gamma=step.gamma, matrix=matrix, offset=matrix[0])


def test_block_that_does_not_lower_the_nll_is_dropped() -> None:
    solver = RecordingSolver({2: worse})
    (one, _), (two, dropped), (three, kept) = fold(solver, keep=improves(1.0))
    assert dropped.block is None
    assert dropped.log["kept"] is False
    assert dropped.log["block"] == 2
    assert dropped.log["held_out_nll_nats"] > one.nll
    assert (two.number, len(two.flow), two.nll, two.moved) == (2, 1, one.nll, one.moved)
    assert torch.equal(two.train.x, one.train.x)
    assert torch.equal(solver.steps[2].train.x, one.train.x)
    assert (kept.log["kept"], len(three.flow), three.number) == (True, 2, 3)
    assert [gamma for gamma, _ in three.moved] == [one.flow.blocks[0].gamma, kept.log["gamma"]]
    assert three.nll < one.nll


def test_block_with_an_nll_that_is_no_number_is_dropped() -> None:
    def broken(step: Step) -> AffineBlock:
        return AffineBlock(dim=DIM, matrix=torch.full((DIM, DIM), math.nan, dtype=step.train.x.dtype))

    (one, _), (two, dropped), _ = fold(RecordingSolver({2: broken}), keep=improves(1.0))
    assert dropped.block is None
    assert len(two.flow) == len(one.flow)


def test_every_block_is_kept_where_that_is_asked() -> None:
    (_, _), (two, step), _ = fold(RecordingSolver({2: worse}))
    assert step.log["kept"] is True
    assert len(two.flow) == 2


def test_stop_rule_ends_the_fit_after_the_step_that_moves_little() -> None:
    """max(E|x - T_n x|^2/gamma^2, gain/gamma) < 0.01 E|T_n x|^2; the step that meets it is kept."""
    states = list(fold(RecordingSolver(), (0.5,) * 30, stop_ratio=0.01))
    ratios = [step.log["gradient_ratio"] for _, step in states]
    assert 2 <= len(states) < 10
    assert all(ratio >= 0.01 for ratio in ratios[:-1])
    assert ratios[-1] < 0.01
    assert states[-1][0].gradient_ratio == ratios[-1]
    assert len(states[-1][0].flow) == len(states)
    assert len(list(fold(RecordingSolver(), (0.5,) * 12))) == 12


def test_budget_is_asked_by_step_number_and_round() -> None:
    solver = RecordingSolver()
    log = [{"kind": "decision", "what": "stop proximal after updates", "block": 2, "round": 3, "value": 1}]
    recorded = Recorded(decisions=log)
    journal = recorded.journal(budget=1e9, clock=lambda: 0.0)
    proximal_fold(start(), (0.4, 0.6, 0.8), Fold(solver, Runtime(0), journal, round=3))
    assert [step.stop("proximal", 1) for step in solver.steps] == [False, True, False]


def test_same_seed_same_flow_bit_for_bit_and_another_seed_another() -> None:
    def last(seed: int, round_number: int = 0) -> Flow:
        runtime = Runtime(seed, dtype=torch.float64)
        solver = quick_solver(divergence="hutchinson")
        return run_fold(start(), (0.4, 0.6), solver, runtime=runtime, round=round_number).last.flow

    first = last(1)
    torch.manual_seed(5)
    assert identical(first, last(1))
    assert not identical(first, last(2))
    assert not identical(first, last(1, round_number=1))


@pytest.mark.parametrize("n_taken", [0, 1, 2, 3])
@pytest.mark.parametrize("keep", [None, improves(1.0)], ids=["all", "better"])
def test_resumed_fit_is_the_uninterrupted_one(n_taken: int, keep: Keep | None) -> None:
    whole = list(fold(quick_solver(), keep=keep))
    trained: list[int] = []

    def solver(step: Step) -> Any:
        trained.append(step.number)
        return quick_solver()(step)

    steps = [restored(step) for _, step in whole[:n_taken]]
    again = fold(solver, keep=keep, steps=steps)
    assert trained == [1, 2, 3][n_taken:]
    assert identical(again[-1][0].flow, whole[-1][0].flow)
    assert torch.equal(again[-1][0].train.x, whole[-1][0].train.x)
    assert again[-1][0].nll == whole[-1][0].nll
    assert [step.log for _, step in again] == [step.log for _, step in whole]


def test_resumed_fit_leaves_dropped_blocks_dropped() -> None:
    whole = list(fold(RecordingSolver({2: worse}), keep=improves(1.0)))
    solver = RecordingSolver({2: worse})
    again = fold(solver, keep=improves(1.0), steps=[restored(step) for _, step in whole[:2]])
    assert [step.number for step in solver.steps] == [3]
    assert identical(again[-1][0].flow, whole[-1][0].flow)
    assert again[1][0].number == 2


def test_resumed_fit_that_had_met_the_stop_rule_stays_finished() -> None:
    whole = list(fold(RecordingSolver(), (0.5,) * 30, stop_ratio=0.01))
    solver = RecordingSolver()
    steps = [restored(step) for _, step in whole]
    assert len(fold(solver, (0.5,) * 30, stop_ratio=0.01, steps=steps)) == len(whole)
    assert solver.steps == []


def test_numbers_go_on_after_the_steps_before() -> None:
    """A fold that starts from a state with a step in it counts from there."""
    (state, _), *_ = fold(RecordingSolver(), (0.4,))
    solver = RecordingSolver()
    list(fold(solver, (0.5, 0.6), state=state))
    assert [step.number for step in solver.steps] == [2, 3]


class CountedBlock(AffineBlock):
    """An affine block that notes how many rows it pushes at a time."""

    def push(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        self.pushed = [*getattr(self, "pushed", []), len(x)]
        return super().push(x, context)


@pytest.mark.parametrize(("scale", "kept"), [(5.0, False), (0.9, True)], ids=["dropped", "kept"])
def test_training_rows_are_pushed_by_a_block_that_is_kept_once_they_are_asked_for(
    scale: float, kept: bool
) -> None:
    made: list[CountedBlock] = []

    def block_of(step: Step) -> CountedBlock:
        matrix = scale * torch.eye(DIM, dtype=torch.float64)
        made.append(CountedBlock(dim=DIM, matrix=matrix, offset=-scale * step.train.x.mean(dim=0)))
        return made[0]

    ((after, done),) = fold(RecordingSolver({1: block_of}), (math.inf,), keep=improves(1.0))
    assert done.log["kept"] is kept
    assert 100 in made[0].pushed
    assert 400 not in made[0].pushed
    assert len(after.train.x) == 400
    assert made[0].pushed.count(400) == int(kept)


def live_bytes() -> int:
    """Bytes held by all tensors that are alive, each storage once."""
    gc.collect()
    storages: dict[int, int] = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), Tensor):  # isinstance would wake what is only imported
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def test_memory_does_not_grow_with_the_number_of_blocks() -> None:
    """Measured while block n is trained: nothing is alive of earlier blocks but their own few numbers."""
    others = live_bytes()
    train = Particles(points(50_000, DIM, torch.float32) * 2)
    held_out = Particles(points(500, DIM, torch.float32, seed=1) * 2)
    measured: dict[int, int] = {}
    own = 0

    def tell(state: State, taken: Taken, *, replayed: bool) -> None:
        nonlocal own
        own = sum(tensor.untyped_storage().nbytes() for tensor in state.flow.state_dict().values())

    def solver(step: Step) -> Solution:
        def stop(phase: str, updates: int) -> bool:
            if step.number in (2, 6, 10) and step.number not in measured:
                measured[step.number] = live_bytes() - others
            return False

        return quick_solver(3)(replace(step, stop=stop))

    proximal_fold(start_state(train, held_out), (0.2,) * 10, Fold(solver, Runtime(0), Journal(observe=tell)))
    particles = train.x.untyped_storage().nbytes()
    assert sorted(measured) == [2, 6, 10]
    assert 2 * particles < measured[2] < 5 * particles
    assert own < 0.05 * particles
    assert measured[10] - measured[2] < 0.05 * particles


def test_nothing_of_its_training_stays_with_a_finished_block() -> None:
    *_, (state, _) = fold(quick_solver())
    assert all(parameter.grad is None for parameter in state.flow.parameters())
