"""The fold: pushed particles only, dropped blocks, the stop rule, flat memory, and resuming bit for bit."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from jkoflow.blocks import AffineBlock
from jkoflow.fit import FitState, Keep, TakenStep, improves, initial_state, proximal_fold, take_block
from jkoflow.flow import Flow
from jkoflow.flow.likelihood import log_prob
from jkoflow.laws import StandardNormal
from jkoflow.objective import KLObjective
from jkoflow.particles import Particles
from jkoflow.runtime import Runtime
from jkoflow.schedule import Schedule
from jkoflow.step import Step
from oracles.blocks import make_block, points
from oracles.trainers import RecordingTrainer, gaussian_particles, quick_trainer, restored

DIM = 2
RUNTIME = Runtime(0, dtype=torch.float64)


def start(n: int = 400, dtype: torch.dtype = torch.float64) -> FitState:
    return initial_state(
        StandardNormal(DIM), gaussian_particles(n, DIM, dtype), gaussian_particles(100, DIM, dtype, seed=1)
    )


def fold(
    trainer: Any, gammas: tuple[float, ...] = (0.4, 0.6, 0.8), **options: Any
) -> Iterator[tuple[FitState, TakenStep]]:
    given: dict[str, Any] = {"keep": None, "stop_ratio": None, "state": None, **options}
    schedule = Schedule(gammas, stop_ratio=given.pop("stop_ratio"))
    return proximal_fold(
        given.pop("state") or start(), schedule=schedule, trainer=trainer, runtime=RUNTIME, **given
    )


def identical(first: Flow, second: Flow) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_empty_state() -> None:
    state = start()
    assert len(state.flow) == 0
    assert state.nll == pytest.approx(-float(StandardNormal(DIM).log_prob(state.validation.x).mean()))
    assert not state.log_det.any()
    assert (state.number, state.moved, state.finished) == (0, (), False)


def test_each_block_sees_only_pushed_particles() -> None:
    """Step n is given T_{n-1}(...T_1(x)), rows in order, as plain numbers without a graph."""
    trainer, first = RecordingTrainer(), start()
    states = [state for state, _ in fold(trainer)]
    assert [step.number for step in trainer.steps] == [1, 2, 3]
    assert [step.gamma for step in trainer.steps] == [0.4, 0.6, 0.8]
    for index, step in enumerate(trainer.steps):
        flow = states[-1].flow.truncated(index)
        assert torch.equal(step.train.x, flow.push(first.train.x))
        torch.testing.assert_close(step.validation.x, flow.push(first.validation.x), atol=1e-12, rtol=0)
        for x in (step.train.x, step.validation.x):
            assert x.grad_fn is None
            assert not x.requires_grad
    assert not any(p.requires_grad for p in states[-1].flow.parameters())


def test_nothing_is_propagated_through_earlier_blocks() -> None:
    """Training block 2 leaves block 1 as it was, to the last bit."""
    steps = [step for _, step in fold(quick_trainer(), (0.4,))]
    after_one = {key: value.clone() for key, value in steps[0].block.state_dict().items()}
    longer = [step for _, step in fold(quick_trainer(), (0.4, 0.6))]
    kept = longer[0].block.state_dict()
    assert all(torch.equal(kept[key], after_one[key]) for key in after_one)


def test_held_out_nll_is_that_of_the_flow() -> None:
    validation = start().validation.x
    for state, step in fold(quick_trainer()):
        nats = log_prob(state.flow, validation)
        assert state.nll == pytest.approx(-float(nats.mean()), abs=1e-10)
        assert step.info["held_out_nll_nats"] == state.nll
        assert step.info["held_out_nll_se_nats"] == pytest.approx(float(nats.std()) / 10)
        torch.testing.assert_close(state.log_det, state.flow.log_det(validation), atol=1e-10, rtol=0)


def test_record_of_a_step() -> None:
    before = start()
    block = make_block("neural_ode", dim=DIM)
    after, info = take_block(before, block, Runtime(0))
    x = before.validation.x
    y, log_det = block.push_with_log_det(x)
    terms = KLObjective(StandardNormal(DIM), block.gamma).terms_of(x, y, log_det)
    assert info["gamma"] == 0.5
    assert info["potential_nats"] == pytest.approx(float(terms.potential))
    assert info["neg_log_det_nats"] == pytest.approx(float(terms.neg_log_det))
    assert info["transport_nats"] == pytest.approx(float(terms.transport))
    assert info["transport"] == pytest.approx(float((x - y).square().sum(dim=1).mean()))
    assert info["transport_ratio"] == pytest.approx(info["transport"] / float(y.square().sum(dim=1).mean()))
    assert info["mean_distance"] == pytest.approx(float((x - y).norm(dim=1).mean()))
    assert info["step_doubling_error"] == block.step_doubling_error(x)
    assert after.moved == ((block.gamma, info["mean_distance"]),)
    assert all(isinstance(value, float) for value in info.values())


def test_free_step_has_no_transport_term_and_is_not_counted_as_moved() -> None:
    states = list(fold(RecordingTrainer({2: lambda s: AffineBlock(dim=DIM).double()}), (0.5, math.inf)))
    (first, _), (last, step) = states
    assert step.info["gamma"] is None
    assert step.info["transport_nats"] == 0
    assert last.moved == first.moved
    assert len(first.moved) == 1


def worse(step: Step) -> AffineBlock:
    matrix = 5 * torch.eye(DIM, dtype=step.train.x.dtype)
    return AffineBlock(dim=DIM, gamma=step.gamma, matrix=matrix, offset=matrix[0])


def test_block_that_does_not_lower_the_nll_is_dropped() -> None:
    trainer = RecordingTrainer({2: worse})
    (one, _), (two, dropped), (three, kept) = fold(trainer, keep=improves)
    assert dropped.block is None
    assert dropped.info["kept"] is False
    assert dropped.info["block"] == 2
    assert dropped.info["held_out_nll_nats"] > one.nll
    assert (two.number, len(two.flow), two.nll, two.moved) == (2, 1, one.nll, one.moved)
    assert torch.equal(two.train.x, one.train.x)
    assert torch.equal(trainer.steps[2].train.x, one.train.x)
    assert (kept.info["kept"], len(three.flow), three.number) == (True, 2, 3)
    assert [gamma for gamma, _ in three.moved] == [one.flow.blocks[0].gamma, kept.info["gamma"]]
    assert three.nll < one.nll


def test_block_with_an_nll_that_is_no_number_is_dropped() -> None:
    def broken(step: Step) -> AffineBlock:
        return AffineBlock(dim=DIM, matrix=torch.full((DIM, DIM), math.nan, dtype=step.train.x.dtype))

    (one, _), (two, dropped), _ = fold(RecordingTrainer({2: broken}), keep=improves)
    assert dropped.block is None
    assert len(two.flow) == len(one.flow)


def test_every_block_is_kept_where_that_is_asked() -> None:
    (_, _), (two, step), _ = fold(RecordingTrainer({2: worse}))
    assert step.info["kept"] is True
    assert len(two.flow) == 2


def test_stop_rule_ends_the_fit_after_the_step_that_moves_little() -> None:
    """E|x - T_n x|^2 / E|T_n x|^2 < 0.01; the step that meets it is kept."""
    states = list(fold(RecordingTrainer(), (0.5,) * 30, stop_ratio=0.01))
    ratios = [step.info["transport_ratio"] for _, step in states]
    assert 2 <= len(states) < 10
    assert all(ratio >= 0.01 for ratio in ratios[:-1])
    assert ratios[-1] < 0.01
    assert states[-1][0].finished
    assert not states[-2][0].finished
    assert len(states[-1][0].flow) == len(states)
    assert len(list(fold(RecordingTrainer(), (0.5,) * 12))) == 12


def test_budget_is_asked_by_step_number() -> None:
    trainer, numbers = RecordingTrainer(), []

    def stop(number: int) -> Any:
        numbers.append(number)
        return lambda phase, updates: number == 2

    list(fold(trainer, stop=stop))
    assert numbers == [1, 2, 3]
    assert [step.stop("proximal", 1) for step in trainer.steps] == [False, True, False]


def test_same_seed_same_flow_bit_for_bit_and_another_seed_another() -> None:
    def last(seed: int, round_number: int = 0) -> Flow:
        schedule = Schedule((0.4, 0.6))
        *_, (state, _) = proximal_fold(
            start(),
            schedule=schedule,
            trainer=quick_trainer(divergence="hutchinson"),
            runtime=Runtime(seed, dtype=torch.float64),
            keep=None,
            round_number=round_number,
        )
        return state.flow

    first = last(1)
    torch.manual_seed(5)
    assert identical(first, last(1))
    assert not identical(first, last(2))
    assert not identical(first, last(1, round_number=1))


@pytest.mark.parametrize("n_taken", [0, 1, 2, 3])
@pytest.mark.parametrize("keep", [None, improves], ids=["all", "better"])
def test_resumed_fit_is_the_uninterrupted_one(n_taken: int, keep: Keep | None) -> None:
    whole = list(fold(quick_trainer(), keep=keep))
    trained: list[int] = []

    def trainer(step: Step) -> Any:
        trained.append(step.number)
        return quick_trainer()(step)

    taken = [restored(step) for _, step in whole[:n_taken]]
    again = list(fold(trainer, keep=keep, taken=taken))
    assert trained == [1, 2, 3][n_taken:]
    assert identical(again[-1][0].flow, whole[-1][0].flow)
    assert torch.equal(again[-1][0].train.x, whole[-1][0].train.x)
    assert again[-1][0].nll == whole[-1][0].nll
    assert [step.info for _, step in again] == [step.info for _, step in whole]


def test_resumed_fit_leaves_dropped_blocks_dropped() -> None:
    whole = list(fold(RecordingTrainer({2: worse}), keep=improves))
    trainer = RecordingTrainer({2: worse})
    again = list(fold(trainer, keep=improves, taken=[restored(step) for _, step in whole[:2]]))
    assert [step.number for step in trainer.steps] == [3]
    assert identical(again[-1][0].flow, whole[-1][0].flow)
    assert again[1][0].number == 2


def test_resumed_fit_that_had_met_the_stop_rule_stays_finished() -> None:
    whole = list(fold(RecordingTrainer(), (0.5,) * 30, stop_ratio=0.01))
    trainer = RecordingTrainer()
    taken = [restored(step) for _, step in whole]
    assert len(list(fold(trainer, (0.5,) * 30, stop_ratio=0.01, taken=taken))) == len(whole)
    assert trainer.steps == []


def test_numbers_go_on_after_the_steps_before() -> None:
    """A fold that starts from a state with a step in it counts from there."""
    (state, _), *_ = fold(RecordingTrainer(), (0.4,))
    trainer = RecordingTrainer()
    list(fold(trainer, (0.5, 0.6), state=state))
    assert [step.number for step in trainer.steps] == [2, 3]


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

    ((after, done),) = fold(RecordingTrainer({1: block_of}), (math.inf,), keep=improves)
    assert done.info["kept"] is kept
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

    def at_checkpoint(number: int) -> Any:
        def stop(phase: str, updates: int) -> bool:
            if number in (2, 6, 10) and number not in measured:
                measured[number] = live_bytes() - others
            return False

        return stop

    for state, _ in proximal_fold(
        initial_state(StandardNormal(DIM), train, held_out),
        schedule=Schedule((0.2,) * 10),
        trainer=quick_trainer(3),
        runtime=Runtime(0),
        keep=None,
        stop=at_checkpoint,
    ):
        own = sum(tensor.untyped_storage().nbytes() for tensor in state.flow.state_dict().values())
    particles = train.x.untyped_storage().nbytes()
    assert sorted(measured) == [2, 6, 10]
    assert 2 * particles < measured[2] < 5 * particles
    assert own < 0.05 * particles
    assert measured[10] - measured[2] < 0.05 * particles


def test_nothing_of_its_training_stays_with_a_finished_block() -> None:
    *_, (state, _) = fold(quick_trainer())
    assert all(parameter.grad is None for parameter in state.flow.parameters())
