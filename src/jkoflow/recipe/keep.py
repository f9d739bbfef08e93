"""What a block must gain on validation rows to keep its place, and when a fit looks for no further one.

Source: measured on held-out rows of training tables, docs/performance.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from jkoflow.particles import Particles

__all__ = ["KeepRules"]


@dataclass(frozen=True)
class KeepRules:
    """The rules by which blocks are kept, rounds end, and a Gaussian is preferred.

    Arguments:
        standard_errors: A block must gain more than this many standard errors of its paired gain.
        least_gain_nats: Gain of the closed flow on validation rows, nats a row, a block must exceed: each
            block costs time in the fit and in every sample and score.
        drops: Blocks in a row that are not worth their place, after which a round ends.
        rounds: Rounds of blocks, each from the particles' finest scale, that a fit has at most.
        flow_standard_errors: A flow must gain more than this many standard errors over the Gaussian alone:
            several blocks were tried on the same rows, each kept for one.
        least_variance: Variance, standardised units squared, that is added in every direction to the shrunk
            covariance of a Gaussian step; a covariance with less than half of it somewhere is not used.
        judged_numbers: Validation rows × columns² that decisions inside a step look at; it limits the rows.
        fewest_judged: Fewest validation rows that they look at.
        judged_densities: Most validation rows that a descent on a density looks at, which has no determinant.
    """

    standard_errors: float = 1.0
    least_gain_nats: float = 0.002
    drops: int = 2
    rounds: int = 2
    flow_standard_errors: float = 2.0
    least_variance: float = 1e-10
    judged_numbers: int = 2**18
    fewest_judged: int = 64
    judged_densities: int = 1024

    def judged(self, validation: Particles) -> Particles:
        """The first validation rows, fewer where there are more columns, that decisions in a step look at."""
        count = max(self.fewest_judged, self.judged_numbers // validation.dim**2)
        return validation.rows(slice(0, count))
