"""Flows that nothing was done to, from poor to good, and whether a claim that fails on one of them is true.

    accused = a claim says *fails* that is true of the flow

Laws and fits are those of the coverage table's families, of numbers that nothing else uses. What a failing
claim says is looked at again with rows of the law that the certificate never saw, and with the true KL; a
bound that rests on a plug-in must not be found broken at all.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from jkoflow import JKOFlow
from jkoflow.certify import Claim, Evidence, integrity, inversion
from jkoflow.certify.trajectory import Missing, follow
from jkoflow.particles import Particles

sys.path.insert(0, str(Path(__file__).parent / "coverage"))

from cases import Case, draw_case, true_kl  # a folder of scripts, no package

from laws import FAMILIES

__all__ = ["Honest", "load_honest", "right_to_fail"]

FIRST_NUMBER = 500
MOST_BUDGET, HELD_OUT = 8.0, 3000
FRESH_ROWS = 10_000
DRAWS = 4
STANDARD_ERRORS = 3.0


class Honest(NamedTuple):
    """A flow with its law.

    Arguments:
        case: Law and fit.
        model: The flow.
        kl_nats: KL(law‖flow) over fresh rows.
        kl_se_nats: Its standard error.
    """

    case: Case
    model: JKOFlow
    kl_nats: float
    kl_se_nats: float

    def evidence(self, part: str, n_rows: int, *, seed: int) -> Evidence:
        """The flow with rows that its fit never saw; other parts are independent."""
        rows = self.model.model_.schema.standardise(self.case.rows(part, n_rows))
        return Evidence(self.model.flow_, Particles(torch.as_tensor(rows).to(self.model.model_.like)), seed)


def load_honest(number: int, folder: Path) -> Honest:
    """Honest flow `number`, from its folder where it was fitted before."""
    families = list(FAMILIES)
    case = draw_case(families[number % 3], FIRST_NUMBER + number // 3, published=False)
    case = replace(case, fit=replace(case.fit, budget=min(case.fit.budget, MOST_BUDGET), held_out=HELD_OUT))
    path = folder / case.name
    if not path.exists():
        case.fitted().save(path)
    model = JKOFlow.load(path)
    return Honest(case, model, *true_kl(case, model))


def right_to_fail(claim: Claim, honest: Honest) -> bool:
    """Whether what a claim says is false indeed.

    Pushed rows are not normal where the true KL is above 0. What a claim says of the map as it is computed
    must be found again over `DRAWS` fresh sets of rows with other seeds: by their mean, or where a claim has
    no number or no bound, by its verdict. A bound that is broken on paper only, since an eps_n in it is
    estimated too small, is no fault of the flow: never right.
    """
    if "cannot be told from N(0, I)" in claim.claim:
        return honest.kl_nats > STANDARD_ERRORS * honest.kl_se_nats
    fresh = honest.evidence("fresh", FRESH_ROWS, seed=honest.case.number + 1)
    if "does not raise KL" in claim.claim and claim.block is not None:
        path = follow(fresh)
        return not isinstance(path, Missing) and float(path.objective.diff(dim=0)[claim.block - 1].mean()) > 0
    again = list(_found_again(claim, honest))
    found = [other.measured for other in again if other.measured is not None]
    if claim.bound is not None and found and sum(found) / len(found) > claim.bound:
        return True
    return bool(again) and all(other.verdict == "fails" for other in again)


def _found_again(claim: Claim, honest: Honest) -> Iterator[Claim]:
    """The same claim on fresh rows, once for each draw; by the one reader that makes it."""
    for reader in (integrity.claims, inversion.claims):
        for draw in range(1, DRAWS + 1):
            claims = reader(honest.evidence("fresh", FRESH_ROWS, seed=100 * draw + 1))
            same = [other for other in claims if (other.claim, other.block) == (claim.claim, claim.block)]
            yield from same
            if not same:
                break
