"""Certificates: how far a model is from its data, and how one knows; claims of one kind per file.

A reader of a finished flow and of rows that no part of its fit used; what it finds cannot influence a fit.
Source: theory, Sections 3 to 5 and "Beyond the paper", with the number at each claim.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from jkoflow.certify import (
    cell_mass,
    dissipation,
    far_field,
    held_out_nll,
    integrity,
    inversion,
    kl,
    latent_normality,
    same_law,
    smoothing,
    tails,
    theorems,
)
from jkoflow.certify.claim import (
    INTEGRITY_READER,
    KL_READER,
    SAME_LAW_READER,
    Certificates,
    Claim,
    KLBracket,
    undecided,
)
from jkoflow.certify.consistency import reconcile, speaking_of_kl
from jkoflow.certify.evidence import Evidence
from jkoflow.certify.notes import notes_on
from jkoflow.errors import JKOFlowError
from jkoflow.global_state import default_state, one_thread

__all__ = ["Certificates", "Claim", "Evidence", "KLBracket", "certify"]

_READERS: dict[str, Callable[[Evidence], list[Claim]]] = {
    "dissipation": dissipation.claims,
    "held-out NLL": held_out_nll.claims,
    "tails": tails.claims,
    "latent normality": latent_normality.claims,
    "residuals and theorems": theorems.claims,
    "smoothing": smoothing.claims,
    "inversion": inversion.claims,
    INTEGRITY_READER: integrity.claims,
    "cell mass": cell_mass.claims,
    "far field": far_field.claims,
}


@default_state()
@one_thread()
def certify(evidence: Evidence, *, recorded: same_law.Recorded | None = None) -> Certificates:
    """Everything that is known of the model from the evidence; never raises for what the model does.

    Arguments:
        evidence: The model with rows.
        recorded: What the fit recorded of the rows that it set aside, where those of the evidence are
            others: it tells whether they are of the same law.
    """
    bracket, claims = KLBracket(), list[Claim]()

    def kl_claims(evidence: Evidence) -> list[Claim]:
        nonlocal bracket
        bracket, found = kl.bracket(evidence)
        return speaking_of_kl(found)

    def law_claims(evidence: Evidence) -> list[Claim]:
        return same_law.claims(evidence, recorded)

    for name, reader in {KL_READER: kl_claims, SAME_LAW_READER: law_claims, **_READERS}.items():
        try:
            found = reader(evidence)
        except (JKOFlowError, RuntimeError, ValueError, ArithmeticError) as error:
            found = [_broken(name, error)]
        claims += [replace(claim, reader=claim.reader or name) for claim in found]
    bracket, agreeing = reconcile(bracket, claims)
    return Certificates(bracket, same_law.blaming(agreeing), notes_on(evidence))


def _broken(name: str, error: Exception) -> Claim:
    """What could not be computed is undecided, with the reason."""
    return undecided(
        f"{name} could be computed",
        "jkoflow: what cannot be computed is undecided",
        "plug-in",
        why=f"{type(error).__name__}: {error}",
        remedy="look at the rows for values far outside the table",
    )
