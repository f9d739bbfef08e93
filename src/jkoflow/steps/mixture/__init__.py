"""Gaussian mixtures: EM, and the mixture that it finds for particles, as a law and as a map.

(pi, m, C) = argmax  sum_rows log sum_k pi_k N(x; m_k, C_k)
"""

from __future__ import annotations

from jkoflow.steps.mixture.em import EMRules, maximise_likelihood
from jkoflow.steps.mixture.fit import MixtureRules, fit_mixture, gaussian_with_background, mixture_of

__all__ = [
    "EMRules",
    "MixtureRules",
    "fit_mixture",
    "gaussian_with_background",
    "maximise_likelihood",
    "mixture_of",
]
