r"""Critics: functions that tell samples of two laws apart, fitted on some rows to be evaluated on others.

    h = argmin E_p[softplus(-h)] + E_q[softplus(h)],    whose minimiser over all functions is log p/q

Two kinds: a small network on the rows' columns and their squares; and boosted trees, which look at each
column at the scale that it needs. Fine structure is left to mixtures of many components (`witness`) and to
nearest neighbours. Source: density ratios by the logistic loss, Sugiyama, Suzuki & Kanamori (2012), Density
Ratio Estimation in Machine Learning; boosted trees, Friedman (2001), Ann. Statist. 29, 1189, as scikit-learn
has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from jkoflow.global_state import unset_linear
from jkoflow.recipe import DescentSettings
from jkoflow.steps.descent import descend

__all__ = ["Critic", "NetworkCritic", "fit_network", "fit_trees"]

Critic = Callable[[Tensor], Tensor]
"""h: columns `(n, k)` to numbers `(n,)`, nats; it has seen none of the rows that it is evaluated on."""

_WIDTH = 128
"""The network has two hidden layers of so many units."""

_FARTHEST = 20.0
"""A column is cut so many standard deviations from its mean before the network sees it."""

_DESCENT = DescentSettings(updates=1000, batch=512, learning_rate=3e-3, checkpoints=20, patience=5)
"""The network is trained by Adam for at most 1,000 updates on 512 rows of each law; it is checked 20 times
on rows that it does not descend on, and stopped after 5 checks without a gain."""

_FIT_SHARE = 0.8
"""So large a share of the rows is descended on; the rest tells when to stop."""

_TREES = 300
"""At most so many trees are boosted; they stop earlier where held-out rows gain nothing."""

_LEAVES = 31
"""A tree has at most so many leaves."""

_RATE = 0.06
"""Each tree's values are multiplied by this before they are added (the learning rate of boosting)."""

_LEAST_ROWS_OF_A_LEAF = 20
"""A leaf has at least so many rows, so that one row cannot make a large value."""

_COLUMNS_AT_A_SPLIT = 64
"""A split of a tree looks at no more columns than this, drawn at random, so that cost does not grow with
d²."""


class NetworkCritic(nn.Module):
    """h of a network, zero until it is trained.

    Arguments:
        location: Subtracted from the columns first, shape `(k,)`.
        spread: What they are then divided by, shape `(k,)`.
        generator: Source of the weights.
    """

    def __init__(self, location: Tensor, spread: Tensor, *, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("location", location)
        self.register_buffer("spread", spread)
        sizes = (2 * len(location), _WIDTH, _WIDTH)
        self.first, self.second = unset_linear(sizes[0], sizes[1]), unset_linear(sizes[1], sizes[2])
        self.out = unset_linear(sizes[2], 1)
        for layer in (self.first, self.second):
            bound = 1 / math.sqrt(layer.in_features)
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.to(location)

    location: Tensor
    spread: Tensor

    def forward(self, columns: Tensor) -> Tensor:
        """h of each row, shape `(n,)`."""
        u = ((columns - self.location) / self.spread).clamp(-_FARTHEST, _FARTHEST)
        features = torch.cat([u, u.square() / 2], dim=1)
        h: Tensor = self.out(silu(self.second(silu(self.first(features)))))
        return h[:, 0]


def fit_network(p: Tensor, q: Tensor, *, generator: torch.Generator) -> Critic:
    """The network that tells rows of p from rows of q best on a fifth of them that it does not descend on.

    Arguments:
        p: Columns of rows of the one law, shape `(n, k)`.
        q: Columns of rows of the other law, shape `(m, k)`.
        generator: Source of weights, splits and batches.

    Raises:
        NumericalError: The numbers left R at every rate that was tried.
    """
    both = torch.cat([p, q])
    spread = both.std(dim=0)
    spread = torch.where(spread > 0, spread, 1.0)
    network = NetworkCritic(both.mean(dim=0), spread, generator=generator)
    (p_fit, p_stop), (q_fit, q_stop) = _split(p, generator), _split(q, generator)

    def batch(rows: Tensor) -> Tensor:
        return rows[torch.randint(len(rows), (_DESCENT.batch,), generator=generator).to(rows.device)]

    def mismatch(from_p: Tensor, from_q: Tensor) -> Tensor:
        return softplus(-network(from_p)).mean() + softplus(network(from_q)).mean()

    descend(
        network,
        loss=lambda: mismatch(batch(p_fit), batch(q_fit)),
        evaluate=lambda: float(mismatch(p_stop, q_stop).detach()),
        settings=_DESCENT,
        block=0,
    )
    return network.requires_grad_(False)


def _split(rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows to descend on, and rows that stop the descent."""
    order = torch.randperm(len(rows), generator=generator).to(rows.device)
    count = int(_FIT_SHARE * len(rows))
    return rows[order[:count]], rows[order[count:]]


def fit_trees(p: Tensor, q: Tensor, *, seed: int) -> Critic:
    """Boosted trees that tell rows of p from rows of q; both laws count the same, whatever their rows.

    Arguments:
        p: Columns of rows of the one law, shape `(n, k)`.
        q: Columns of rows of the other law, shape `(m, k)`.
        seed: Seed that draws the fifth of the rows that stops them, and the columns that a split looks at.
    """
    rows = torch.cat([p, q]).double().cpu().numpy()
    weight = np.repeat([1 / len(p), 1 / len(q)], [len(p), len(q)])
    bins = _Bins.of(rows, weight)
    columns = bins(rows)
    label = torch.cat([torch.ones(len(p)), torch.zeros(len(q))]).numpy()
    classifier = HistGradientBoostingClassifier(
        learning_rate=_RATE,
        max_iter=_TREES,
        max_leaf_nodes=_LEAVES,
        min_samples_leaf=_LEAST_ROWS_OF_A_LEAF,
        max_features=min(1.0, _COLUMNS_AT_A_SPLIT / columns.shape[1]),
        early_stopping=True,
        validation_fraction=1 - _FIT_SHARE,
        random_state=seed,
    )
    with threadpool_limits(1, user_api="openmp"):
        classifier.fit(columns, label, sample_weight=weight * len(columns) / 2)

    def h(rows: Tensor) -> Tensor:
        with threadpool_limits(1, user_api="openmp"):
            told = classifier.decision_function(bins(rows.double().cpu().numpy()))
        return torch.as_tensor(told).to(rows.device)

    return h


@dataclass(frozen=True)
class _Bins:
    """Columns in bins of about equal weight; scikit-learn finds the same bins a hundred times as slowly.

    Arguments:
        edges: Upper ends of all bins but the last, ascending, of each column.
    """

    edges: tuple[npt.NDArray[np.float64], ...]

    @classmethod
    def of(cls, rows: npt.NDArray[np.float64], weight: npt.NDArray[np.float64], *, bins: int = 255) -> _Bins:
        """Bins of weighted rows, `(n, k)` and `(n,)`."""
        levels = np.arange(1, bins) / bins * weight.sum()
        found = []
        for column in rows.T:
            order = np.argsort(column, kind="stable")
            places = np.searchsorted(np.cumsum(weight[order]), levels).clip(max=len(order) - 1)
            found.append(np.unique(column[order[places]]))
        return cls(tuple(found))

    def __call__(self, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The number of the bin of each value, shape `(n, k)`."""
        pairs = zip(self.edges, rows.T, strict=True)
        return np.column_stack([np.searchsorted(edges, column).astype(float) for edges, column in pairs])
