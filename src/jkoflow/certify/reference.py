r"""A law with a known density near samples of another: what a model's draws and log-densities are held to.

    r(x) = |det R| m((x - mean) R),    m a Gaussian mixture fitted to whitened samples, R their inverse root

Source: theory, "Beyond the paper"; importance identities hold for every r that overlaps with the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from sklearn.covariance import ledoit_wolf

from jkoflow.laws import GaussianMixture
from jkoflow.particles import Particles
from jkoflow.steps.mixture import EMRules, MixtureRules, fit_mixture

__all__ = ["Reference"]

Reals: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Reference:
    """r: a Gaussian mixture in whitened coordinates `w = (x - mean) root`.

    Arguments:
        mean: Shape `(d,)`.
        root: Inverse root of the covariance, symmetric, shape `(d, d)`.
        mixture: The law of w.
    """

    mean: Reals
    root: Reals
    mixture: GaussianMixture

    @classmethod
    def near(cls, x: Reals, *, seed: int, components: int = 16) -> Reference:
        """Fitted to samples, so that the two laws overlap; any other r is as right, with a wider interval.

        Arguments:
            x: Samples, shape `(n, d)`.
            seed: Of the clusters that EM starts from.
            components: Most components.
        """
        rules = MixtureRules(EMRules(iterations=50, floor=1e-3))  # any law that overlaps is a reference
        n, dim = x.shape
        values, vectors = np.linalg.eigh(ledoit_wolf(x)[0])
        root = (vectors / np.sqrt(np.maximum(values, 1e-12 * values[-1]))) @ vectors.T
        mean = x.mean(axis=0)
        count = int(np.clip(n // (10 * (dim + 1)), 1, components))
        w = Particles(torch.as_tensor((x - mean) @ root))
        generator = torch.Generator().manual_seed(seed)
        return cls(mean, root, fit_mixture(w, count, generator, rules))

    def whitened(self, x: Reals) -> Reals:
        """w of each row, shape `(n, d)`."""
        return np.asarray((x - self.mean) @ self.root)

    def log_prob(self, x: Reals) -> Reals:
        """log r of each row, shape `(n,)`, nats."""
        nats = self.mixture.log_prob(torch.as_tensor(self.whitened(x)))
        return np.asarray(nats.numpy() + np.linalg.slogdet(self.root)[1])

    def sample(self, n_rows: int, *, seed: int) -> Reals:
        """Independent draws, shape `(n_rows, d)`."""
        w = self.mixture.sample(n_rows, torch.Generator().manual_seed(seed)).numpy()
        return np.asarray(w @ np.linalg.inv(self.root) + self.mean)
