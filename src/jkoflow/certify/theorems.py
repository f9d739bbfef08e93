"""What the convergence theorems make of the first-order residuals, which are measured once for all of them.

    eps_n  ->  W2(p_n, q), KL(p_n‖q)  (Theorem 4.3)  ->  KL(p_0‖q_0), TV(p_0, q_0)  (Corollary 5.2)

Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, Sections 4 and 5.
"""

from __future__ import annotations

from jkoflow.certify import first_order_residual, forward_convergence, generation_guarantee
from jkoflow.certify.claim import Claim
from jkoflow.certify.evidence import Evidence
from jkoflow.certify.step_errors import plug_in_errors, within_knowledge

__all__ = ["claims"]


def claims(evidence: Evidence) -> list[Claim]:
    """The residual of every block, the forward process against its bounds, and the guarantee for samples."""
    measured = first_order_residual.residuals(evidence)
    steps = plug_in_errors(evidence.flow, measured)
    return [
        *first_order_residual.claims(evidence, measured),
        *within_knowledge(forward_convergence.claims(evidence, steps)),
        *within_knowledge(generation_guarantee.claims(evidence, steps)),
    ]
