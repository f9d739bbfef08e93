"""The tuned numbers of a fit, for networks, steps, descents, closings and budgets, in one frozen value.

Each part is a small class whose fields say what each number is and in which unit. What a user chooses is in
`Settings`; what was found to serve all tables is here. The limits of EM (`MixtureRules`), of the search for
an inverse (`InverseSearch`), of columns on a grid (`GridRules`) or that others determine (`DependenceRules`),
of near copies (`NearCopyRules`) and of what floats can tell apart (`ResolutionRules`) stand beside the code
that uses them.
Source: docs/performance.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from jkoflow.blocks.autoregressive import AutoregressiveRules
from jkoflow.blocks.judge import InverseCheck, Refinement
from jkoflow.blocks.ode.family import NetworkRules
from jkoflow.laws import Background
from jkoflow.recipe.budget import BudgetRules
from jkoflow.recipe.closing import ClosingRules, Search
from jkoflow.recipe.descent import DescentSettings
from jkoflow.recipe.keep import KeepRules
from jkoflow.recipe.lead import LeadRules
from jkoflow.recipe.pilot import PilotRules
from jkoflow.recipe.updates import UpdateRules
from jkoflow.schedule import AutomaticRules

__all__ = [
    "Background",
    "BudgetRules",
    "ClosingRules",
    "DescentSettings",
    "KeepRules",
    "LeadRules",
    "PilotRules",
    "Recipe",
    "Search",
    "UpdateRules",
]


@dataclass(frozen=True)
class Recipe:
    """The numbers that the defaults of a fit were tuned to.

    Arguments:
        network: The size of velocity networks.
        autoregressive: The size of autoregressive blocks.
        steps: How step sizes follow from the particles.
        updates: The lengths and rates of descents.
        refinement: How a trained block chooses its solver steps.
        inverse: How the inverse of a trained block is tried.
        keep: What a block must gain, and how many are tried.
        pilot: The size of pilot fits.
        lead: When a fit begins with an autoregressive block, and how that is trained.
        closing: How carefully the mixture in closed form that ends a round is looked for.
        budget: How a budget is divided.
    """

    network: NetworkRules = field(default_factory=NetworkRules)
    autoregressive: AutoregressiveRules = field(default_factory=AutoregressiveRules)
    steps: AutomaticRules = field(default_factory=AutomaticRules)
    updates: UpdateRules = field(default_factory=UpdateRules)
    refinement: Refinement = field(default_factory=Refinement)
    inverse: InverseCheck = field(default_factory=InverseCheck)
    keep: KeepRules = field(default_factory=KeepRules)
    pilot: PilotRules = field(default_factory=PilotRules)
    lead: LeadRules = field(default_factory=LeadRules)
    closing: ClosingRules = field(default_factory=ClosingRules)
    budget: BudgetRules = field(default_factory=BudgetRules)

    @property
    def of_blocks(self) -> dict[str, Any]:
        """What families of blocks are sized by, under the names of their arguments."""
        return {"rules": self.network, "sizes": self.autoregressive, "background": self.closing.background}

    def with_heavy_tails(self, seen: float) -> Recipe:
        """The recipe for a table of heavy tails, of whose rows a share of `seen` are gross outliers."""
        return replace(self, closing=self.closing.with_heavy_tails(seen))
