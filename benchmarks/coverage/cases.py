"""Cases of the coverage table: a random law, a flow fitted to it well or badly, and rows it never saw.

    case = law(seed) x fit(seed): 500 to 20,000 rows, 2 to 20 CPU-seconds, 1 to 16 blocks

The truth is used for two things alone: the KL that the bracket is held against, and to keep the cases whose
KL lies in [0.005, 2] nats; the rule is the same for all, and those outside are recorded too.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jkoflow import JKOFlow
from laws import Problem, draw_problem

__all__ = ["Case", "Fit", "draw_case", "true_kl"]

Reals = npt.NDArray[np.float64]
TRUTH_ROWS = 25_000


@dataclass(frozen=True)
class Fit:
    """How well or badly the flow is fitted.

    Arguments:
        rows: Training rows.
        budget: CPU-seconds.
        max_blocks: Most blocks.
        held_out: Rows that the certificate gets.
    """

    rows: int
    budget: float
    max_blocks: int
    held_out: int


@dataclass(frozen=True)
class Case:
    """One case; the same for the same arguments of `draw_case`."""

    family: str
    number: int
    published: bool
    problem: Problem
    fit: Fit

    @property
    def name(self) -> str:
        """Of the case, for files."""
        return f"{'published' if self.published else 'develop'}-{self.family}-{self.number:03d}"

    def rows(self, part: str, n: int) -> Reals:
        """Rows of the law; those of different parts are independent."""
        seed = np.random.SeedSequence([self.number, int(self.published), *part.encode()])
        return self.problem.sample(n, int(seed.generate_state(1)[0]))

    def fitted(self) -> JKOFlow:
        """The flow."""
        model = JKOFlow(budget=self.fit.budget, max_blocks=self.fit.max_blocks, random_state=self.number)
        return model.fit(self.rows("fit", self.fit.rows))

    def to_dict(self) -> dict[str, Any]:
        """What a row of the results tells of it."""
        return {
            "case": self.name,
            "family": self.family,
            "kind": self.problem.kind,
            "dim": self.problem.dim,
            **asdict(self.fit),
        }


def draw_case(family: str, number: int, *, published: bool) -> Case:
    """Case `number` of a family; the published ones share neither laws nor fits with the others."""
    rng = np.random.default_rng([number, *family.encode(), 11 if published else 3])
    problem = draw_problem(family, rng, published=published)
    fit = Fit(
        rows=int(rng.choice([500, 2000, 8000, 20_000])),
        budget=float(rng.choice([2, 5, 10, 20])),
        max_blocks=int(rng.choice([1, 2, 4, 16])),
        held_out=int(rng.choice([5000, 10_000])),
    )
    return Case(family, number, published, problem, fit)


def true_kl(case: Case, model: JKOFlow) -> tuple[float, float]:
    """KL(law‖model) over fresh rows and its standard error, nats."""
    fresh = case.rows("truth", TRUTH_ROWS)
    gap = case.problem.log_prob(fresh) - model.score_samples(fresh)
    return float(gap.mean()), float(gap.std(ddof=1) / math.sqrt(len(gap)))
