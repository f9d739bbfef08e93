r"""Descent on the proximal objective: the block that minimises it over samples of p_{n-1}.

    T_n = argmin_T  G(T_# p_{n-1}) + E|x - T(x)|^2 / (2 gamma_n),    x ~ p_{n-1}

For the KL divergence G is E[V(T(x))] - E[log|det dT(x)|]. Nothing is back-propagated through earlier blocks.
Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (25).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from jkoflow.blocks import Block
from jkoflow.blocks.log_det import push_block_with_log_det, push_with_log_det_by
from jkoflow.functionals import Pushed
from jkoflow.recipe import DescentSettings
from jkoflow.steps.descent import Descent, descend
from jkoflow.steps.step import Step

__all__ = ["descend_on_objective"]


def descend_on_objective(block: Block, step: Step, settings: DescentSettings, divergence: str) -> Descent:
    """Descend on the proximal objective in place; judged by the determinant on validation rows.

    Arguments:
        block: The block, the identity or one that was started.
        step: The step.
        settings: Updates, batch and rate.
        divergence: How training sees the log-determinant; see `blocks.log_det.DIVERGENCES`.
    """
    generator = step.stream("proximal")
    push = push_with_log_det_by(divergence, dim=block.dim, generator=generator)
    judged, objective, functional = step.judge.rows, step.objective, step.functional
    learned: Any = functional.init(step.train)

    def loss() -> Tensor:
        nonlocal learned
        batch = step.train.draw(settings.batch, generator)
        pushed = Pushed(batch, *push(block, batch))
        learned = functional.update(learned, pushed)
        return objective.terms_of(pushed, learned).total

    def evaluate() -> float:
        pushed = Pushed(judged, *push_block_with_log_det(block, judged))
        return float(objective.terms_of(pushed, learned).total.detach())

    return descend(
        block,
        loss=loss,
        evaluate=evaluate,
        settings=settings,
        block=step.number,
        stop=lambda updates: step.stop("proximal", updates),
    )
