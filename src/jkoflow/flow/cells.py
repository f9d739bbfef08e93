r"""How much mass log_prob puts on the cells of its float type around given rows: no density exceeds 1.

    sum_x q_0(x) prod_j c_j(x) <= 1  over distinct rows x,     c_j(x) = (next float - previous float) / 2

Every position in a cell is rounded to the row in its middle and has that row's log_prob, so that the sum is
the very integral over these cells, which do not overlap, of the density that is told. Where rows lie in a
spike that the float type does not resolve, a flow can claim any density there. With a context the bound holds
for each one of its values. Source: ours; the cells are those of IEEE 754, rounding to nearest.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jkoflow.flow.flow import Flow
from jkoflow.flow.likelihood import log_prob

__all__ = ["cell_widths", "log_cell_mass"]


def log_cell_mass(flow: Flow, x: Tensor, context: Tensor | None = None) -> float:
    """The logarithm of the mass of all cells around these rows, the largest of any context's; nats.

    Arguments:
        flow: The density.
        x: Rows, shape `(n, d)`, n >= 1, in the dtype that the flow computes in.
        context: What each is conditioned on, shape `(n, c)`, or None.

    Returns:
        At most 0 for a density, but for rounding in `log_prob`; NaN where it is no number for some row.
    """
    rows = x if context is None else torch.cat([context, x], dim=1)
    distinct = torch.unique(rows, dim=0)
    given, at = (None, distinct) if context is None else distinct.tensor_split([context.shape[1]], dim=1)
    nats = log_prob(flow, at, given).cpu() + cell_widths(at.cpu()).log().sum(dim=1)
    if given is None:
        return float(nats.logsumexp(dim=0))
    label = torch.unique(given.cpu(), dim=0, return_inverse=True)[1]
    largest = torch.full((int(label.max()) + 1,), -torch.inf, dtype=nats.dtype)
    largest = largest.scatter_reduce(0, label, nats, "amax")
    sums = torch.zeros_like(largest).scatter_add(0, label, (nats - largest[label]).exp())
    return float((largest + sums.log()).max())


def cell_widths(x: Tensor) -> Tensor:
    """How wide the positions are that round to each of these numbers, any shape, float64."""
    infinity = torch.tensor(torch.inf, dtype=x.dtype, device=x.device)
    return (torch.nextafter(x, infinity).double() - torch.nextafter(x, -infinity).double()) / 2
