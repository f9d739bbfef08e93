r"""The inequalities of the theory as functions: what each one says, given what it assumes.

Every function returns the right-hand side alone; whoever calls it measures the left-hand side. Symbols:
gamma_n the step sizes, lambda the convexity of V, eps_n the norm of the first-order residual of step n
(Assumption 1); W2 distances are not squared unless the name says so, divergences are in nats.

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, with the number at each function; "a-posteriori" marks
what is proved in docs/theory.md and not in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from jkoflow.errors import InputError

__all__ = [
    "algebraic_rate",
    "blocks_needed",
    "contraction_squared",
    "diffusion_kl",
    "diffusion_w2",
    "evi_gap",
    "fisher_kl",
    "forward_kl",
    "forward_w2_squared",
    "generation_kl",
    "generation_tv",
    "inversion_w2",
    "inversion_w2_by_block",
    "inversion_w2_closed",
    "last_step_kl",
    "mixed_w2",
    "monotonicity_gap",
    "sharp_last_step_kl",
    "sharp_w2",
    "smoothing_time",
    "smoothing_w2_squared",
    "talagrand_w2",
]


def _require_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise InputError(f"{name}: expected a number above 0, got {value}")


def _require_lengths(gammas: Sequence[float], errors: Sequence[float]) -> None:
    if len(gammas) != len(errors) or not gammas:
        raise InputError(f"errors: expected one for each of {len(gammas)} >= 1 step sizes, got {len(errors)}")


# ── Section 4: the forward process ──


def monotonicity_gap(inner: float, distance: float, lam: float) -> float:
    """`G(pi) - G(rho)` is at least this (Lemma 4.1).

    Arguments:
        inner: <T_nu^pi - T_nu^rho, eta∘T_nu^rho>_nu, eta a subgradient of G at rho.
        distance: ‖T_nu^pi - T_nu^rho‖_nu.
        lam: lambda.
    """
    return inner + lam / 2 * distance**2


def evi_gap(w2_before: float, gamma: float, lam: float, error: float) -> float:
    """`(1 + gamma lambda/2) W2²(p_{n+1}, pi) + 2 gamma (G(p_{n+1}) - G(pi))` is at most this: (34).

    Arguments:
        w2_before: W2(p_n, pi), for any pi.
        gamma: Step size.
        lam: lambda > 0.
        error: eps.
    """
    _require_positive(gamma=gamma, lam=lam)
    return w2_before**2 + 2 * gamma / lam * error**2


def forward_w2_squared(
    w2_start: float, gammas: Sequence[float], errors: Sequence[float], lam: float
) -> float:
    """W2²(p_N, q) is at most this: Theorem 4.3, the recursion of (34) unrolled with unequal steps and errors.

    a_1…a_N W2²(p_0, q) + Σ_n a_n…a_N (2 gamma_n/lambda) eps_n²,    a_n = 1/(1 + gamma_n lambda/2).

    A free step (gamma infinite) forgets what was before it: the limit 4 eps²/lambda², which holds since
    W2(p_n, q) <= ‖∇V + ∇log p_n‖/lambda there.
    """
    _require_lengths(gammas, errors)
    _require_positive(lam=lam)
    squared = w2_start**2
    for gamma, error in zip(gammas, errors, strict=True):
        squared = (squared / gamma + 2 / lam * error**2) / (1 / gamma + lam / 2)
    return squared


def last_step_kl(w2_before: float, gamma: float, lam: float, error: float) -> float:
    """`G(p_N) - G(q)` is at most this, given W2(p_{N-1}, q): (34) at pi = q; eps²/lambda for a free step."""
    _require_positive(gamma=gamma, lam=lam)
    return w2_before**2 / (2 * gamma) + error**2 / lam


def forward_kl(w2_start: float, gammas: Sequence[float], errors: Sequence[float], lam: float) -> float:
    """KL(p_N‖q) is at most this: `forward_w2_squared` up to p_{N-1}, then `last_step_kl`."""
    _require_lengths(gammas, errors)
    before = w2_start**2
    if len(gammas) > 1:
        before = forward_w2_squared(w2_start, gammas[:-1], errors[:-1], lam)
    return last_step_kl(math.sqrt(before), gammas[-1], lam, errors[-1])


def blocks_needed(w2_start: float, gamma: float, lam: float, error: float) -> int:
    """N of Corollary 5.2: `ceil((8/(gamma lambda)) max(0, log(lambda W2(p_0, q)/eps))) + 1`.

    Raises:
        InputError: eps is 0, or gamma lambda > 2, where (36) is not proved.
    """
    _require_positive(gamma=gamma, lam=lam, error=error)
    _require_assumption_5(gamma, lam)
    bracket = max(0.0, math.log(lam * w2_start / error)) if w2_start > 0 else 0.0
    return math.ceil(8 / (gamma * lam) * bracket) + 1


def contraction_squared(gamma: float, lam: float) -> float:
    """W2²(p_{n+1}, q)/W2²(p_n, q) of an exact step is at most this: 1/(1 + gamma lambda)."""
    return 1 / (1 + gamma * lam)


def algebraic_rate(w2_start: float, gamma: float, steps: int) -> float:
    """`G(p_n) - G*` is at most this after exact steps of a convex G (lambda = 0): W2²(p_0, q)/(2 gamma n)."""
    _require_positive(gamma=gamma, steps=steps)
    return w2_start**2 / (2 * gamma * steps)


def diffusion_w2(w2_start: float, time: float, lam: float) -> float:
    """W2(rho_t, q) along the diffusion (7) is at most this."""
    return math.exp(-lam * time) * w2_start


def diffusion_kl(kl_start: float, time: float, lam: float) -> float:
    """KL(rho_t‖q) along the diffusion (7) is at most this, nats."""
    return math.exp(-2 * lam * time) * kl_start


# ── the sharper form, a-posteriori ──


def sharp_w2(w2_start: float, gammas: Sequence[float], errors: Sequence[float], lam: float) -> float:
    """W2(p_N, q) is at most this, a-posteriori, for every gamma > 0 and lambda >= 0.

    c_1…c_N W2(p_0, q) + Σ_n c_n…c_N gamma_n eps_n,    c_n = 1/(1 + gamma_n lambda).

    A free step (gamma infinite) forgets what was before it: eps/lambda, and nothing is known at lambda = 0.
    """
    _require_lengths(gammas, errors)
    distance = w2_start
    for gamma, error in zip(gammas, errors, strict=True):
        pull = 1 / gamma + lam
        distance = (distance / gamma + error) / pull if pull > 0 else math.inf
    return distance


def sharp_last_step_kl(w2_before: float, gamma: float, lam: float, error: float) -> float:
    """`G(p_N) - G(q)` is at most this, given W2(p_{N-1}, q), a-posteriori.

    (W2(p_{N-1}, q) + gamma eps)² / (2 gamma (2 + gamma lambda)),    eps²/(2 lambda) for a free step.
    """
    _require_positive(gamma=gamma)
    pull = 2 / gamma + lam
    return (w2_before / gamma + error) ** 2 / (2 * pull) if pull > 0 else math.inf


# ── Section 5: the reverse process ──


def generation_kl(gamma: float, lam: float, error: float) -> float:
    """KL(p_0‖q_0) is at most this after `blocks_needed` blocks: (39), (9/(2 gamma)) (eps/lambda)².

    Raises:
        InputError: gamma lambda > 2, where the constant 9 is not proved.
    """
    _require_positive(gamma=gamma, lam=lam)
    _require_assumption_5(gamma, lam)
    return 9 / (2 * gamma) * (error / lam) ** 2


def generation_tv(gamma: float, lam: float, error: float) -> float:
    """TV(p_0, q_0) is at most this: Corollary 5.2, (40), by Pinsker's inequality, at most 1."""
    return min(1.0, math.sqrt(generation_kl(gamma, lam, error) / 2))


def smoothing_w2_squared(second_moment: float, dim: int, time: float) -> float:
    """W2²(P, rho_t) is at most this: Lemma C.1, (1 - e^{-t})² M2 + (1 - e^{-2t}) d <= t (M2 + 2d)."""
    return math.expm1(-time) ** 2 * second_moment - math.expm1(-2 * time) * dim


def smoothing_time(second_moment: float, dim: int, delta: float) -> float:
    """A time at which W2(P, rho_t) <= delta: Lemma C.1, delta²/(M2 + 2d)."""
    _require_positive(delta=delta)
    return delta**2 / (second_moment + 2 * dim)


def inversion_w2_by_block(errors: Sequence[float], lipschitz: Sequence[float]) -> float:
    """W2(q_0, q~_0) is at most this: Proposition 5.4 by blocks, Σ_n L_1…L_n eps_inv,n.

    Arguments:
        errors: eps_inv,n of block n = 1, …, N.
        lipschitz: L_n, the Lipschitz constant of the inverse of block n.
    """
    _require_lengths(lipschitz, errors)
    total, product = 0.0, 1.0
    for error, constant in zip(errors, lipschitz, strict=True):
        product *= constant
        total += product * error
    return total


def inversion_w2(error: float, gamma: float, lipschitz: float, n_blocks: int) -> float:
    """W2(q_0, q~_0) is at most this: Proposition 5.4, (41), eps_inv Σ_{k=1}^N e^{gamma K k}.

    Arguments:
        error: eps_inv of Assumption 2.
        gamma: Step size; gamma K is the Lipschitz constant of a field over block time [0, 1].
        lipschitz: K of Assumption 6.
        n_blocks: N.
    """
    return inversion_w2_by_block([error] * n_blocks, [math.exp(gamma * lipschitz)] * n_blocks)


def inversion_w2_closed(error: float, gamma: float, lipschitz: float, n_blocks: int) -> float:
    """`inversion_w2` is at most this: (eps_inv/(gamma K)) e^{gamma K (N + 1)}, the end of (41)."""
    _require_positive(gamma=gamma, lipschitz=lipschitz)
    rate = gamma * lipschitz
    return error / rate * math.exp(rate * (n_blocks + 1))


def mixed_w2(
    w2_start: float, gamma: float, lam: float, error: float, lipschitz: float, inversion_error: float
) -> float:
    """W2(q_0, q~_0) is at most this after `blocks_needed` blocks: Corollary 5.5, (42).

    C max(1, W2(p_0, q) lambda/eps)^{8K/lambda} eps_inv,    C = e^{3 gamma K}/(gamma K).
    """
    _require_positive(gamma=gamma, lam=lam, error=error, lipschitz=lipschitz)
    _require_assumption_5(gamma, lam)
    constant = math.exp(3 * gamma * lipschitz) / (gamma * lipschitz)
    growth = max(1.0, w2_start * lam / error) ** (8 * lipschitz / lam)
    return float(constant * growth * inversion_error)


# ── from the last block alone, a-posteriori ──


def fisher_kl(gradient_norm: float, lam: float) -> float:
    """KL(p‖q) is at most this: q satisfies a log-Sobolev inequality with constant lambda.

    Arguments:
        gradient_norm: ‖∇V + ∇log p‖_p; at most eps_N + W2(p_{N-1}, p_N)/gamma_N at the end of a flow.
        lam: lambda > 0.
    """
    _require_positive(lam=lam)
    return gradient_norm**2 / (2 * lam)


def talagrand_w2(kl: float, lam: float, *, lipschitz: float = 1.0) -> float:
    """W2(p_0, q_0) is at most this: Lip((T_1^N)^{-1}) sqrt(2 KL(p_N‖q)/lambda)."""
    _require_positive(lam=lam)
    return lipschitz * math.sqrt(2 * kl / lam)


def _require_assumption_5(gamma: float, lam: float) -> None:
    if gamma * lam > 2:
        raise InputError(
            f"gamma: expected gamma lambda <= 2 (Assumption 5), got {gamma * lam:g}; "
            "use `forward_w2_squared` and `last_step_kl`, which hold for every gamma"
        )
