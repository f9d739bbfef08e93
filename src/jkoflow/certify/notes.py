"""What a reader of a certificate should know about the rows that it was made from, in a line each.

    p_0 = smooth(dequantise(data)),    W2(data, p_0) <= delta of Lemma C.1

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, Lemma C.1 and Corollary 5.3 for smoothed rows.
"""

from __future__ import annotations

from jkoflow.certify.evidence import Evidence
from jkoflow.data.table import join_names

__all__ = ["notes_on", "round_trip_remedy"]


def notes_on(evidence: Evidence) -> tuple[str, ...]:
    """The notes of a certificate: rows that were seen, weighted, dequantised or smoothed; then remarks."""
    own = (
        _repeats(evidence),
        _weighted(evidence),
        _dequantised(evidence),
        _dependent(evidence),
        _smoothed(evidence),
    )
    return (*(note for note in own if note), *evidence.remarks)


def round_trip_remedy(evidence: Evidence) -> str:
    """What to change where rows do not come back through the inverse and the map."""
    if not evidence.dependent:
        return "fit with dtype = 'float64', or with smaller steps (gamma)"
    names, told = (join_names(list(words)) for words in (evidence.dependent, evidence.dependent.values()))
    return f"drop {names} and fit again: columns that determine each other ({told}) have no density together"


def _repeats(evidence: Evidence) -> str:
    if not evidence.held_out:
        return ""
    seen, rows = evidence.seen, len(evidence.held_out)
    if seen is None:
        return f"whether some of the {rows:,} held-out rows were among the rows of the fit is not known here"
    told = f"{seen.exact:,} of {rows:,} held-out rows occur exactly among the rows of the fit"
    if seen.near:
        told += f", and {seen.near:,} lie closer to one of those than chance allows"
    if not seen.exact + seen.near:
        return told
    chance = f" ({seen.by_chance:.0%} of the fit's own rows recur)" if seen.by_chance else ""
    return f"{told}; unless that is chance{chance}, the claims on the rows flatter the model"


def _weighted(evidence: Evidence) -> str:
    if evidence.held_out is None or evidence.held_out.weight is None or evidence.unweighted is None:
        return ""
    stay, rows = len(evidence.unweighted), len(evidence.held_out)
    return (
        f"rows are weighted: the held-out NLL is the weighted mean of {rows:,}; the other claims are on "
        f"{stay:,} of them, each of which stayed with a probability in proportion to its weight"
    )


def _dequantised(evidence: Evidence) -> str:
    if not evidence.dequantised:
        return ""
    columns = f"{len(evidence.dequantised)} column{'s' * (len(evidence.dequantised) > 1)}"
    return (
        f"rows are dequantised: {columns} got uniform noise of one measuring step "
        f"({join_names(evidence.dequantised)}); the claims are about the law with that noise"
    )


def _dependent(evidence: Evidence) -> str:
    if not evidence.dependent:
        return ""
    return (
        f"columns determine each other exactly ({join_names(list(evidence.dependent.values()))}), so that "
        f"the table's law has no density in all of them: drop {join_names(list(evidence.dependent))}, fit "
        "again, and compute it from the others"
    )


def _smoothed(evidence: Evidence) -> str:
    smoothing = evidence.smoothing
    if smoothing is None or smoothing.time is None:
        return ""
    told = f"rows are smoothed as those of the fit were, {smoothing.kind.replace('_', ' ')} of time "
    told += f"{smoothing.time:.3g}; the claims are about the smoothed law p_0"
    if not evidence.unsmoothed:
        return told
    return f"{told}, at most {smoothing.w2_bound(evidence.unsmoothed.x):.3g} (W2, standardised) from the data"
