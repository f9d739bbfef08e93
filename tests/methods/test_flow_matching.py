"""One regressed block: better than no flow, and refused where its path does not lead."""

from __future__ import annotations

import pytest
from sklearn.datasets import make_moons

from jkoflow import JKOFlow
from jkoflow.blocks import NeuralODEBlock
from jkoflow.errors import InputError
from oracles.quick_training import use_quick_recipe


def test_one_free_block_is_better_than_the_gaussian(monkeypatch: pytest.MonkeyPatch) -> None:
    use_quick_recipe(monkeypatch, updates=300)
    rows = make_moons(2000, noise=0.06, random_state=0)[0]
    held_out = make_moons(1000, noise=0.06, random_state=1)[0]
    model = JKOFlow(objective="flow_matching", random_state=0).fit(rows)
    gaussian = JKOFlow(objective="jko", block="affine", gamma=2.0, max_blocks=3, random_state=0).fit(rows)
    (block,) = model.flow_
    assert isinstance(block, NeuralODEBlock)
    assert block.free
    assert model.score(held_out) > gaussian.score(held_out) + 0.1


@pytest.mark.parametrize("options", [{"block": "affine"}, {"law": "log_cosh"}])
def test_blocks_and_laws_that_it_cannot_use_are_refused(options: dict[str, str]) -> None:
    rows = make_moons(200, noise=0.06, random_state=0)[0]
    with pytest.raises(InputError, match="'flow_matching' needs blocks with a velocity"):
        JKOFlow(objective="flow_matching", **options).fit(rows)
