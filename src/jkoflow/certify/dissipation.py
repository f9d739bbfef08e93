r"""The KL of pushed rows to the normal law as the integral of what diffusion dissipates of it.

    KL(p_N‖q) = ∫_0^∞ I(rho_t) dt,      I(rho) = ‖∇V + ∇log rho‖²_rho,      rho_t = law(e^{-t} X + s_t Z),

X ~ p_N, s_t² = 1 - e^{-2t}: along the Ornstein-Uhlenbeck process (6) the KL falls at the rate I. Every I is
read from samples alone by a maximum over vector fields, from below in expectation; the integral is taken
from t_0 to tau by Gauss and Legendre's rule in log t, below t_0 as t_0 I(rho_{t_0}), and beyond tau the KL of
rho_tau is at most I(rho_tau)/2 by the log-Sobolev inequality. With the cut at t = 0 that is Fisher's bound.

Both see fine structure as far as their fields do: with ripples finer than those I is enormous and read too
small, so that neither is the estimate of the bracket. Source: theory, "Beyond the paper", dissipation
identity and Fisher bracket; the identity is de Bruijn's (Stam 1959, Inform. and Control 2, 101).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor

from jkoflow.certify.claim import Claim, Kind, Says, undecided
from jkoflow.certify.evidence import GIVE_ROWS, LEVEL, Evidence, too_few
from jkoflow.first_order import FieldSearch, Norm, StepPairs, variational_norm
from jkoflow.laws import StandardNormal

__all__ = ["claims", "diffusion_times", "integrate_dissipation"]

_START = 2e-3
"""t_0, in units of diffusion time: below it I is taken to stay what it is there."""

_CUT = 2.5
"""tau, in units of diffusion time: beyond it the log-Sobolev inequality stands for the rest of the
integral."""

_NODES = 8
"""I is read at so many times between t_0 and tau."""

_ROWS = 4000
"""At most so many held-out rows are pushed and diffused, drawn at random."""

_DISSIPATED = "KL(p_0‖q_0) by the dissipation identity is about this"
_FISHER = "KL(p_0‖q_0) is at most half the Fisher information of the pushed rows"
_SOURCE = "de Bruijn's identity, a-posteriori"
_FISHER_SOURCE = "log-Sobolev inequality, a-posteriori"
_SEE = "go by the bracket of the KL"
_RICH = "the vector fields are rich enough to see all of ∇V + ∇log rho"


def claims(evidence: Evidence) -> list[Claim]:
    """The KL by the dissipation identity, and Fisher's bound on it; both are told beside the bracket.

    What cannot be a KL, a number below 0 or none at all, is undecided.
    """
    rows, base = evidence.unweighted, evidence.flow.law
    least, count = FieldSearch().least_rows, 0 if rows is None else len(rows)
    if rows is None or count < least:
        return [_undecided(too_few(count, least), GIVE_ROWS, count)]
    if not isinstance(base, StandardNormal):
        why = f"the base law is {type(base).__name__}, whose diffusion has no closed form"
        return [_undecided(why, _SEE, len(rows))]
    order = torch.randperm(len(rows), generator=evidence.stream("dissipation rows"))[:_ROWS]
    chosen = rows.rows(order.to(rows.x.device))
    z = evidence.flow.push(chosen.x, chosen.context).double()
    context = None if chosen.context is None else chosen.context.double()
    if not z.isfinite().all():
        return [_undecided("a pushed row is not finite", "look at the rows' values", len(z))]
    times = diffusion_times()
    noise = torch.randn(z.shape, generator=evidence.stream("dissipation noise"), dtype=torch.float64).to(z)
    found = [
        _information(evidence, _diffused(z, noise, time), context, number)
        for number, time in enumerate((0.0, *times))
    ]
    return [_dissipation_claim(found[1:], len(z)), _fisher_claim(found[0], len(z))]


def diffusion_times() -> tuple[float, ...]:
    """The times at which I is read, from the first to the last."""
    return tuple(float(time) for time in _rule()[0])


def integrate_dissipation(information: Sequence[float]) -> float:
    """∫_0^tau I dt + I(rho_tau)/2 from I at `diffusion_times`, nats; the ends take I of the nearest time.

    Beyond tau I falls at least as e^{-2t}, so that the last value, a little before tau, stands for that at
    tau times e^{-2 (tau - t)}.
    """
    times, weights = _rule()
    last = information[-1] * math.exp(-2 * (_CUT - times[-1]))
    return float(np.dot(weights, information)) + _START * information[0] + last / 2


def _rule() -> tuple[np.ndarray, np.ndarray]:
    """Times and weights of ∫_{t_0}^{tau} . dt: Gauss-Legendre in log t."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    half = math.log(_CUT / _START) / 2
    times = np.exp(math.log(_START) + half * (nodes + 1))
    return times, weights * half * times


def _diffused(z: Tensor, noise: Tensor, time: float) -> Tensor:
    return math.exp(-time) * z + math.sqrt(-math.expm1(-2 * time)) * noise


def _information(evidence: Evidence, x: Tensor, context: Tensor | None, number: int) -> Norm:
    """I of the law of x, shape `(n, d)`: the residual of a free step that ends there."""
    pairs = StepPairs(x, x, math.inf, evidence.flow.law, context)
    search = FieldSearch.among(x.shape[1])
    return variational_norm(pairs, generator=evidence.stream(f"dissipation {number}"), search=search)


def _dissipation_claim(information: Sequence[Norm], rows: int) -> Claim:
    value = integrate_dissipation([part.square for part in information])
    # the same rows at every time: errors are added, not their squares
    half = float(norm.ppf((1 + LEVEL) / 2)) * integrate_dissipation([part.se for part in information])
    told: dict[str, Any] = {"unit": "nats", "space": "latent", "rows": rows}
    if not (math.isfinite(value) and math.isfinite(half) and value >= 0):
        why = (
            f"it reads {value:.3g} ± {half:.3g} nats, which no KL is: what there is to see is below the noise"
        )
        return undecided(_DISSIPATED, _SOURCE, "plug-in", why=why, remedy=_SEE, measured=value, **told)
    return Claim(
        _DISSIPATED,
        _SOURCE,
        "plug-in",
        "told",
        value,
        interval=(value - half, value + half),
        level=LEVEL,
        assumption=f"{_RICH}; below t = {_START:g} I stays what it is there",
        says=(Says("kl", max(0.0, value - half), value + half),),
        **told,
    )


def _fisher_claim(information: Norm, rows: int) -> Claim:
    """Undecided where nothing was seen: a bound of 0 would say more than the fields can."""
    half = float(norm.ppf(LEVEL)) * information.se / 2
    told: dict[str, Any] = {"unit": "nats", "space": "latent", "rows": rows}
    if not (information.square / 2 > half and math.isfinite(information.square)):
        why = "the vector fields see nothing of ∇V + ∇log rho in these rows, which is no proof that it is 0"
        kind: Kind = "upper-under-assumption"
        return undecided(_FISHER, _FISHER_SOURCE, kind, why=why, remedy=_SEE, **told)
    most = information.square / 2 + half
    return Claim(
        _FISHER,
        _FISHER_SOURCE,
        "upper-under-assumption",
        "told",
        information.square / 2,
        interval=(0.0, most),
        level=LEVEL,
        assumption=_RICH,
        says=(Says("kl", high=most),),
        **told,
    )


def _undecided(why: str, remedy: str, rows: int) -> Claim:
    return undecided(_DISSIPATED, _SOURCE, "plug-in", why=why, remedy=remedy, space="latent", rows=rows)
