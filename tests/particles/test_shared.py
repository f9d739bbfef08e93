"""Particles that are divided among processes: each number that is asked of them is that of undivided ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from jkoflow.particles import Moments, Particles, SharedParticles, own_rows
from jkoflow.storage.chunks import PUSH_ROWS
from jkoflow.world import World
from oracles.blocks import generator, points
from oracles.worlds import run_together

N = 2 * PUSH_ROWS + 3000
X = points(N, 2)
CONTEXT = points(N, 1, seed=5)
WEIGHT = torch.rand(N, generator=generator(3), dtype=torch.float64)

Use = Callable[[Particles], Tensor]


def undivided(*, weighted: bool = False) -> Particles:
    return Particles(X, CONTEXT, WEIGHT if weighted else None)


def divided(world: World, *, weighted: bool = False) -> Particles:
    part = own_rows(N, world)
    return SharedParticles(Particles(X[part], CONTEXT[part]), N, WEIGHT if weighted else None, world)


def pushed(x: Tensor, context: Tensor | None) -> Tensor:
    """Something that depends on the rows of a chunk, so that another division would be seen."""
    assert context is not None
    return x + context * x.mean(dim=0)


def further(x: Tensor, context: Tensor | None) -> Tensor:
    del context
    return 2 * x - x.max(dim=0).values


def chosen(rows: Particles) -> Tensor:
    """Positions, contexts and weights, one beside the other."""
    assert rows.context is not None
    weight = rows.x.new_ones(len(rows)) if rows.weight is None else rows.weight.to(rows.x)
    return torch.cat([rows.x, rows.context, weight[:, None]], dim=1)


INDEX = torch.tensor([5, N - 1, PUSH_ROWS, 5, PUSH_ROWS - 1])
USES: dict[str, Use] = {
    "the first rows": lambda rows: chosen(rows.rows(slice(0, 700))),
    "rows across a border": lambda rows: chosen(rows.rows(slice(PUSH_ROWS - 5, PUSH_ROWS + 5))),
    "every seventh row": lambda rows: chosen(rows.rows(slice(None, None, 7))),
    "no row": lambda rows: chosen(rows.rows(slice(0, 0))),
    "rows by number": lambda rows: chosen(rows.rows(INDEX)),
    "a few": lambda rows: chosen(rows.few(INDEX)),
    "all rows": lambda rows: torch.cat([chosen(part) for part in rows.chunks(9000)]),
    "a draw": lambda rows: chosen(rows.draw(500, generator(4))),
    "a number for each": lambda rows: rows.each(lambda part: part.x.norm(dim=1) - part.x.mean()),
    "moments": lambda rows: Moments.of(rows).shrunk,
    "moments by chunks": lambda rows: Moments.of(rows, whole_numbers=0, chunk_rows=5000).shrunk,
    "sizes": lambda rows: torch.tensor([len(rows), rows.dim, rows.context_dim, rows.columns]),
    "effective rows": lambda rows: torch.tensor(rows.effective_rows, dtype=torch.float64),
    "positions": lambda rows: rows.x,
}
STATES: dict[str, Callable[[Particles], Particles]] = {
    "as they are": lambda rows: rows,
    "mapped": lambda rows: rows.map(pushed),
    "deferred": lambda rows: rows.deferred(pushed),
    "deferred twice": lambda rows: rows.deferred(pushed).deferred(further),
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_divided_particles_answer_as_undivided_ones(
    state: Callable[[Particles], Particles], weighted: bool
) -> None:
    """Bit for bit, and whoever has asked for what before."""

    def answers(rows: Particles) -> list[Tensor]:
        found = state(rows)
        return [use(found) for use in USES.values()]

    expected = answers(undivided(weighted=weighted))
    for size in (2, 5):  # of five processes two have no row
        for found in run_together(size, lambda world: answers(divided(world, weighted=weighted))):
            same = [torch.equal(one, other) for one, other in zip(found, expected, strict=True)]
            assert dict(zip(USES, same, strict=True)) == dict.fromkeys(USES, True)


@pytest.mark.parametrize("name", USES)
def test_the_first_question_to_deferred_ones_is_answered_alike(name: str) -> None:
    expected = USES[name](undivided().deferred(pushed).deferred(further))
    for found in run_together(2, lambda world: USES[name](divided(world).deferred(pushed).deferred(further))):
        assert torch.equal(found, expected)


def test_a_process_keeps_and_pushes_its_own_rows_alone() -> None:
    def seen(world: World) -> tuple[int, int]:
        rows = list[int]()

        def push(x: Tensor, context: Tensor | None) -> Tensor:
            rows.append(len(x))
            return pushed(x, context)

        own = divided(world).deferred(push).own
        return len(own), sum(rows)

    assert run_together(2, seen) == [(2 * PUSH_ROWS, 2 * PUSH_ROWS), (3000, 3000)]
    assert run_together(3, seen) == [(PUSH_ROWS, PUSH_ROWS), (PUSH_ROWS, PUSH_ROWS), (3000, 3000)]
