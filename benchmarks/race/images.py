"""Rows of images, as the literature prepares them: patches, digits in 256 columns, digits in 784.

    bsds:   y = (x + U)/256 - mean over the patch, the last pixel dropped,    x in 0, ..., 255, U ~ U[0, 1)
    usps:   y = x + U/1000,                                                   x in [0, 1]
    mnist:  y = logit(a + (1 - 2a)(x + U)/256),    a = 1e-6,                  x in 0, ..., 255

For mnist, log|dx/dy| = Σ_j log(256 p_j (1 - p_j)/(1 - 2a)) with logit p = y takes a likelihood to grey
levels, the literature's unit (bits per dimension); for the others y is the literature's unit. The grid of
USPS is 1/2000, so that its noise covers two steps. Source: Papamakarios, Pavlakou & Murray (2017), arXiv
1705.07057, for patches and MNIST.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from density import Reals

from jkoflow.data.distinct import repeated_rows

__all__ = ["distinct_parts", "grey_level_log_scale", "logit_digits", "patches", "usps_digits"]

LOGIT_MARGIN = 1e-6
USPS_NOISE = 1e-3

Parts = tuple[Reals, ...]
"""Rows to train on and rows to test."""


def distinct_parts(train: npt.NDArray[np.generic], test: npt.NDArray[np.generic]) -> Parts:
    """Each row once; a test row that is a training row, too, goes."""
    rows = np.concatenate([train, test]).astype(np.float64)
    kept = ~repeated_rows(rows)
    return rows[: len(train)][kept[: len(train)]], rows[len(train) :][kept[len(train) :]]


def patches(archive: Mapping[str, npt.NDArray[np.uint8]], rng: np.random.Generator) -> Parts:
    """Patches without their mean, `(n, 63)`, all distinct ones in random order."""
    train, test = distinct_parts(archive["train"], archive["test"])
    return _centred(train, rng), _centred(test, rng)


def _centred(grey: Reals, rng: np.random.Generator) -> Reals:
    rows = (grey + rng.uniform(size=grey.shape)) / 256
    return np.asarray((rows - rows.mean(axis=1, keepdims=True))[:, :-1])


def usps_digits(archive: Mapping[str, npt.NDArray[np.float32]], rng: np.random.Generator) -> Parts:
    """USPS's own training and test digits, `(n, 256)`."""
    train, test = distinct_parts(archive["X_train"], archive["X_test"])
    return tuple(part + USPS_NOISE * rng.uniform(size=part.shape) for part in (train, test))


def logit_digits(grey: npt.NDArray[np.uint8], rng: np.random.Generator) -> Reals:
    """Logits of pixels `(n, 784)` from whole grey levels of any shape `(n, ...)`."""
    pixels = grey.reshape(len(grey), -1).astype(np.float64)
    pixels = pixels[~repeated_rows(pixels)]
    share = LOGIT_MARGIN + (1 - 2 * LOGIT_MARGIN) * (pixels + rng.uniform(size=pixels.shape)) / 256
    return np.asarray(np.log(share) - np.log1p(-share))


def grey_level_log_scale(logits: Reals) -> Reals:
    """log|dx/dy| of rows `(n, d)` of logits y, x in grey levels, shape `(n,)`, nats."""
    log_slope = -np.logaddexp(0, logits) - np.logaddexp(0, -logits)
    constant = np.log(256 / (1 - 2 * LOGIT_MARGIN))
    return np.asarray((log_slope + constant).sum(axis=1))
