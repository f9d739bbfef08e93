"""Cases of the coverage table: a random law, a flow fitted to it well or badly, and rows it never saw.

    case = law(seed) x fit(seed): 500 to 20,000 rows, 2 to 20 CPU-seconds, 1 to 16 blocks

Of the further laws half the flows are blocks alone, without a closing mixture; "small" ones have 150 to 500
rows. The truth is used for two things alone: the KL that the bracket is held against, and to keep the cases
whose KL lies in the range of their families (`Suite.kl_range`); the rule is the same for all, and those
outside are recorded too.
"""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from further_laws import FURTHER_FAMILIES

from jkoflow import JKOFlow
from jkoflow.certify import Evidence
from jkoflow.certify.fit_rows import FitRows
from jkoflow.certify.rows import evidence_from
from jkoflow.data import read_table
from jkoflow.fitting import split_rows
from jkoflow.flow import Flow
from jkoflow.flow.likelihood import log_prob
from laws import FAMILIES, Families, Problem, draw_problem

__all__ = ["SUITES", "Case", "Fit", "Suite", "draw_case", "suite_of", "tail_growth", "true_kl"]

Reals = npt.NDArray[np.float64]
TRUTH_ROWS = 25_000


@dataclass(frozen=True)
class Suite:
    """A hundred cases.

    Arguments:
        families: Its laws.
        kl_range: Cases whose KL lies outside are replaced, nats; infinite ones stay where the upper end is
            infinite.
    """

    families: Families
    kl_range: tuple[float, float]


SUITES = {"first": Suite(FAMILIES, (0.005, 2.0)), "further": Suite(FURTHER_FAMILIES, (0.005, math.inf))}


def suite_of(family: str) -> Suite:
    """The suite that a family is of."""
    return next(suite for suite in SUITES.values() if family in suite.families)


@dataclass(frozen=True)
class Fit:
    """How well or badly the flow is fitted.

    Arguments:
        rows: Training rows.
        budget: CPU-seconds.
        max_blocks: Most blocks.
        held_out: Rows that the certificate gets.
        closing: `closing` of the estimator.
    """

    rows: int
    budget: float
    max_blocks: int
    held_out: int
    closing: str | None = "auto"


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
        model = JKOFlow(
            budget=self.fit.budget,
            max_blocks=self.fit.max_blocks,
            closing=self.fit.closing,
            random_state=self.number,
        )
        return model.fit(self.rows("fit", self.fit.rows))

    def evidence(self, model: JKOFlow, part: str = "held out", n: int | None = None) -> Evidence:
        """Rows of a part as the certificate gets them; on a grid with the noise of one step."""
        rows = self.rows(part, self.fit.held_out if n is None else n)
        fitted = read_table(self.rows("fit", self.fit.rows))
        fit_rows = FitRows.of(fitted, None, split_rows(fitted, model.model_.settings))
        return evidence_from(model.model_, read_table(rows), stream=part, fit_rows=fit_rows)

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
    rng = np.random.default_rng([number, *family.encode(), 17 if published else 3])
    suite = suite_of(family)
    problem = draw_problem(suite.families[family], rng, published=published)
    fit = Fit(
        rows=int(rng.choice([500, 2000, 8000, 20_000])),
        budget=float(rng.choice([2, 5, 10, 20])),
        max_blocks=int(rng.choice([1, 2, 4, 16])),
        held_out=int(rng.choice([5000, 10_000])),
    )
    if suite is SUITES["further"]:
        small = family == "small"
        fit = Fit(
            rows=int(rng.integers(150, 501)) if small else fit.rows,
            budget=fit.budget,
            max_blocks=fit.max_blocks,
            held_out=int(rng.integers(150, 501)) if small else int(rng.choice([2000, 5000, 10_000])),
            closing="auto" if rng.random() < 0.5 else None,
        )
    return Case(family, number, published, problem, fit)


def true_kl(case: Case, model: JKOFlow) -> tuple[float, float]:
    """KL(law‖model) over fresh rows and its standard error, nats.

    Infinite where moments of the order at which -log q_0 grows are: then the mean over rows means nothing.
    Of a law on a grid it is that of the law with uniform noise of one step, whose density is the mass of a
    value over the volume of its cell.
    """
    if case.problem.tail_index <= tail_growth(model.flow_) + 1e-3:
        return math.inf, 0.0
    fresh = case.rows("truth", TRUTH_ROWS)
    if not case.problem.grid_step:
        gap = case.problem.log_prob(fresh) - model.score_samples(fresh)
        return float(gap.mean()), float(gap.std(ddof=1) / math.sqrt(len(gap)))
    if len(model.model_.schema.dequantised) != case.problem.dim:
        raise ValueError(f"{case.name}: expected all columns to be dequantised")
    rows = case.evidence(model, "truth", TRUTH_ROWS).held_out
    assert rows is not None
    cell = case.problem.grid_step / model.model_.schema.scale
    own = log_prob(model.flow_, rows.x).numpy()
    gap = case.problem.log_prob(fresh) - float(np.log(cell).sum()) - own
    return float(gap.mean()), float(gap.std(ddof=1) / math.sqrt(len(gap)))


def tail_growth(flow: Flow) -> float:
    """a where -log q_0(x) grows as |x|^a far out, by its median over directions: 2 for a Gaussian tail."""
    exact = copy.deepcopy(flow).double()
    ways = torch.randn(64, flow.dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ways = ways / ways.norm(dim=1, keepdim=True)
    near, far = (-log_prob(exact, radius * ways).double() for radius in (1e40, 1e60))
    return float((far / near).log().median()) / (20 * math.log(10))
