"""Particles: rows with their context, drawn, cut into chunks and pushed."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from jkoflow.errors import InputError
from jkoflow.particles import Particles
from oracles.blocks import generator, points


def particles(n: int = 10) -> Particles:
    x = points(n, 2)
    return Particles(x, x[:, :1] * 10)


def test_shape() -> None:
    assert (len(particles(7)), particles().dim, particles().context_dim) == (7, 2, 1)
    assert Particles(points(4, 3)).context_dim == 0


@pytest.mark.parametrize("shape", [(5,), (5, 2, 1)])
def test_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"particles: expected shape \(n, d\), got"):
        Particles(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(5,), (4, 1), (5, 1, 1)])
def test_context_must_have_a_row_for_each(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"context: expected shape \(5, c\)"):
        Particles(torch.zeros(5, 2), torch.zeros(shape))


def test_rows_keep_their_context() -> None:
    picked = particles().rows(torch.tensor([3, 3, 0]))
    assert torch.equal(picked.x, particles().x[[3, 3, 0]])
    assert torch.equal(picked.context, picked.x[:, :1] * 10)
    assert Particles(points(4, 2)).rows(slice(0, 2)).context is None


def test_draw_is_with_replacement_uniform_and_from_the_generator() -> None:
    drawn = particles(5).draw(20_000, generator(1))
    assert torch.equal(drawn.context, drawn.x[:, :1] * 10)
    counts = torch.stack([(drawn.x == row).all(dim=1).sum() for row in particles(5).x])
    assert int(counts.sum()) == 20_000
    assert torch.all((counts - 4000).abs() < 5 * (20_000 * 0.16) ** 0.5)
    assert torch.equal(particles(5).draw(9, generator(1)).x, particles(5).draw(9, generator(1)).x)


def test_chunks_are_all_rows_in_order() -> None:
    parts = list(particles(10).chunks(4))
    assert [len(part) for part in parts] == [4, 4, 2]
    assert torch.equal(torch.cat([part.x for part in parts]), particles(10).x)
    assert torch.equal(torch.cat([part.context for part in parts]), particles(10).context)


@pytest.mark.parametrize("size", [1, 3, 10, 100])
def test_map_pushes_every_row_with_its_context(size: int) -> None:
    sizes = []

    def push(x: Tensor, context: Tensor | None) -> Tensor:
        sizes.append(len(x))
        return x + context

    before = particles()
    after = before.map(push, size=size)
    assert torch.equal(after.x, before.x + before.context)
    assert torch.equal(after.context, before.context)
    assert torch.equal(before.x, particles().x)
    assert max(sizes) <= size


def test_map_builds_no_graph() -> None:
    weight = torch.ones(2, dtype=torch.float64, requires_grad=True)
    assert not particles().map(lambda x, c: x * weight).x.requires_grad


def counted(sizes: list[int]) -> Callable[[Tensor, Tensor | None], Tensor]:
    """A push that notes how many rows it was given."""

    def push(x: Tensor, context: Tensor | None) -> Tensor:
        sizes.append(len(x))
        return 2 * x + context

    return push


def test_deferred_particles_are_those_of_map() -> None:
    deferred, mapped = particles().deferred(counted([])), particles().map(counted([]))
    index = torch.tensor([7, 0, 7])
    assert (len(deferred), deferred.dim, deferred.context_dim) == (10, 2, 1)
    for part in (slice(2, 5), slice(0, 0), slice(8, 20), index, slice(0, 10)):
        assert torch.equal(deferred.rows(part).x, mapped.rows(part).x)
        assert torch.equal(deferred.rows(part).context, mapped.rows(part).context)
    assert torch.equal(deferred.draw(6, generator(1)).x, mapped.draw(6, generator(1)).x)
    assert torch.equal(torch.cat([part.x for part in deferred.chunks(3)]), mapped.x)


def test_deferred_particles_push_what_is_asked_for_and_all_rows_once() -> None:
    sizes: list[int] = []
    once = particles().deferred(counted(sizes))
    twice = once.deferred(counted(sizes))
    assert sizes == []
    assert torch.equal(once.rows(slice(0, 3)).x, once.x[:3])
    assert sizes == [3, 10]
    assert torch.equal(twice.rows(slice(1, 3)).x, 2 * once.x[1:3] + once.context[1:3])
    assert sizes == [3, 10, 2]
    twice.draw(4, generator(0))
    twice.rows(slice(0, 4))
    assert sizes == [3, 10, 2, 10]


def test_a_few_deferred_particles_are_made_alone() -> None:
    sizes: list[int] = []
    deferred, index = particles().deferred(counted(sizes)), torch.tensor([7, 0, 7])
    few = deferred.few(index)
    assert sizes == [3]
    assert torch.equal(few.x, deferred.rows(index).x)
    assert torch.equal(few.context, deferred.rows(index).context)
    assert torch.equal(deferred.few(index).x, few.x)
    assert sizes == [3, 10]


def test_slice_of_deferred_particles_has_the_same_bits_whatever_was_asked_before() -> None:
    weight = torch.randn(3, 3, generator=generator(1), dtype=torch.float32)
    rows = Particles(torch.randn(40_000, 3, generator=generator(2), dtype=torch.float32))

    def deferred_twice() -> tuple[Particles, Particles]:
        once = rows.deferred(lambda x, context: torch.tanh(x @ weight))
        return once, once.deferred(lambda x, context: torch.tanh(x @ weight))

    first, after = deferred_twice()
    assert first.x.shape == (40_000, 3)
    _, at_once = deferred_twice()
    assert torch.equal(after.rows(slice(0, 8000)).x, at_once.rows(slice(0, 8000)).x)


def test_deferred_particles_let_go_of_where_they_came_from() -> None:
    source = particles()
    gone, deferred = weakref.ref(source), source.deferred(counted([]))
    del source
    assert gone() is not None
    assert deferred.x.shape == (10, 2)
    assert gone() is None


# ── weights ──


WHOLE = torch.tensor([1.0, 0.0, 3.0, 2.0, 0.0], dtype=torch.float64)


def weighted(weight: Tensor = WHOLE) -> Particles:
    x = points(len(weight), 2)
    return Particles(x, x[:, :1] * 10, weight)


def repeated() -> Particles:
    """Each row of `weighted` as often as its weight says."""
    index = torch.arange(len(WHOLE)).repeat_interleave(WHOLE.long())
    return Particles(weighted().x[index], weighted().context[index])


@pytest.mark.parametrize("shape", [(4,), (5, 1), ()])
def test_weight_must_be_a_number_for_each_row(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"weight: expected shape \(5,\), got"):
        Particles(torch.zeros(5, 2), weight=torch.ones(shape))


def test_rows_keep_their_weight() -> None:
    some = weighted()
    assert torch.equal(some.rows(torch.tensor([3, 0])).weight, WHOLE[[3, 0]])
    assert torch.equal(some.rows(slice(1, 4)).weight, WHOLE[1:4])
    assert torch.equal(some.at(some.x + 1).weight, WHOLE)
    assert torch.equal(some.map(lambda x, context: 2 * x).weight, WHOLE)
    assert torch.equal(torch.cat([part.weight for part in some.chunks(2)]), WHOLE)
    assert particles().rows(slice(0, 3)).weight is None


def test_draw_is_by_weight() -> None:
    drawn = weighted().draw(20_000, generator(1))
    assert drawn.weight is None, "a row that was drawn as often as it counts counts once"
    assert torch.equal(drawn.context, drawn.x[:, :1] * 10)
    counts = torch.stack([(drawn.x == row).all(dim=1).sum() for row in weighted().x])
    share = WHOLE / WHOLE.sum()
    assert bool((counts[share == 0] == 0).all())
    assert bool(((counts - 20_000 * share).abs() <= 5 * (20_000 * share * (1 - share)) ** 0.5).all())
    assert torch.equal(weighted().draw(9, generator(1)).x, weighted().draw(9, generator(1)).x)


def test_whole_weights_are_repeated_rows_in_a_mean() -> None:
    ours, theirs = weighted(), repeated()
    values, each = ours.x[:, 0].exp(), theirs.x[:, 0].exp()
    assert ours.mean(values) == pytest.approx(theirs.mean(each), rel=1e-12)
    assert float(ours.average(values)) == pytest.approx(float(each.mean()), rel=1e-12)
    single = Particles(ours.x.float(), weight=WHOLE)
    assert single.average(single.x[:, 0]).dtype == torch.float32


def test_average_is_differentiable() -> None:
    values = torch.ones(5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(weighted().average(values), values)
    torch.testing.assert_close(gradient, WHOLE / WHOLE.sum())


def test_effective_rows() -> None:
    """(sum w)^2 / sum w^2 of the weights 1, 3, 2; all rows where they count the same."""
    assert weighted().effective_rows == pytest.approx(36 / 14)
    assert particles(7).effective_rows == 7
    assert weighted(torch.full((5,), 0.3, dtype=torch.float64)).effective_rows == pytest.approx(5)


def test_standard_error_is_that_of_the_effective_number_of_rows() -> None:
    values = particles().x[:, 0]
    assert particles().standard_error(values) == pytest.approx(float(values.std() / 10**0.5), rel=1e-12)
    some, numbers = weighted(), weighted().x[:, 0]
    mean = float((WHOLE * numbers).sum() / 6)
    variance = float((WHOLE * (numbers - mean).square()).sum() / 6)
    assert some.standard_error(numbers) == pytest.approx((variance / (36 / 14 - 1)) ** 0.5, rel=1e-12)


@pytest.mark.parametrize("rows", [Particles(torch.zeros(1, 2)), weighted(torch.tensor([0.0, 4.0]).double())])
def test_a_single_row_has_no_standard_error(rows: Particles) -> None:
    assert math.isnan(rows.standard_error(rows.x[:, 0]))


def test_deferred_particles_keep_their_weight() -> None:
    deferred = weighted().deferred(counted([]))
    assert torch.equal(deferred.weight, WHOLE)
    assert torch.equal(deferred.rows(slice(1, 4)).weight, WHOLE[1:4])
    assert torch.equal(deferred.few(torch.tensor([2, 0])).weight, WHOLE[[2, 0]])
    assert deferred.effective_rows == weighted().effective_rows
    drawn = deferred.draw(50, generator(3))
    assert torch.equal(drawn.x, weighted().map(counted([])).draw(50, generator(3)).x)
    assert drawn.weight is None
    twice = deferred.deferred(counted([]))
    assert torch.equal(twice.rows(slice(0, 2)).weight, WHOLE[:2])
