r"""What critics see of a row: where it is, where the flow takes it, and its log-density there.

    x,   T(x),   log q_0(x) = log q(T(x)) + log|det ∇T(x)|,   context

The KL is the same in data space and in latent space (Lemma 5.1), its estimators are not: fine structure is
plain in x, what the flow has already unfolded is plain in T(x), and where a model puts mass that the data
lack, log q_0 tells. Source: theory, "Beyond the paper", critics in both spaces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jkoflow.certify.evidence import Evidence
from jkoflow.particles import Particles

__all__ = ["Seen"]

_FARTHEST_NATS = 1e4
"""log q_0 is cut at plus and minus so many nats before critics see it; it is infinite for some far rows."""


@dataclass(frozen=True)
class Seen:
    """Rows, and what the model makes of them.

    Arguments:
        x: Positions, shape `(n, d)`, standardised units.
        z: T(x), shape `(n, d)`.
        log_q0: log q_0(x), shape `(n,)`, nats, float64.
        log_base: log q(T(x)), shape `(n,)`, nats, float64.
        context: Shape `(n, c)`, or None.
    """

    x: Tensor
    z: Tensor
    log_q0: Tensor
    log_base: Tensor
    context: Tensor | None

    @classmethod
    def by(cls, evidence: Evidence, rows: Particles) -> Seen:
        """What the model of the evidence makes of `rows`."""
        flow = evidence.flow
        z, log_det = flow.push_with_log_det(rows.x, rows.context)
        log_base = flow.law.log_prob(z.double())
        return cls(rows.x, z, log_base + log_det, log_base, rows.context)

    @classmethod
    def joined(cls, parts: Sequence[Seen]) -> Seen:
        """The rows of all parts, in their order."""
        contexts = [part.context for part in parts if part.context is not None]
        return cls(
            torch.cat([part.x for part in parts]),
            torch.cat([part.z for part in parts]),
            torch.cat([part.log_q0 for part in parts]),
            torch.cat([part.log_base for part in parts]),
            torch.cat(contexts) if contexts else None,
        )

    def __len__(self) -> int:
        return len(self.x)

    @property
    def dim(self) -> int:
        """d."""
        return self.x.shape[1]

    def rows(self, index: Tensor | slice) -> Seen:
        """Those at `index`."""
        context = None if self.context is None else self.context[index]
        return Seen(self.x[index], self.z[index], self.log_q0[index], self.log_base[index], context)

    def columns(self) -> Tensor:
        """All of it side by side, finite: x, T(x), log q_0, |T(x)|, context; shape `(n, 2d + 2 + c)`."""
        log_q0 = self.log_q0.nan_to_num(nan=-_FARTHEST_NATS).clamp(-_FARTHEST_NATS, _FARTHEST_NATS)
        radius = self.z.norm(dim=1)
        parts = [self.x, self.z, log_q0.to(self.x)[:, None], radius[:, None]]
        if self.context is not None:
            parts.append(self.context)
        return torch.cat(parts, dim=1).nan_to_num()
