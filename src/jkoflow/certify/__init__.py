"""Certificates: how far a model is from its data, and how one knows; claims of one kind per file.

A reader of a finished flow and of rows that no part of its fit used; what it finds cannot influence a fit.
Source: theory, Sections 3 to 5 and "Beyond the paper", with the number at each claim.
"""

from __future__ import annotations

from collections.abc import Callable

from jkoflow.certify import (
    dissipation,
    held_out_nll,
    integrity,
    inversion,
    kl,
    latent_normality,
    smoothing,
    theorems,
)
from jkoflow.certify.claim import Certificates, Claim, KLBracket, undecided
from jkoflow.certify.evidence import Evidence
from jkoflow.certify.notes import notes_on
from jkoflow.errors import JKOFlowError
from jkoflow.global_state import default_state, one_thread

__all__ = ["Certificates", "Claim", "Evidence", "KLBracket", "certify"]

_READERS: dict[str, Callable[[Evidence], list[Claim]]] = {
    "dissipation": dissipation.claims,
    "held-out NLL": held_out_nll.claims,
    "latent normality": latent_normality.claims,
    "residuals and theorems": theorems.claims,
    "smoothing": smoothing.claims,
    "inversion": inversion.claims,
    "integrity": integrity.claims,
}


@default_state()
@one_thread()
def certify(evidence: Evidence) -> Certificates:
    """Everything that is known of the model from the evidence; never raises for what the model does."""
    bracket, claims = KLBracket(), list[Claim]()

    def kl_claims(evidence: Evidence) -> list[Claim]:
        nonlocal bracket
        bracket, found = kl.bracket(evidence)
        return found

    for name, reader in {"KL(p_0‖q_0)": kl_claims, **_READERS}.items():
        try:
            claims += reader(evidence)
        except (JKOFlowError, RuntimeError, ValueError, ArithmeticError) as error:
            claims.append(_broken(name, error))
    return Certificates(bracket, tuple(claims), notes_on(evidence))


def _broken(name: str, error: Exception) -> Claim:
    """What could not be computed is undecided, with the reason."""
    return undecided(
        f"{name} could be computed",
        "jkoflow: what cannot be computed is undecided",
        "plug-in",
        why=f"{type(error).__name__}: {error}",
        remedy="look at the rows for values far outside the table",
    )
