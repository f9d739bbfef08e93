"""Problems of the race: rows to train on, rows to be judged on, and the true density where it is known.

    z = (x - m)/s,    log p_z(z) = log p_x(m + s z) + Σ log s,    m, s of the training rows

Preparation, the same rows and noise for every contender: exact duplicates are dropped before the split; a
column in which fewer than 5 % of the values are distinct, or one value holds more than 1 %, gets uniform
noise of its measuring step; columns are standardised with training statistics. A table with fewer than
5,000 rows is cut into five folds; of others a tenth is for the test; of laws there are 50,000 training
draws and fresh test rows. At most 5,000 test rows are scored. Each problem carries Σ log s, so that an NLL
can be told in the unit of its source.

POWER loses two columns as in the literature (Papamakarios, Pavlakou & Murray (2017), arXiv 1705.07057) and
gets noise of one measuring step in every column. The literature adds none to the time of day, a grid of
minutes, and so leaves the NLL without a lower end: figures here cannot be compared with published ones.
`adult` is the six numeric columns of its table; all are whole numbers, so that each gets noise of one step,
fnlwgt too, which the rule leaves alone although half of its values stand in more than one row. UCI's small
tables lose columns with a correlation above 0.98 to an earlier one. Images (`images.py`) are standardised
by the deviation of each pixel with its noise, which is part of the data: a pixel that hardly varies has a
small deviation, not none.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from density import Reals
from heavy_tails import HEAVY_TAILS
from images import grey_level_log_scale, logit_digits, patches, usps_digits
from planar import PICTURES, SHAPES, picture_law, shape_law

sys.path.append(str(Path(__file__).parents[1]))

from tables import distinct_rows, off_grid

__all__ = ["FULL", "LAWS", "PLANAR", "STANDARD", "TRAIN_DRAWS", "MissingFileError", "Problem", "prepare"]

TRAIN_DRAWS, TEST_DRAWS = 50_000, 10_000
SCORED_ROWS = 5000
FOLDS, FEW_ROWS = 5, 5000
TEST_SHARE = 0.1
LARGEST_CORRELATION = 0.98
POWER_COLUMNS, POWER_STEPS = (0, 2, 4, 5, 6, 7), (0.001, 0.01, 1.0, 1.0, 1.0, 1.0)
ADULT_COLUMNS = ("age", "fnlwgt", "education-num", "capital-gain", "capital-loss", "hours-per-week")
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


class KnownLaw(Protocol):
    """A law of which draws and density are known."""

    def sample(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Draws `(n, d)`."""

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """log p of rows `(n, d)`, shape `(n,)`, nats."""


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
        log_scale: log|dx/dz| of each test row, from standardised columns z to the source's unit x, `(m,)`,
            nats: the NLL in the source's unit is the NLL here plus it. None where it was not kept.
        is_grey: Whether the source's unit is a grey level of 256, so that bits per dimension can be told.
    """

    name: str
    train: Reals
    test: Reals
    log_density: LogDensity | None = None
    fold: int = 0
    folds: int = 1
    log_scale: Reals | None = None
    is_grey: bool = False


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
        return _from_law(_law(name, path), name, rng, draws)
    return _TABLES[name][1](name, path, rng)


def _law(name: str, path: Path) -> KnownLaw:
    if name in HEAVY_TAILS:
        return HEAVY_TAILS[name]
    return picture_law(path) if name in PICTURES else shape_law(name)


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
    law: KnownLaw | None = None,
    fold: int = 0,
    folds: int = 1,
    log_scale: LogDensity | None = None,
) -> Problem:
    """Rows with the training rows' mean 0 and deviation 1; `log_scale` of rows leads on to grey levels."""
    location, scale = train.mean(axis=0), train.std(axis=0)
    chosen = test[rng.permutation(len(test))[:SCORED_ROWS]]
    constant = float(np.log(scale).sum())

    def log_density(rows: Reals) -> Reals:
        assert law is not None
        raw = law.log_prob(torch.as_tensor(rows * scale + location))
        return np.asarray(raw.numpy() + constant)

    return Problem(
        name,
        (train - location) / scale,
        (chosen - location) / scale,
        None if law is None else log_density,
        fold=fold,
        folds=folds,
        log_scale=np.full(len(chosen), constant) + (0.0 if log_scale is None else log_scale(chosen)),
        is_grey=log_scale is not None,
    )


def _from_law(law: KnownLaw, name: str, rng: np.random.Generator, draws: int) -> list[Problem]:
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


def _adult(name: str, path: Path, rng: np.random.Generator) -> list[Problem]:
    rows = distinct_rows(pd.read_csv(path)[list(ADULT_COLUMNS)].to_numpy(np.float64))
    return split_table(name, rows + rng.uniform(-0.5, 0.5, rows.shape), rng)


def _patches(name: str, path: Path, rng: np.random.Generator) -> list[Problem]:
    return [_standardised(name, *patches(np.load(path, allow_pickle=False), rng), rng)]


def _usps(name: str, path: Path, rng: np.random.Generator) -> list[Problem]:
    return [_standardised(name, *usps_digits(np.load(path, allow_pickle=False), rng), rng)]


def _mnist(name: str, path: Path, rng: np.random.Generator) -> list[Problem]:
    rows = logit_digits(np.load(path, allow_pickle=False)["images"], rng)
    order = rng.permutation(len(rows))
    test, train = (rows[part] for part in np.split(order, [round(TEST_SHARE * len(rows))]))
    return [_standardised(name, train, test, rng, log_scale=grey_level_log_scale)]


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
    found["adult"] = "adult.csv.gz", _adult
    found["bsds"] = "bsds300_patches_u8.npz", _patches
    found["usps"] = "usps.npz", _usps
    found["mnist"] = "mnist_t10k.npz", _mnist
    return found


PLANAR: Sequence[str] = (*SHAPES, *PICTURES)
LAWS: Sequence[str] = (*PLANAR, *HEAVY_TAILS)
_TABLES = _tables()
FULL: Sequence[str] = (*LAWS, *_TABLES)
STANDARD: Sequence[str] = ("rose", "protein", "power", "posterior-eight_schools_noncentered", "miniboone")
