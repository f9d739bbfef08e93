r"""The free step that ends a pass of blocks: the map to N(0, I) of a mixture fitted to the particles.

    (pi, m, C) = argmax  sum_rows log sum_k pi_k N(x; m_k, C_k),    T its triangular map (`blocks.mixture`)

K = 0 is no step at all, K = 1 whitening, more the maximum by EM. Steps of growing gamma take fine structure
away first; what they leave is ever smoother, until a mixture of few components describes it better than the
steps that are still to come. So a block is worth its place where it lowers the held-out NLL of the flow
*closed* after it.

Source: eq. (25) of Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, at gamma = infinity over this family of
maps. The closing is ours. The mean of several mixtures: Smyth & Wolpert (1999), "Linearly combining density
estimators via stacking", Machine Learning 36, at equal weights.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace

import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor
from torch.nn.functional import one_hot

from jkoflow.blocks import Block, MixtureBlock
from jkoflow.closing_search import Search
from jkoflow.expectation_maximisation import Mixture, maximise_likelihood
from jkoflow.fit import FitState, TakenStep, closed_form_record, take_closed_form
from jkoflow.gaussian_step import judged_whitening
from jkoflow.particles import Particles
from jkoflow.runtime import Runtime
from jkoflow.solver_steps import judged_rows

__all__ = [
    "Closing",
    "best_closing",
    "close",
    "closing_by_nothing",
    "mixture_of",
    "stacked_closing",
    "stacked_components",
]

_FEWEST, _FIRST_COMPONENTS = 2, 8
_ROWS_PER_COMPONENT = 20
_MOST_PRODUCTS = 1e10
"""Of an iteration of EM: rows × components × columns²; about a second."""
_RELATIVE_FLOOR = 1e-6
"""Least variance in any direction that EM may settle on, over that of the columns."""
_BACKGROUND_SPREAD = 2.0
"""Standard deviation of the component for rows unlike any other, in those of the columns."""
_ITERATIONS = 100
_MOST_STACKED = 512
"""Components of a mean of mixtures: every sample and score pays for them."""
_LEAST_STACKING_GAIN_NATS = 0.002
_CLUSTERED_ROWS, _CLUSTERING_ITERATIONS = 8000, 20
"""Of k-means, where EM starts."""


@dataclass(frozen=True)
class Closing:
    """A closing step of a flow.

    Arguments:
        block: The step; None where there is none.
        n_components: K.
        log_prob: Of held-out rows under the closed flow, nats, float64, shape `(n,)`.
        responsibilities: Of each component for the first training rows, shape `(m, K)`; None for K < 2.
    """

    block: Block | None
    n_components: int
    log_prob: Tensor
    responsibilities: Tensor | None = None

    @property
    def nll(self) -> float:
        """Held-out NLL of the closed flow, nats; infinite where it is no number."""
        nll = -float(self.log_prob.mean())
        return math.inf if math.isnan(nll) else nll


def mixture_of(
    rows: Particles,
    n_components: int,
    generator: torch.Generator,
    *,
    tolerance: float = 1e-3,
    responsibilities: Tensor | None = None,
) -> tuple[MixtureBlock, Tensor]:
    """The triangular map of the mixture of so many components that EM finds for `rows`, and who is whose.

    Arguments:
        rows: What to fit.
        n_components: K.
        generator: Source of the start.
        tolerance: See `Search`.
        responsibilities: To start from instead, shape `(m, K)` of the first m rows.

    Returns:
        The map of the mixture and of a wide component beside it, float64, and the responsibilities of the
        mixture's own, float32, shape `(n, K)`.
    """
    x = rows.x if rows.context is None else torch.cat([rows.context, rows.x], dim=1)
    x = x.double()
    centre, scale = x.mean(dim=0), x.std(dim=0).clamp_min(torch.finfo(torch.float32).tiny)
    z = (x - centre) / scale
    start = _clustered(z, n_components, generator) if responsibilities is None else responsibilities
    mixture, found = maximise_likelihood(
        z,
        start[: len(z)].to(z.device),
        tolerance=tolerance,
        most_iterations=_ITERATIONS,
        floor=_RELATIVE_FLOOR,
    )
    weights, means, covariances = _with_background(mixture, len(z))
    block = MixtureBlock.of(
        weights,
        centre + means * scale,
        covariances * scale * scale[:, None],
        context_dim=rows.context_dim,
    )
    return block, found


def _with_background(mixture: Mixture, n_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """The mixture and one wide component for rows unlike any of those seen, of weight 1/(n + 1).

    That is the rule of succession's probability of such a row. The mixture of largest likelihood gives it
    none: a row off all of its components, which are narrow where columns depend on each other, would have a
    density of next to nothing. It costs the other rows 1/n nats.
    """
    share, p = 1 / (n_rows + 1), mixture.means.shape[1]
    weights = torch.cat([(1 - share) * mixture.weights, mixture.weights.new_full((1,), share)])
    wide = _BACKGROUND_SPREAD**2 * torch.eye(p).to(mixture.means)
    means = torch.cat([mixture.means, mixture.means.new_zeros(1, p)])
    return weights, means, torch.cat([mixture.covariances, wide[None]])


def _clustered(z: Tensor, n_components: int, generator: torch.Generator) -> Tensor:
    """Who is whose among the first rows by k-means, shape `(m, K)`."""
    seed = int(torch.randint(2**31, (1,), generator=generator))
    clusters = KMeans(n_components, n_init=1, max_iter=_CLUSTERING_ITERATIONS, random_state=seed)
    with warnings.catch_warnings():  # clusters that could still be improved are a start like any other
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = clusters.fit_predict(z[:_CLUSTERED_ROWS].cpu().numpy())
    return one_hot(torch.as_tensor(labels, device=z.device).long(), n_components)


def best_closing(
    state: FitState,
    runtime: Runtime,
    search: Search,
    *,
    before: Closing | None = None,
) -> Closing:
    """The closing of least held-out NLL: none, whitening, or a mixture.

    Numbers of components are doubled while that helps, or else halved. Where `before` is a mixture, it is
    carried on with the same rows, wherever they are now.

    Arguments:
        state: The flow to be closed.
        runtime: Device, dtype, seed.
        search: How carefully.
        before: The closing of the flow as it was a block ago, or one that is to be refined.
    """
    part = _searched_part(state, search)
    whitened, _, whitening, _ = judged_whitening(part, runtime)
    plain = [closing_by_nothing(state), Closing(whitening, 1, whitened.held_out_log_prob)]
    most = min(search.most_components, _most_components(part.train))

    def at(number: int, responsibilities: Tensor | None = None) -> Closing:
        generator = runtime.stream("closing", state.number, number)
        mixture = _mixture(part, number, generator, runtime, search, responsibilities)
        if mixture is None:
            return Closing(None, number, torch.full_like(part.log_det, -math.inf))
        return _judged(part, mixture[0], number, mixture[1])

    def climbed(best: Closing, factor: float) -> Closing:
        while _FEWEST <= (number := int(best.n_components * factor)) <= most:
            following = at(number)
            if following.nll >= best.nll < math.inf:
                break
            best = following
        return best

    carried = None if before is None else before.responsibilities
    number = _FIRST_COMPONENTS if before is None else max(_FEWEST, before.n_components)
    if most < _FEWEST:
        return min(plain, key=lambda closing: closing.nll)
    first = at(number, carried) if number <= most else at(most)
    best = climbed(first, 2)
    if best is first or math.isinf(best.nll):
        best = climbed(first, 0.5)
    return min(*plain, best, key=lambda closing: closing.nll)


def stacked_closing(closing: Closing, state: FitState, runtime: Runtime, search: Search) -> Closing:
    """The mean of mixtures that EM finds from different starts, as many as held-out rows ask for.

    EM ends at one of many maxima, each of which errs in its own places, so that the mean of their densities
    errs less than any of them; it bears more components, too: twice as many are tried.

    Arguments:
        closing: Found for `state` by `best_closing`; it stays where it is no mixture.
        state: The flow to be closed.
        runtime: Device, dtype, seed.
        search: How carefully.
    """
    if not isinstance(closing.block, MixtureBlock) or search.most_members < 2:
        return closing
    part = _searched_part(state, search)

    def found(number: int, starts: range) -> list[MixtureBlock]:
        blocks = []
        for start in starts:
            generator = runtime.stream("stacked closing", state.number, number, start)
            mixture = _mixture(part, number, generator, runtime, search)
            if mixture is None:
                return []
            blocks.append(mixture[0])
        return blocks

    def grown(best: Closing, members: list[MixtureBlock], number: int) -> Closing:
        while 2 * len(members) <= search.most_members and 2 * len(members) * number <= _MOST_STACKED:
            more = found(number, range(len(members), 2 * len(members)))
            if not more:
                break
            members = members + more
            mean = MixtureBlock.mean_of(members)
            following = _judged(part, mean, number * len(members))
            if following.nll > best.nll - _LEAST_STACKING_GAIN_NATS:
                break
            best = following
        return best

    number = closing.n_components
    choices = [grown(closing, [closing.block], number)]
    if 2 * number <= min(search.most_components, _MOST_STACKED // 2, _most_components(part.train)):
        for block in found(2 * number, range(1)):
            choices.append(grown(_judged(part, block, 2 * number), [block], 2 * number))
    return min(choices, key=lambda choice: choice.nll)


def stacked_components(number: int, search: Search) -> int:
    """How many components `stacked_closing` fits at most beside a mixture of `number`."""
    most = search.most_members
    if most < 2:
        return 0
    beside = number * (_largest_power(min(most, _MOST_STACKED // number)) - 1)
    if 2 * number > min(search.most_components, _MOST_STACKED // 2):
        return beside
    return beside + 2 * number * _largest_power(min(most, _MOST_STACKED // (2 * number)))


def _largest_power(limit: int) -> int:
    """The largest power of two up to `limit`, and 1 at least."""
    return 1 << max(0, limit.bit_length() - 1)


def _searched_part(state: FitState, search: Search) -> FitState:
    """The state with the rows alone that a search looks at."""
    return replace(_judged_part(state), train=state.train.rows(slice(0, search.rows)))


def _mixture(
    part: FitState,
    number: int,
    generator: torch.Generator,
    runtime: Runtime,
    search: Search,
    responsibilities: Tensor | None = None,
) -> tuple[MixtureBlock, Tensor] | None:
    """`mixture_of` where the fit runs; None where EM came to a component of no width."""
    try:
        block, found = mixture_of(
            part.train, number, generator, tolerance=search.tolerance, responsibilities=responsibilities
        )
    except ValueError:
        return None
    return block.to(device=runtime.device, dtype=runtime.dtype), found


def _judged(
    part: FitState, block: MixtureBlock, number: int, responsibilities: Tensor | None = None
) -> Closing:
    log_prob = part.log_det + block.source_log_prob(part.validation.x, part.validation.context)
    return Closing(block, number, log_prob, responsibilities)


def _most_components(rows: Particles) -> int:
    """As many as rows can be told apart by, in a time that does not grow with the columns."""
    return min(len(rows) // _ROWS_PER_COMPONENT, int(_MOST_PRODUCTS / (len(rows) * rows.columns**2)))


def closing_by_nothing(state: FitState) -> Closing:
    """K = 0."""
    return Closing(None, 0, _judged_part(state).held_out_log_prob)


def _judged_part(state: FitState) -> FitState:
    """The state with the held-out rows alone that choices look at."""
    validation = judged_rows(state.validation)
    return replace(state, validation=validation, log_det=state.log_det[: len(validation)])


def close(closing: Closing, state: FitState, runtime: Runtime) -> tuple[FitState, TakenStep]:
    """The state after the closing step of `state`, and the step.

    Arguments:
        closing: One with a block.
        state: The state that it was found for.
        runtime: Device, dtype, seed.
    """
    assert closing.block is not None
    after, info = take_closed_form(state, closing.block, runtime)
    return after, TakenStep(
        closing.block, closed_form_record(info, after.number, components=closing.n_components)
    )
