"""Problems of the race: rows to train on, rows to be judged on, and the true density where it is known.

    z = (x - m)/s,    log p_z(z) = log p_x(m + s z) + Σ log s,    m, s of the training rows

Preparation, the same rows and noise for every contender: exact duplicates are dropped before the split; a
column in which fewer than 5 % of the values are distinct, or one value holds more than 1 %, gets uniform
noise of its measuring step; columns are standardised with training statistics. A table with fewer than
5,000 rows is cut into five folds; of others a tenth is for the test; of laws there are 50,000 training
draws and fresh test rows. At most 5,000 test rows are scored.

POWER is prepared as in the literature (Papamakarios, Pavlakou & Murray (2017), arXiv 1705.07057): two
columns are dropped, noise of one step is added to all but the time of day. BSDS patches too, apart from
their standardisation here. UCI's small tables lose columns with a correlation above 0.98 to an earlier
one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from density import Reals
from planar import PICTURES, SHAPES, picture_law, shape_law

from jkoflow.laws import Law

sys.path.append(str(Path(__file__).parents[1]))

from tables import distinct_rows, off_grid

__all__ = ["FULL", "LAWS", "STANDARD", "TRAIN_DRAWS", "MissingFileError", "Problem", "prepare"]

TRAIN_DRAWS, TEST_DRAWS = 50_000, 10_000
SCORED_ROWS = 5000
FOLDS, FEW_ROWS = 5, 5000
TEST_SHARE = 0.1
LARGEST_CORRELATION = 0.98
POWER_COLUMNS, POWER_STEPS = (0, 2, 4, 5, 6, 7), (0.001, 0.01, 1.0, 1.0, 1.0, 0.0)
POSTERIORS = (
    "eight_schools_noncentered",
    "low_dim_gauss_mix",
    "lotka_volterra",
    "arK",
    "garch11",
    "gp_pois_regr",
    "nes",
    "diamonds",
    "one_comp_mm_elim_abs",
    "hmm_example",
    "kidscore_interaction",
    "arma11",
)
UCI = ("concrete", "energy", "yacht", "wine", "parkinsons", "forest", "housing", "airfoil")

LogDensity = Callable[[Reals], Reals]


class MissingFileError(FileNotFoundError):
    """A problem's file is not in the folder; `filename` says which."""


@dataclass(frozen=True)
class Problem:
    """Rows of one split.

    Arguments:
        name: Of the problem.
        train: All that a contender sees, `(n, d)`, standardised.
        test: What it is judged on, `(m, d)`, standardised with the training rows' statistics.
        log_density: Of the truth, nats, of standardised rows; None where it is not known.
        fold: Which of the folds, from 0.
        folds: How many there are.
    """

    name: str
    train: Reals
    test: Reals
    log_density: LogDensity | None = None
    fold: int = 0
    folds: int = 1


def prepare(name: str, folder: Path, seed: int, draws: int = TRAIN_DRAWS) -> list[Problem]:
    """The problem's folds, the same for the same arguments; of a law so many training draws.

    Raises:
        MissingFileError: Its file is not in the folder.
    """
    rng = np.random.default_rng([seed, *name.encode()])
    file = PICTURES.get(name) if name in LAWS else _TABLES[name][0]
    path = folder / (file or "")
    if file is not None and not path.exists():
        raise MissingFileError(2, "expected it in --data-dir", file)
    if name in LAWS:
        return _from_law(picture_law(path) if name in PICTURES else shape_law(name), name, rng, draws)
    return _TABLES[name][1](name, path, rng)


def split_table(name: str, rows: Reals, rng: np.random.Generator) -> list[Problem]:
    """One split of a large table, the five of a small one."""
    order = rng.permutation(len(rows))
    parts = np.array_split(order, FOLDS)
    if len(rows) >= FEW_ROWS:
        parts = [order[: round(TEST_SHARE * len(rows))]]
    return [
        _standardised(name, rows[np.setdiff1d(order, part)], rows[part], rng, fold=fold, folds=len(parts))
        for fold, part in enumerate(parts)
    ]


def _standardised(
    name: str,
    train: Reals,
    test: Reals,
    rng: np.random.Generator,
    *,
    law: Law | None = None,
    fold: int = 0,
    folds: int = 1,
) -> Problem:
    location, scale = train.mean(axis=0), train.std(axis=0)
    chosen = test[rng.permutation(len(test))[:SCORED_ROWS]]

    def log_density(rows: Reals) -> Reals:
        assert law is not None
        raw = law.log_prob(torch.as_tensor(rows * scale + location))
        return np.asarray(raw.numpy() + np.log(scale).sum())

    truth = None if law is None else log_density
    return Problem(
        name, (train - location) / scale, (chosen - location) / scale, truth, fold=fold, folds=folds
    )


def _from_law(law: Law, name: str, rng: np.random.Generator, draws: int) -> list[Problem]:
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    train, test = (np.asarray(law.sample(n, generator).numpy()) for n in (draws, TEST_DRAWS))
    return [_standardised(name, train, test, rng, law=law)]


def _from_table(
    key: str, clean: Callable[[Reals], Reals], name: str, path: Path, rng: np.random.Generator
) -> list[Problem]:
    rows = np.asarray(np.load(path, allow_pickle=False)[key], dtype=np.float64)
    return split_table(name, off_grid(distinct_rows(clean(rows)), rng), rng)


def _as_they_are(rows: Reals) -> Reals:
    return rows


def without_correlated(rows: Reals) -> Reals:
    """The columns whose correlation with every earlier kept one is at most 0.98 in absolute value."""
    correlation = np.abs(np.corrcoef(rows.T))
    kept: list[int] = []
    for column in range(rows.shape[1]):
        if all(correlation[column, other] <= LARGEST_CORRELATION for other in kept):
            kept.append(column)
    return rows[:, kept]


def _power(name: str, path: Path, rng: np.random.Generator) -> list[Problem]:
    rows = distinct_rows(np.load(path, allow_pickle=False)["x"][:, POWER_COLUMNS])
    return split_table(name, rows + np.array(POWER_STEPS) * rng.uniform(size=rows.shape), rng)


def _patches(name: str, path: Path, rng: np.random.Generator) -> list[Problem]:
    archive = np.load(path, allow_pickle=False)
    train, test = (_patch_rows(archive[part], n, rng) for part, n in (("train", 50_000), ("test", 5000)))
    return [_standardised(name, train, test, rng)]


def _patch_rows(grey: npt.NDArray[np.uint8], n: int, rng: np.random.Generator) -> Reals:
    distinct = distinct_rows(grey)
    chosen = distinct[rng.permutation(len(distinct))[:n]]
    rows = (chosen + rng.uniform(size=chosen.shape)) / 256
    return np.asarray((rows - rows.mean(axis=1, keepdims=True))[:, :-1])


Loader = Callable[[str, Path, np.random.Generator], list[Problem]]


def _tables() -> Mapping[str, tuple[str, Loader]]:
    found: dict[str, tuple[str, Loader]] = {}
    found["protein"] = "uci_protein.npz", partial(_from_table, "x", _as_they_are)
    found["power"] = "power_raw_2weeks.npz", _power
    found["miniboone"] = "miniboone_maf_first1523.npz", partial(_from_table, "x", _as_they_are)
    for key in POSTERIORS:
        found[f"posterior-{key}"] = "posteriordb_draws.npz", partial(_from_table, key, _as_they_are)
    found["mammography"] = "adbench_mammography.npz", partial(_from_table, "X", _as_they_are)
    for key in UCI:
        found[f"uci-{key}"] = "uci_small.npz", partial(_from_table, key, without_correlated)
    found["bsds"] = "bsds300_patches_u8.npz", _patches
    return found


LAWS: Sequence[str] = (*SHAPES, *PICTURES)
_TABLES = _tables()
FULL: Sequence[str] = (*LAWS, *_TABLES)
STANDARD: Sequence[str] = ("rose", "protein", "power", "posterior-eight_schools_noncentered", "miniboone")
