r"""Descent on the proximal objective: the block that minimises it over samples of p_{n-1}.

    T_n = argmin_T  G(T_# p_{n-1}) + E|x - T(x)|^2 / (2 gamma_n),    x ~ p_{n-1}

For the KL divergence G is E[V(T(x))] - E[log|det dT(x)|]. Nothing is back-propagated through earlier blocks.
Source: Cheng, Lu, Tan & Xie (2024), arXiv 2310.17582, eq. (25).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from jkoflow.blocks import Block, Source
from jkoflow.blocks.log_det import push_block_with_log_det, push_with_log_det_by
from jkoflow.functionals import Pushed
from jkoflow.particles import Particles
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
    source = _known_source(block, step)
    if source is not None:
        return _descend_from_source(block, source, step, settings)
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


def _known_source(block: Block, step: Step) -> Source | None:
    """The law that the block of a free step takes to q, where it tells the value of G."""
    source = block.source(step.functional.law) if math.isinf(step.gamma) else None
    if source is None:
        return None
    row = step.validation.rows(slice(0, 1))
    return source if step.functional.value_from_source(source, row) is not None else None


def _descend_from_source(block: Block, source: Source, step: Step, settings: DescentSettings) -> Descent:
    """The same for a free step whose block knows the density that it takes to q: no map is needed."""
    generator, functional = step.stream("proximal"), step.functional
    judged = step.validation.rows(slice(0, step.recipe.keep.judged_densities))

    def value(rows: Particles) -> Tensor:
        found = functional.value_from_source(source, rows)
        assert found is not None
        return found

    def evaluate() -> float:
        with torch.no_grad():
            return judged.mean(value(judged))

    return descend(
        block,
        loss=lambda: value(step.train.draw(settings.batch, generator)).mean(),
        evaluate=evaluate,
        settings=settings,
        block=step.number,
        stop=lambda updates: step.stop("proximal", updates),
    )
