"""What a contender hands back: a density with draws, and what it costs and misses.

    fit(train, *, budget, seed) -> Density

`fit` stands in contenders/NAME.py. It sees training rows alone and makes its own validation split of
them; the likelihood of the test rows is computed by the race, from `log_prob`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["VALIDATION_SHARE", "Density", "Reals", "root_mean_square", "seeded", "split"]

Reals = npt.NDArray[np.float64]
VALIDATION_SHARE = 0.1


class Density(Protocol):
    """A fitted density on R^d."""

    @property
    def velocity_evaluations(self) -> float | None:
        """Evaluations of a velocity for one sample; None where there is no velocity."""

    def log_prob(self, rows: Reals) -> Reals:
        """log q of rows `(n, d)`, shape `(n,)`, nats."""

    def sample(self, n: int, seed: int) -> Reals:
        """Rows `(n, d)`."""

    def round_trip_error(self, rows: Reals) -> float | None:
        """sqrt(E|x - T^-1(T(x))|²) over rows, in their units; None where there is no map."""

    def log_prob_check(self, rows: Reals) -> float | None:
        """Mean absolute change of `log_prob` at a ten times tighter tolerance, nats; None if it is exact."""


def split(train: Reals, seed: int) -> tuple[Reals, Reals]:
    """A contender's own rows for training and for validation, 9 to 1."""
    order = np.random.default_rng([seed, 17]).permutation(len(train))
    n_validation = max(1, round(VALIDATION_SHARE * len(train)))
    return train[order[n_validation:]], train[order[:n_validation]]


def root_mean_square(difference: Reals) -> float:
    """sqrt(E|v|²) over rows `(n, d)`."""
    return float(np.sqrt(np.square(difference).sum(axis=1).mean()))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Global random state of torch and numpy from the seed, for packages that use it; restored after."""
    numpys = np.random.get_state()  # noqa: NPY002  (torchcfm draws its couplings from it)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002  (the same)
        try:
            yield
        finally:
            np.random.set_state(numpys)  # noqa: NPY002  (the same)
