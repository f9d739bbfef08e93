"""What several processes do together: whole pieces of work, put together in order; alone nothing changes."""

from __future__ import annotations

import pytest
import torch

from jkoflow.errors import InputError
from jkoflow.world import ALONE, World
from oracles.blocks import points
from oracles.worlds import ThreadWorld, run_together

X = points(101, 3)


def test_alone_nothing_changes() -> None:
    assert ALONE.gather(X) is X
    assert ALONE.merge(X) is X
    assert ALONE.largest(2.5) == 2.5
    assert ALONE.broadcast("a") == "a"
    assert ALONE.broadcast_bytes(b"a") == b"a"
    assert ALONE.is_first
    assert ALONE.part(7) == slice(0, 7)
    ALONE.agree(None)
    with pytest.raises(InputError, match="why"):
        ALONE.agree(InputError("why"))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [1, 2, 5, 7, 100])
def test_each_piece_is_of_one_process_and_the_first_has_one(size: int, count: int) -> None:
    found = run_together(size, lambda world: world.pieces(count))
    assert [number for pieces in found for number in pieces] == list(range(count))
    assert len(found[0]) >= 1
    assert max(map(len, found)) <= -(-count // size)


@pytest.mark.parametrize("n_rows", [0, 1, 9, 10, 11, 95])
def test_parts_are_whole_units_but_for_the_last(n_rows: int) -> None:
    parts = run_together(3, lambda world: world.part(n_rows, unit=10))
    assert [row for part in parts for row in range(n_rows)[part]] == list(range(n_rows))
    assert all(part.start % 10 == 0 or part.start == n_rows for part in parts)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_divided_work_is_that_of_one(size: int, count: int) -> None:
    def work(world: World) -> torch.Tensor:
        done: list[int] = []

        def piece(number: int) -> torch.Tensor:
            done.append(number)
            return X[10 * number : 10 * number + 5 + number]

        found = world.divided(count, piece, like=X)
        assert count == 1 or done == list(world.pieces(count))
        return found

    expected = torch.cat([X[10 * number : 10 * number + 5 + number] for number in range(count)])
    assert all(torch.equal(found, expected) for found in run_together(size, work))


def test_an_error_of_one_is_raised_in_all() -> None:
    def fail(world: ThreadWorld) -> str:
        with pytest.raises(InputError) as raised:
            world.agree(InputError("the second") if world.rank == 1 else None)
        return str(raised.value)

    assert run_together(3, fail) == ["the second"] * 3
