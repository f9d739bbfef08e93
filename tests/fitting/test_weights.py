"""Weights: a row of weight k is k copies of it in law, one of weight 0 is not there, and scores agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jkoflow import JKOFlow
from jkoflow.certify.kl import bracket
from jkoflow.certify.rows import evidence_from
from jkoflow.data import read_table
from jkoflow.errors import InputError
from jkoflow.laws import GaussianMixture
from oracles.blocks import generator
from oracles.quick_critics import use_quick_critics
from oracles.quick_training import use_quick_recipe

CENTRES, STDS = [[-2.0, 0.0], [2.0, 0.5]], [0.7, 0.5]
EVEN = GaussianMixture([1.0, 1.0], CENTRES, stds=STDS)
TILTED = GaussianMixture([1.0, 3.0], CENTRES, stds=STDS)
"""The law of draws of `EVEN` where those on the right count three times."""


def drawn(n: int = 1500) -> tuple[np.ndarray, np.ndarray]:
    x = EVEN.sample(n, generator(1)).numpy()
    return x, np.where(x[:, 0] > 0, 3, 1)


def kl_to_truth(model: JKOFlow) -> float:
    fresh = TILTED.sample(20_000, generator(2))
    return float(TILTED.log_prob(fresh).mean()) - model.score(fresh.numpy())


def compare(**options: object) -> None:
    """KL to the truth within 0.02 nats of the copied fit, and far from that of the rows as they are."""
    x, weight = drawn()
    weighted = JKOFlow(random_state=0, **options).fit(x, sample_weight=weight)
    copied = JKOFlow(random_state=0, **options).fit(np.repeat(x, weight, axis=0))
    assert abs(kl_to_truth(weighted) - kl_to_truth(copied)) < 0.02
    assert kl_to_truth(JKOFlow(random_state=0, **options).fit(x)) > kl_to_truth(weighted) + 0.05


def test_weighted_fit_is_that_of_the_copies_in_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks started and closed by a mixture, with the quick recipe."""
    use_quick_recipe(monkeypatch)
    compare()


def test_weighted_affine_blocks_are_those_of_the_copies() -> None:
    compare(objective="jko", gamma=0.5, max_blocks=3, block="affine")


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"objective": "jko", "gamma": 0.5, "max_blocks": 3}], ids=str)
def test_weighted_default_fit_is_that_of_the_copies_in_law(options: dict[str, object]) -> None:
    compare(**options)


def test_rows_of_weight_zero_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit the fit of the others, whatever numbers those rows hold."""
    use_quick_recipe(monkeypatch)
    x, weight = drawn(300)
    zero = np.concatenate([np.zeros(100), weight])
    both = np.concatenate([1e6 * np.ones((100, 2)) * np.arange(100)[:, None], x])
    one = JKOFlow(random_state=0, max_blocks=2, holdout_fraction=0.1).fit(both, sample_weight=zero)
    other = JKOFlow(random_state=0, max_blocks=2, holdout_fraction=0.1).fit(x, sample_weight=weight)
    np.testing.assert_array_equal(one.score_samples(x), other.score_samples(x))
    assert one.results_["held_out_nll_nats"] == other.results_["held_out_nll_nats"]
    assert one.certify().to_json() == other.certify().to_json()


def test_equal_weights_are_none_in_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are all the same change draws, and neither the columns nor the held-out mean."""
    use_quick_recipe(monkeypatch)
    x, _ = drawn(300)
    plain = JKOFlow(random_state=0, max_blocks=1).fit(x)
    equal = JKOFlow(random_state=0, max_blocks=1).fit(x, sample_weight=np.full(300, 2.5))
    np.testing.assert_allclose(equal.model_.schema.scale, plain.model_.schema.scale)
    assert equal.results_["held_out_nll_nats"] == pytest.approx(plain.results_["held_out_nll_nats"], abs=1e-3)


def test_held_out_score_is_the_weighted_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the fit tells, what `score` gives and what the certificate claims of the rows set aside."""
    use_quick_recipe(monkeypatch)
    x, weight = drawn(400)
    model = JKOFlow(random_state=0, max_blocks=2, holdout_fraction=0.25).fit(x, sample_weight=weight)
    table, _, counts = model._fitted.take(model._fitted.split.holdout)
    told = model.results_["held_out_nll_nats"]
    assert -model.score(table.values, sample_weight=counts) == pytest.approx(told, abs=1e-4)
    assert -model.score(table.values) != pytest.approx(told, abs=1e-3)
    certificates = model.certify()
    claim = next(c for c in certificates.claims if c.claim.startswith("mean negative log-likelihood"))
    assert claim.measured + np.log(model.model_.schema.scale).sum() == pytest.approx(told, abs=1e-4)
    assert any(note.startswith("rows are weighted") for note in certificates.notes)
    assert (
        certificates.to_json() == model.certify(table.values, sample_weight=counts).to_json()
        or certificates.kl.lower is None
    )


def test_certificate_sees_the_law_that_the_weights_describe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws of the even mixture, weighted to the tilted one, prove no gap to a model of the tilted one."""
    use_quick_recipe(monkeypatch)
    use_quick_critics(monkeypatch)
    fresh = EVEN.sample(1000, generator(7)).numpy()
    weight = np.exp((TILTED.log_prob(torch.tensor(fresh)) - EVEN.log_prob(torch.tensor(fresh))).numpy())
    x, counts = drawn()
    model = JKOFlow(random_state=0).fit(x, sample_weight=counts)
    rows = read_table(fresh)
    right, wrong = (
        bracket(evidence_from(model.model_, rows, None, counts, stream="certify"))[0]
        for counts in (weight, None)
    )
    assert right.lower < 0.03
    assert wrong.lower > 0.03


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (-1.0, r"sample_weight: expected finite numbers >= 0, got -1.0 in row 3"),
        (np.inf, r"sample_weight: expected finite numbers >= 0, got inf in row 3"),
        (np.nan, r"sample_weight: expected finite numbers >= 0, got nan in row 3"),
    ],
)
def test_wrong_weights_are_refused_by_row(weight: float, message: str) -> None:
    x, weights = drawn(100)
    weights = weights.astype(float)
    weights[2] = weight
    with pytest.raises(InputError, match=message):
        JKOFlow().fit(x, sample_weight=weights)


def test_weights_that_are_all_zero_or_too_few_are_refused() -> None:
    x, weights = drawn(100)
    with pytest.raises(InputError, match=r"sample_weight: expected a number above 0, got 0 for every row"):
        JKOFlow().fit(x, sample_weight=0 * weights)
    with pytest.raises(InputError, match=r"sample_weight: expected 100 numbers, one for each row, got shape"):
        JKOFlow().fit(x, sample_weight=weights[:50])
    with pytest.raises(InputError, match=r"sample_weight: expected a number for each row, got list"):
        JKOFlow().fit(x, sample_weight=["a"] * 100)
