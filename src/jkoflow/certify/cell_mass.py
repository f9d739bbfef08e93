r"""Whether log_prob is the logarithm of a density at spikes, where rows crowd on few float numbers.

    sum_x q_0(x) prod_j c_j(x) <= 1                                  x distinct held-out rows, or samples
    E[s(X)] = P(X_j in the cell of c),   X ~ samples of the model,   s = q_0(c | X_{-j}) c_j(c)

The first is the mass of the float cells around rows (`jkoflow.flow.cells`). In several columns no two rows
share a cell, however a spike in one of them is rounded; the second looks at the number c that most rows have
in a column, and holds the mass that log_prob gives its cell, by quadrature along the column, against the
share of samples there. Source: ours.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from jkoflow.certify.claim import INTEGRITY_READER, Claim, Verdict, undecided
from jkoflow.certify.evidence import GIVE_ROWS, LEVEL, Evidence
from jkoflow.certify.integrity import share_interval
from jkoflow.flow import Flow
from jkoflow.flow.cells import cell_widths, log_cell_mass
from jkoflow.flow.likelihood import log_prob, standard_error
from jkoflow.particles import Particles

__all__ = ["claims"]

_CELLS = "the density puts no more than 1 on the cells of its float type around rows"
_CELLS_SOURCE = "jkoflow: a density integrates to 1; cells of IEEE 754 around distinct rows do not overlap"
_SPIKE = "on the number that most rows have in a column, log_prob puts no more mass than samples show"
_SPIKE_SOURCE = "jkoflow: samples and log_prob of one law agree on the cell of a float"
_CELL_ROWS = 4096
_ROUNDING_NATS = 0.1
"""That much log_prob in float32 may be too high throughout where nothing else is wrong."""
_SPIKE_SHARE, _SPIKE_COUNT = 0.02, 8
"""A number is a spike where so many rows have it in a column; noise spreads what was recorded twice."""
_SPIKE_ROWS, _SHARED_ROWS, _QUANTILES, _DOUBLINGS = 128, 2048, 32, 40
_MARGIN = 0.05
_REMEDY = "log_prob is no density there: fit with dtype='float64', or the logarithm of the column"


def claims(evidence: Evidence) -> list[Claim]:
    """The mass of the cells around held-out rows, or samples, and of the worst spike in a column."""
    rows = evidence.held_out
    if evidence.takes_context and (rows is None or rows.context is None):
        return []
    if not rows:
        rows = evidence.draw(_CELL_ROWS, part=42)
    rows = rows.rows(slice(_CELL_ROWS))
    found = [_cells(evidence, rows), *_spike(evidence, rows)]
    return [replace(claim, reader=INTEGRITY_READER) for claim in found]


def _cells(evidence: Evidence, rows: Particles) -> Claim:
    nats = log_cell_mass(evidence.flow, rows.x, rows.context)
    verdict: Verdict = "undecided" if math.isnan(nats) else "holds" if nats <= _ROUNDING_NATS else "fails"
    remedies: dict[Verdict, str] = {"holds": "", "undecided": GIVE_ROWS, "fails": _REMEDY}
    return Claim(
        _CELLS,
        _CELLS_SOURCE,
        "theorem",
        verdict,
        None if math.isnan(nats) else math.exp(min(nats, 700.0)),
        bound=1.0,
        unit="mass",
        rows=len(rows),
        remedy=remedies[verdict],
    )


# ── one column of several ──


def _spike(evidence: Evidence, rows: Particles) -> list[Claim]:
    """A claim on the number that most rows share in a column; none where no number is shared."""
    if rows.dim < 2:
        return []
    counts = [torch.unique(column, return_counts=True) for column in rows.x.T]
    most = [int(count.max()) for _, count in counts]
    place = max(range(rows.dim), key=most.__getitem__)
    if most[place] < max(_SPIKE_COUNT, _SPIKE_SHARE * len(rows)):
        return []
    values, count = counts[place]
    spike = values[count.argmax()]
    context = evidence.contexts(_SHARED_ROWS, "spike")
    drawn = evidence.draw(_SHARED_ROWS, context=context, part=43)
    found = int((drawn.x[:, place] == spike).sum())
    low, high = share_interval(found, len(drawn))
    told = _told_share(evidence.flow, drawn.rows(slice(_SPIKE_ROWS)), place, spike, values)
    if not told.isfinite().all():
        why = "log_prob is no number along the column of some sample"
        return [undecided(_SPIKE, _SPIKE_SOURCE, "plug-in", why=why, remedy=_REMEDY)]
    measured, error = float(told.mean()), 2 * standard_error(told)
    bound = high + _MARGIN
    verdict: Verdict = "fails" if measured - error > bound else "holds" if measured <= bound else "undecided"
    return [
        Claim(
            _SPIKE,
            _SPIKE_SOURCE,
            "plug-in",
            verdict,
            measured,
            interval=(max(0.0, measured - error), min(1.0, measured + error)),
            level=LEVEL,
            bound=bound,
            unit=f"share; {low:.3g} to {high:.3g} of the samples",
            rows=len(told),
            remedy="" if verdict == "holds" else _REMEDY,
        )
    ]


def _told_share(flow: Flow, rows: Particles, place: int, spike: Tensor, values: Tensor) -> Tensor:
    """s of each row, shape `(n,)`: the mass of the spike's cell by log_prob, given the row's other columns.

    The rest of the line is integrated by trapezoids between quantiles of the column and numbers at doubled
    distances from the spike, so that a spike of any width is seen.
    """
    width = float(cell_widths(spike[None])[0])
    steps = width * 2.0 ** torch.arange(_DOUBLINGS, dtype=torch.float64, device=values.device)
    quantiles = values[torch.linspace(0, len(values) - 1, _QUANTILES, device=values.device).long()].double()
    centre = spike.double()
    reach = 2 * float((values.double() - centre).abs().max())
    steps = steps[steps <= reach]
    line = torch.unique(torch.cat([centre - steps, centre + steps, quantiles, centre[None]]).to(values.dtype))
    x = rows.x.repeat_interleave(len(line), dim=0)
    x[:, place] = line.repeat(len(rows))
    given = None if rows.context is None else rows.context.repeat_interleave(len(line), dim=0)
    nats = log_prob(flow, x, given).reshape(len(rows), len(line))
    density = (nats - nats.amax(dim=1, keepdim=True)).exp()
    at = int((line == spike).nonzero()[0, 0])
    own = density[:, at] * width
    # the trapezoids at the spike begin where its cell ends, with the density of the next number
    density[:, at] = torch.minimum(density[:, max(0, at - 1)], density[:, min(at + 1, len(line) - 1)])
    return own / (own + torch.trapezoid(density, line.double(), dim=1))
