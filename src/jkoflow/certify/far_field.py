r"""Whether the log-density falls where no row lies: along rays from the centre, beyond the rows.

    rise(u) = max_{R <= s <= r} log q_0(r u) - log q_0(s u),    |u| = 1 at random,    R <= r <= 1000 max(R, 1)

Few rows fall there, so that no likelihood of rows tells of it; but a score is asked for just such rows, where
what a block learned is continued beyond the positions that it learned from. Where the flow is the identity
and the law at its end is N(0, I), log q_0 falls by (r² - s²)/2. Source: ours.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import beta
from torch import Tensor

from jkoflow.certify.claim import Claim, Interval, Verdict, undecided
from jkoflow.certify.evidence import GIVE_ROWS, LEVEL, Evidence
from jkoflow.flow.likelihood import log_prob

__all__ = ["claims", "largest_rises"]

_CLAIM = "beyond the rows the log-density falls along rays from their centre"
_SOURCE = "jkoflow: what a flow says where it has seen nothing"

_RAYS, _RADII = 400, (40, 16)
"""Rays, and radii on each: so many up to `_NEAR` times the reach of the rows, and so many beyond."""

_NEAR, _FAR = 8.0, 1e3
"""Blocks end beyond a few times the reach; past that the density is that of the last step alone."""

_TANGENTS = 2**17
"""Rays times radii times columns stay below this, since a log-density takes a tangent for each column."""

_FEWEST_RAYS = 16
_RISE_NATS = 0.5
"""A rise by less is not told: rounding in float32, and the bends of level sets that are no ellipses."""

_REACH_SHARE, _REACH_DRAWS = 0.99, 1024
"""The rows reach as far as this share of the held-out rows and of so many draws of the model."""

_REMEDY = (
    "do not compare log-densities of rows that lie farther out than those of the fit: there one is higher "
    "than another by chance"
)


def claims(evidence: Evidence) -> list[Claim]:
    """The share of rays on which log q_0 rises by more than 0.5 nats beyond the rows.

    It holds where none does. Where one does it is undecided, with how much, on how many and where: next to
    none of the model's mass lies there, and the KL does not depend on it.
    """
    dim, held_out = evidence.flow.dim, evidence.held_out
    needs_context = evidence.takes_context or (held_out is not None and held_out.context is not None)
    n_rays = min(_RAYS, max(_FEWEST_RAYS, _TANGENTS // (dim * sum(_RADII))))
    context = evidence.contexts(n_rays, "far field") if needs_context else None
    if needs_context and context is None:
        why = "the model needs a context, and there are no rows to take it from"
        return [undecided(_CLAIM, _SOURCE, "plug-in", why=why, remedy=GIVE_ROWS)]
    reach = _reach(evidence)
    noise = torch.randn(n_rays, dim, generator=evidence.stream("far field"), dtype=torch.float64)
    directions = (noise / noise.norm(dim=1, keepdim=True)).to(evidence.like)
    radii = _radii(reach)
    rises, places = largest_rises(evidence, directions, radii, context)
    if not rises.isfinite().all():
        lost = int((~rises.isfinite()).sum())
        why = f"on {lost} of {n_rays} rays a log-density is no number"
        return [undecided(_CLAIM, _SOURCE, "plug-in", why=why, remedy="fit in float64", rows=n_rays)]
    return [_claim(rises, places, reach)]


def largest_rises(
    evidence: Evidence, directions: Tensor, radii: Tensor, context: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The largest rise of log q_0 along each ray, nats, and the radius that it ends at, `(m,)` each.

    Arguments:
        evidence: The model.
        directions: u, shape `(m, d)`, of length 1.
        radii: Increasing, shape `(r,)`, standardised units.
        context: One for each ray, shape `(m, c)`; None for none.
    """
    rows = (radii.to(directions)[:, None, None] * directions).flatten(0, 1)
    given = None if context is None else context.repeat(len(radii), 1)
    nats = log_prob(evidence.flow, rows, given).view(len(radii), len(directions)).cpu()
    # a density of 0 rises to nothing; one that comes after it does
    nats = nats.clamp_min(torch.finfo(nats.dtype).min)
    rises, at = (nats - nats.cummin(dim=0).values).max(dim=0)
    return rises, radii[at]


def _reach(evidence: Evidence) -> float:
    """How far most rows lie from the centre of the rows of the fit, which is 0, standardised units."""
    held_out = evidence.held_out
    context = evidence.contexts(_REACH_DRAWS, "far field draws")
    parts = [evidence.draw(_REACH_DRAWS, context=context).x]
    if held_out is not None and len(held_out):
        parts.append(held_out.x)
    norms = [part.double().norm(dim=1).cpu().numpy() for part in parts]
    finite = [part[np.isfinite(part)] for part in norms]
    return max((float(np.quantile(part, _REACH_SHARE)) for part in finite if len(part)), default=1.0)


def _radii(reach: float) -> Tensor:
    near, far = (
        torch.tensor(factor * max(reach, floor)).double() for factor, floor in ((_NEAR, 0), (_FAR, 1))
    )
    first = torch.linspace(reach, float(near), _RADII[0], dtype=torch.float64)
    beyond = torch.logspace(float(near.log10()), float(far.log10()), _RADII[1] + 1, dtype=torch.float64)
    return torch.cat([first, beyond[1:]])


def _claim(rises: Tensor, places: Tensor, reach: float) -> Claim:
    n_rays, rising = len(rises), int((rises > _RISE_NATS).sum())
    share = rising / n_rays
    verdict: Verdict = "undecided" if rising else "holds"
    told = f"{_CLAIM}: on {rising} of {n_rays} rays it rises by more than {_RISE_NATS:g} nats"
    if rising:
        worst = int(rises.argmax())
        told += f", most by {float(rises[worst]):.1f} at radius {float(places[worst]):.3g}"
    return Claim(
        f"{told}; the rows reach to {reach:.3g}",
        _SOURCE,
        "plug-in",
        verdict,
        share,
        interval=_interval(rising, n_rays),
        level=LEVEL,
        bound=0.0,
        unit="share of rays",
        assumption="" if not rising else "next to none of the model's mass lies there",
        rows=n_rays,
        remedy=_REMEDY if rising else "",
    )


def _interval(count: int, n: int) -> Interval:
    """Clopper and Pearson's, exact at every n."""
    tail = (1 - LEVEL) / 2
    low = 0.0 if count == 0 else float(beta.ppf(tail, count, n - count + 1))
    return low, 1.0 if count == n else float(beta.ppf(1 - tail, count + 1, n - count))
