r"""A Gaussian mixture fitted to particles: the law, and the map that takes it to N(0, I).

    (pi, m, C) = argmax  sum_rows log sum_k pi_k N(x; m_k, C_k),    EM from clusters of the rows

Source: Dempster, Laird & Rubin (1977), J. R. Stat. Soc. B 39(1), for EM; the component for rows unlike any
other is ours.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace

import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor
from torch.nn.functional import one_hot

from jkoflow.blocks import Block, mixture_map
from jkoflow.global_state import one_blas_thread, warning_filters
from jkoflow.laws import Background, GaussianMixture
from jkoflow.particles import Moments, Particles
from jkoflow.steps.mixture.em import EMRules, maximise_likelihood

__all__ = ["MixtureRules", "fit_mixture", "gaussian_with_background", "mixture_of"]


@dataclass(frozen=True)
class MixtureRules:
    """How a mixture is fitted.

    Arguments:
        em: When EM ends.
        clustered_rows: Rows, the first ones, whose clusters EM starts from.
        clustering_iterations: Iterations of k-means at most.
        background: The components for rows unlike any other.
    """

    em: EMRules = field(default_factory=EMRules)
    clustered_rows: int = 8000
    clustering_iterations: int = 20
    background: Background = field(default_factory=Background)


def mixture_of(
    rows: Particles,
    n_components: int,
    generator: torch.Generator,
    *,
    tolerance: float = 1e-3,
    responsibilities: Tensor | None = None,
    rules: MixtureRules | None = None,
) -> tuple[Block, Tensor]:
    """The triangular map of the Gaussian mixture that EM finds for `rows`, and the rows' responsibilities.

    Arguments:
        rows: What to fit, the context's columns first.
        n_components: K.
        generator: Source of the clusters that EM starts from.
        tolerance: See `EMRules`.
        responsibilities: Where EM starts instead of from clusters, shape `(m, K)`, for the first m rows.
        rules: The other rules of the fit; `MixtureRules()` if None.

    Returns:
        The map of the mixture with its background added, float64, and the responsibilities of its own K
        components in the first m = min(n, `CARRIED_ROWS`) rows, float32, shape `(m, K)`.
    """
    rules = rules or MixtureRules()
    rules = replace(rules, em=replace(rules.em, tolerance=tolerance))
    joint = rows if rows.context is None else _joint(rows, rows.context)
    z, centre, scale = _standardised(joint)
    start = _clustered(z, n_components, generator, rules) if responsibilities is None else responsibilities
    mixture, found = _by_em(z, start, rules)
    wide = _with_background(mixture, rows.effective_rows, rules.background)
    law = _moved(wide, centre.cpu(), scale.cpu())
    return mixture_map(law, context_dim=rows.context_dim), found


def fit_mixture(
    rows: Particles, n_components: int, generator: torch.Generator, rules: MixtureRules
) -> GaussianMixture:
    """The mixture of so many components that EM finds for `rows`, without their context."""
    z, centre, scale = _standardised(rows)
    mixture, _ = _by_em(z, _clustered(z, n_components, generator, rules), rules)
    return _moved(mixture, centre.cpu(), scale.cpu())


def _joint(rows: Particles, context: Tensor) -> Particles:
    return Particles(torch.cat([context, rows.x], dim=1), None, rows.weight, rows.world)


def _standardised(rows: Particles) -> tuple[Particles, Tensor, Tensor]:
    """The rows in float64 at unit size, and where and how large they were, shape `(p,)` each."""
    x, least = rows.x.double(), torch.finfo(torch.float32).tiny
    if rows.weight is None:
        centre, scale = x.mean(dim=0), x.std(dim=0).clamp_min(least)
    else:
        moments = Moments.of(rows.at(x))
        centre, scale = moments.mean, moments.covariance.diagonal().sqrt().clamp_min(least)
    return rows.at((x - centre) / scale), centre, scale


def _by_em(z: Particles, start: Tensor, rules: MixtureRules) -> tuple[GaussianMixture, Tensor]:
    first = start[: len(z)].to(z.x.device)
    return maximise_likelihood(z.x, first, rules.em, weight=z.weight, world=z.world)


def _moved(mixture: GaussianMixture, centre: Tensor, scale: Tensor) -> GaussianMixture:
    """The law of centre + scale z for z of the mixture."""
    return GaussianMixture.of_moments(
        mixture.weights / mixture.weights.sum(),
        centre + mixture.means * scale,
        mixture.full_covariances * scale * scale[:, None],
    )


def gaussian_with_background(
    mean: Tensor, covariance: Tensor, n_rows: float, background: Background
) -> Block:
    """The map of the normal law of these moments, with a background, to N(0, I).

    Arguments:
        mean: Of the normal law, shape `(d,)`.
        covariance: Of the normal law, shape `(d, d)`.
        n_rows: Rows that they were taken from.
        background: The components for rows unlike any other.
    """
    scale = covariance.diagonal().sqrt()
    unit = covariance / (scale * scale[:, None])
    normal = GaussianMixture.of_moments(unit.new_ones(1), unit.new_zeros(1, len(scale)), unit[None])
    wide = _with_background(normal, n_rows, background)
    return mixture_map(_moved(wide, mean.cpu(), scale.cpu()))


def _with_background(mixture: GaussianMixture, n_rows: float, background: Background) -> GaussianMixture:
    """The mixture and its background, of weight 1/(n + 1) where no outlier was seen.

    That is the rule of succession's probability of such a row. The mixture of largest likelihood gives it
    none: a row off all of its components, which are narrow where columns depend on each other, would have a
    density of next to nothing. It costs the other rows 1/n nats.
    """
    share, p = background.share(n_rows), mixture.dim
    deviations, shares = background.components()
    added = share * mixture.weights.new_tensor(shares)
    weights = torch.cat([(1 - share) * mixture.weights, added])
    wide = torch.stack([deviation**2 * torch.eye(p).to(mixture.means) for deviation in deviations])
    means = torch.cat([mixture.means, mixture.means.new_zeros(len(added), p)])
    return GaussianMixture.of_moments(weights, means, torch.cat([mixture.full_covariances, wide]))


def _clustered(z: Particles, n_components: int, generator: torch.Generator, rules: MixtureRules) -> Tensor:
    """Who is whose among the first rows by k-means, shape `(m, K)`."""
    seed = int(torch.randint(2**31, (1,), generator=generator))
    iterations, few = rules.clustering_iterations, z.rows(slice(0, rules.clustered_rows))
    clusters = KMeans(n_components, n_init=1, max_iter=iterations, random_state=seed)
    weight = None if few.weight is None else few.weight.cpu().numpy()
    with one_blas_thread(), warning_filters():
        # clusters that could still be improved are a start like any other
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = clusters.fit_predict(few.x.cpu().numpy(), sample_weight=weight)
    return one_hot(torch.as_tensor(labels, device=z.x.device).long(), n_components)
