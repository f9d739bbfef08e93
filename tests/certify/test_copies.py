"""Copies among held-out rows: one of each group stays, and atoms are counted."""

from __future__ import annotations

import torch

from jkoflow.certify.copies import distinct_rows, share_of_atoms
from jkoflow.particles import Particles
from oracles.blocks import generator


def rows(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, generator=generator(seed))


def test_rows_without_copies_stay_as_they_are() -> None:
    x = rows(500)
    assert torch.equal(distinct_rows(Particles(x)).x, x)
    assert len(distinct_rows(Particles(x[:0]))) == 0


def test_one_row_of_each_group_stays() -> None:
    x = rows(100)
    assert torch.equal(distinct_rows(Particles(x.repeat(3, 1))).x, x)
    near = x.repeat_interleave(4, dim=0).double()
    near += 1e-7 * torch.randn(400, 3, generator=generator(1))
    assert len(distinct_rows(Particles(near))) == 100


def test_equal_rows_of_other_contexts_are_no_copies() -> None:
    context = torch.arange(100.0)[:, None]
    assert len(distinct_rows(Particles(rows(1).expand(100, 3), context))) == 100


def test_atoms_are_rows_that_occur_five_times() -> None:
    x = rows(100)
    x[:30], x[30:34] = x[0], x[99]
    assert share_of_atoms(Particles(x)) == 0.35
    assert share_of_atoms(Particles(x[4:])) == 31 / 96
    assert share_of_atoms(Particles(rows(100).repeat(2, 1))) == 0.0
