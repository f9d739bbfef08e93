"""How far started blocks are from proximal steps of their nominal and of their effective size.

    eps(g) = ‖∇V + ∇log p_n - (T_n^{-1} - id)/g‖,    g = gamma of the schedule, or of the block

p_0 is known, so that the score of every p_n is had by change of variables, without an estimate. Beside it
stands the gradient ‖∇V + ∇log p_n‖; a step that is exact at g leaves an eps of 0.

    python benchmarks/step_residuals.py                      blocks of three laws in the plane
    python benchmarks/step_residuals.py --laws rings         of one of them
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from run_record import append_rows, run_head
from torch import Tensor

from jkoflow import JKOFlow
from jkoflow.blocks import Block
from jkoflow.first_order import StepPairs, exact_residual, norm_of, pushed_score
from jkoflow.laws import Law, make_law
from jkoflow.particles import Particles

RESULTS = Path(__file__).parent / "results" / "step_residuals.jsonl"


def residual_rows(law: Law, *, rows: int, judged: int, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each block of finite size of a flow that is fitted to draws of the law."""
    source = torch.Generator().manual_seed(5)
    model = JKOFlow(random_state=0, **options).fit(law.sample(rows, source).numpy())
    schema, fresh = model.model_.schema, law.sample(judged, source).double()
    location, scale = torch.as_tensor(schema.location), torch.as_tensor(schema.scale)
    x, score = (fresh - location) / scale, scale * _score(law, fresh)
    sizes = [step["nominal_gamma"] for step in model.steps_ if step["kept"]]
    found = []
    for number, (block, nominal) in enumerate(zip(model.flow_.double(), sizes, strict=True), start=1):
        if block.free:
            break
        after, score_after = pushed_score(block, x, score)
        found.append(_row(block, x, score_after, nominal) | {"block": number})
        x, score = after, score_after
    return found


def _score(law: Law, x: Tensor) -> Tensor:
    at = x.clone().requires_grad_()
    return torch.autograd.grad(law.log_prob(at).sum(), at)[0]


def _row(block: Block, x: Tensor, score_after: Tensor, nominal: float) -> dict[str, Any]:
    """The residual at both sizes, in float64, and the gradient that it is a share of."""
    law = make_law("standard_normal", dim=block.dim)

    def eps(gamma: float) -> float:
        pairs = StepPairs.of(block.as_step_of(gamma), Particles(x), law)
        return norm_of(exact_residual(pairs, score_after)).value

    gradient = eps(math.inf)
    return {
        "nominal_gamma": nominal,
        "effective_gamma": block.gamma,
        "gradient": gradient,
        "eps_nominal": eps(nominal),
        "eps_effective": eps(block.gamma),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, record and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--laws", nargs="+", default=["rose", "rings", "tree"])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--judged", type=int, default=2000)
    parser.add_argument("--budget", type=float, default=40.0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    head, found = run_head(budget=options.budget), list[dict[str, Any]]()
    for name in options.laws:
        chosen = {"budget": options.budget, "closing": None}
        for row in residual_rows(make_law(name), rows=options.rows, judged=options.judged, options=chosen):
            found.append(head | {"law": name, "train_rows": options.rows} | row)
            sizes = f"{row['nominal_gamma']:.3g} | {row['effective_gamma']:.3g} | {row['gradient']:.3g}"
            print(
                f"| {name} | {row['block']} | {sizes} |"
                f" {row['eps_nominal']:.3g} | {row['eps_effective']:.3g} |"
            )
    append_rows(RESULTS, found)


if __name__ == "__main__":
    main()
