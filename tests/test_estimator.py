"""`JKOFlow` as scikit-learn and its users expect it: conventions, units, kinds of tables, context, files."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils.validation import check_is_fitted

from jkoflow import InputError, JKOFlow, RunFolderError
from jkoflow.certify import Certificates, Evidence, KLBracket
from jkoflow.data import read_table
from jkoflow.fitting import split_rows
from oracles.quick_training import use_quick_recipe

ROWS = 80


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    use_quick_recipe(monkeypatch)


def rows(n: int = ROWS, seed: int = 0) -> np.ndarray:
    """Two columns, the second near twice the first."""
    x = np.random.default_rng(seed).normal(size=n)
    return np.column_stack([x, 2 * x + 0.3 * np.random.default_rng(seed + 1).normal(size=n)])


def quick(**options: Any) -> JKOFlow:
    return JKOFlow(**{"max_blocks": 2, "random_state": 0, **options})


def weights(model: JKOFlow) -> torch.Tensor:
    return torch.cat([tensor.double().flatten() for tensor in model.flow_.state_dict().values()])


@pytest.fixture(scope="module")
def fitted() -> JKOFlow:
    """A fit of two named columns, not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        use_quick_recipe(patch)
        return quick().fit(pd.DataFrame(rows(), columns=["a", "b"]))


# ── scikit-learn's conventions ──


def test_parameters_are_those_of_the_contract_and_travel() -> None:
    defaults = {
        "gamma": "auto",
        "max_blocks": 16,
        "objective": "auto",
        "closing": "auto",
        "block": "neural_ode",
        "law": "standard_normal",
        "divergence": "auto",
        "smoothing": None,
        "validation_fraction": 0.1,
        "holdout_fraction": 0.0,
        "budget": None,
        "dtype": "float32",
        "device": "auto",
        "random_state": None,
        "verbose": 0,
    }
    assert JKOFlow().get_params() == defaults
    model = JKOFlow(gamma={"kind": "constant", "value": 0.5}, smoothing=0.1)
    assert clone(model).get_params() == model.get_params()
    assert JKOFlow().set_params(max_blocks=3).max_blocks == 3
    assert repr(JKOFlow(max_blocks=3)) == "JKOFlow(max_blocks=3)"


OUR_WORDS = dict.fromkeys(
    (
        "check_complex_data",
        "check_dtype_object",
        "check_estimators_empty_data_messages",
        "check_fit2d_1sample",
        "check_fit2d_predict1d",
        "check_n_features_in_after_fitting",
        "check_all_zero_sample_weights_error",
    ),
    "refused in words of our own, which say what was expected, what came, and the remedy",
)

FEW_ROWS = dict.fromkeys(
    (
        "check_sample_weights_shape",
        "check_sample_weights_not_overwritten",
        "check_sample_weight_equivalence_on_dense_data",
    ),
    "a table of fewer than ten distinct rows is refused; tests/fitting/test_weights.py has these laws",
)


@estimator_checks.parametrize_with_checks(
    [JKOFlow(max_blocks=1, random_state=0)], expected_failed_checks=lambda model: OUR_WORDS | FEW_ROWS
)
@pytest.mark.filterwarnings("ignore")
def test_checks_of_scikit_learn(estimator: JKOFlow, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize(
    "use",
    [
        lambda model: model.sample(),
        lambda model: model.score_samples(rows()),
        lambda model: model.score(rows()),
        lambda model: model.transform(rows()),
        lambda model: model.inverse_transform(rows()),
        lambda model: model.save("nowhere"),
        lambda model: model.certify(),
        lambda model: model.get_feature_names_out(),
    ],
)
def test_use_before_fit_is_refused(use: Any) -> None:
    with pytest.raises(NotFittedError):
        use(JKOFlow())


def test_fitted_attributes(fitted: JKOFlow) -> None:
    check_is_fitted(fitted)
    assert fitted.n_features_in_ == 2
    assert list(fitted.feature_names_in_) == ["a", "b"]
    assert [step["block"] for step in fitted.steps_] == list(range(1, len(fitted.steps_) + 1))
    assert len(fitted.flow_) == fitted.steps_[-1]["flow_blocks"]
    assert fitted.results_["held_out_on"] == "validation"
    assert not hasattr(quick().fit(rows()), "feature_names_in_")


def test_frame_in_frame_out_and_array_in_array_out(fitted: JKOFlow) -> None:
    sample = fitted.sample(5, random_state=1)
    assert list(sample.columns) == ["a", "b"]
    assert isinstance(fitted.inverse_transform(np.zeros((3, 2))), pd.DataFrame)
    array = quick().fit(rows())
    assert isinstance(array.sample(5, random_state=1), np.ndarray)
    assert_array_equal(array.sample(5, random_state=1), sample.to_numpy())


def test_columns_are_matched_by_name(fitted: JKOFlow) -> None:
    frame = pd.DataFrame(rows(), columns=["a", "b"])
    assert_array_equal(fitted.score_samples(frame[["b", "a"]]), fitted.score_samples(frame))
    assert_array_equal(fitted.score_samples(frame.to_numpy()), fitted.score_samples(frame))
    with pytest.raises(InputError, match="missing b"):
        fitted.score_samples(frame.rename(columns={"b": "c"}))
    with pytest.raises(InputError, match="got 3"):
        fitted.score_samples(np.zeros((3, 3)))


def test_scores_agree_and_transform_is_undone(fitted: JKOFlow) -> None:
    x = rows()
    assert_array_equal(fitted.log_prob(x), fitted.score_samples(x))
    assert fitted.score(x) == pytest.approx(fitted.score_samples(x).mean())
    assert fitted.score_samples(x).shape == (ROWS,)
    assert fitted.score_samples(x).dtype == np.float64
    assert_allclose(fitted.inverse_transform(fitted.transform(x)), x, atol=1e-4)
    with pytest.raises(InputError, match="expected 2 columns, got 3"):
        fitted.inverse_transform(np.zeros((3, 3)))


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "brenier"},
        {"closing": "kde"},
        {"block": "residual"},
        {"law": "cauchy"},
        {"divergence": "finite"},
        {"dtype": "float16"},
        {"device": "abacus"},
        {"gamma": 0.0},
        {"gamma": {"kind": "random"}},
        {"smoothing": -1.0},
        {"max_blocks": 0},
        {"validation_fraction": 0.0},
        {"budget": 0},
        {"random_state": "today"},
    ],
    ids=str,
)
def test_option_that_is_not_built_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises((InputError, ValueError), match=r".") as refusal:
        quick(**options).fit(rows())
    assert "\n" not in str(refusal.value)


def test_unknown_option_is_refused() -> None:
    with pytest.raises(TypeError, match="blocks"):
        JKOFlow(blocks=3)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="blocks"):
        JKOFlow().set_params(blocks=3)


def test_verbose_tells_each_step_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    quick().fit(rows())
    assert capsys.readouterr() == ("", "")
    quick(verbose=1).fit(rows())
    out, err = capsys.readouterr()
    assert out == ""
    first, *rest = (line.split() for line in err.splitlines())
    assert first[0] == "split:"
    assert [words[:2] for words in rest] == [["block", str(n)] for n in range(1, len(rest) + 1)]
    assert len(rest) >= 2


# ── randomness ──


def test_same_seed_same_model_and_another_seed_another() -> None:
    first, again, other = (quick(random_state=seed, objective="jko").fit(rows()) for seed in (3, 3, 4))
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))
    state = np.random.RandomState(5)
    assert quick(random_state=state).fit(rows()).model_.settings.seed == np.random.RandomState(5).randint(
        2**31 - 1
    )


def test_samples_are_prefixes_and_fresh_without_seed(fitted: JKOFlow) -> None:
    many = fitted.sample(1500, random_state=2)
    for n in (1, 3, 1024, 1025):
        pd.testing.assert_frame_equal(fitted.sample(n, random_state=2), many.head(n))
    assert fitted.inversion_error_.shape == (1025,)
    assert not fitted.sample(3).equals(fitted.sample(3))


# ── units and kinds of tables ──


@pytest.mark.parametrize("factor", [1000.0, 1024.0, 1e-12, 1e12])
def test_scale_of_the_table_does_not_touch_the_training(factor: float) -> None:
    x = rows()
    plain, scaled = quick().fit(x), quick().fit(factor * x)
    assert_allclose(
        scaled.model_.schema.standardise(factor * x), plain.model_.schema.standardise(x), rtol=0, atol=1e-12
    )
    # a power of two changes no digit, another factor at most the last one of a float64
    tolerance = 0.0 if factor == 1024.0 else 1e-4
    assert_allclose(weights(scaled), weights(plain), rtol=0, atol=tolerance)
    shift = -2 * math.log(factor)
    assert_allclose(scaled.log_prob(factor * x), plain.log_prob(x) + shift, rtol=0, atol=1e-3)
    assert_allclose(
        scaled.sample(50, random_state=0) / factor, plain.sample(50, random_state=0), rtol=0, atol=1e-3
    )


def test_each_column_may_have_its_own_scale_and_offset() -> None:
    x = rows() * [1e-12, 1e12] + [1.0e-9, -1e12]
    model = quick().fit(x)
    sample = model.sample(400, random_state=0)
    assert np.isfinite(model.log_prob(x)).all()
    assert_allclose(sample.std(axis=0) / x.std(axis=0), 1.0, atol=0.5)


def test_float16_is_accepted() -> None:
    x = rows().astype(np.float16)
    model = quick().fit(x)
    assert np.isfinite(model.score_samples(x)).all()
    assert model.sample(3, random_state=0).dtype == np.float64


def test_one_column_is_accepted() -> None:
    x = np.random.default_rng(0).gamma(3.0, size=(200, 1))
    model = quick().fit(x)
    grid = np.linspace(-6, 20, 4001)[:, None]
    mass = np.trapezoid(np.exp(model.log_prob(grid)), grid[:, 0])
    assert mass == pytest.approx(1.0, abs=1e-3)
    assert model.sample(3).shape == (3, 1)


def test_duplicates_are_kept_and_noted() -> None:
    x = rows(60)
    model = quick().fit(np.concatenate([x, x[:10]]))
    assert any(note.startswith("10 of ") and "repeat" in note for note in model.results_["notes"])


def test_integers_are_dequantised_and_noted() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"count": rng.poisson(3.0, 300), "size": rng.normal(size=300)})
    model = quick(max_blocks=3).fit(frame)
    assert any("dequantised 1 of 2" in note and "count" in note for note in model.results_["notes"])
    assert_array_equal(model.log_prob(frame), model.log_prob(frame)), "scored at the middle of the cell"
    sample = model.sample(200, random_state=0)["count"].to_numpy()
    assert (sample != sample.round()).any(), "samples are those of the dequantised data"


@pytest.mark.parametrize(
    ("table", "word"),
    [
        (np.where(np.eye(20, 2) == 1, np.nan, 0.5), "x0 (1 NaN)"),
        (np.full((20, 2), 0.5), "constant"),
        (np.ones((1, 2)), "one row"),
        (np.zeros((0, 2)), "got none"),
        (np.arange(20.0), "reshape"),
        (np.repeat(np.arange(9.0), 5)[:, None], "10 distinct rows"),
        (pd.DataFrame({"a": ["x", "y"] * 10}), "a holds text"),
    ],
)
def test_table_is_refused_and_no_run_is_made(table: Any, word: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refusal:
        quick().fit(table, run=tmp_path / "run")
    assert word in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


# ── options ──


@pytest.mark.parametrize("objective", ["jko", "end_to_end"])
def test_other_objectives_train_too(objective: str) -> None:
    x = rows(200)
    model = quick(objective=objective, gamma=1.0).fit(x)
    assert all(step["finished_on"] != "warm_start" for step in model.steps_)
    untrained = -np.log(x.std(axis=0)).sum() - 0.5 * (2 + 2 * np.log(2 * np.pi))
    assert model.score(x) > untrained


def test_smoothing_is_in_the_model() -> None:
    x = np.random.default_rng(0).normal(3.0, 2.0, size=(600, 1))
    plain = quick().fit(x)
    model = quick(smoothing={"kind": "brownian", "time": 0.5}).fit(x)
    assert model.model_.facts["smoothing"] == {"kind": "brownian", "time": 0.5}
    # in standardised units the variance grows from 1 to 1 + 2 t
    assert plain.sample(2000, random_state=0).std() / x.std() == pytest.approx(1.0, abs=0.1)
    assert model.sample(2000, random_state=0).std() / x.std() == pytest.approx(math.sqrt(2.0), abs=0.14)
    assert model.results_["held_out_nll_nats"] > plain.results_["held_out_nll_nats"]


def test_budget_records_its_decisions(tmp_path: Path) -> None:
    quick(budget=20.0).fit(rows(), run=tmp_path / "run")
    lines = (tmp_path / "run" / "steps.jsonl").read_text().splitlines()
    decided = [json.loads(line)["what"] for line in lines if json.loads(line)["kind"] == "decision"]
    assert "updates" in decided


# ── context ──


@pytest.fixture(scope="module")
def conditional() -> JKOFlow:
    """y given c is N(2c, 0.3²), trained as users train: before the tests make it quick."""
    rng = np.random.default_rng(0)
    c = rng.normal(size=(600, 1))
    y = 2 * c + 0.3 * rng.normal(size=(600, 1))
    return quick(max_blocks=4).fit(y, context=c)


def test_conditional_mean_is_learned(conditional: JKOFlow) -> None:
    for c in (-1.0, 0.0, 1.5):
        y = conditional.sample(1000, context=np.array([[c]]), random_state=0)
        assert y.mean() == pytest.approx(2 * c, abs=0.15)
        assert y.std() == pytest.approx(0.3, abs=0.15)
    c = np.random.default_rng(1).normal(size=(200, 1))
    y = 2 * c + 0.3 * np.random.default_rng(2).normal(size=(200, 1))
    truth = -0.5 * math.log(2 * math.pi * math.e * 0.09)
    assert conditional.score(y, context=c) == pytest.approx(truth, abs=0.2)
    assert conditional.score(y, context=c[::-1]) < truth - 5
    assert_allclose(
        conditional.inverse_transform(conditional.transform(y, context=c), context=c), y, atol=1e-3
    )


def test_context_is_asked_for_and_only_where_it_belongs(conditional: JKOFlow, fitted: JKOFlow) -> None:
    with pytest.raises(InputError, match="needs the columns x0"):
        conditional.sample(3)
    with pytest.raises(InputError, match="expected 1 or 3 rows, got 2"):
        conditional.sample(3, context=np.zeros((2, 1)))
    with pytest.raises(InputError, match="the 1 columns"):
        conditional.sample(3, context=np.zeros((3, 2)))
    with pytest.raises(InputError, match="without one"):
        fitted.sample(3, context=np.zeros((3, 1)))
    with pytest.raises(InputError, match="expected 80 rows"):
        quick().fit(rows(), context=np.zeros((79, 1)))


# ── files ──


def test_saved_and_loaded_is_the_same_to_the_last_bit(fitted: JKOFlow, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model")
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {"config.json", "schema.json", "model.safetensors", "README.md"}
    loaded = JKOFlow.load(tmp_path / "model")
    assert_array_equal(loaded.score_samples(rows()), fitted.score_samples(rows()))
    pd.testing.assert_frame_equal(loaded.sample(9, random_state=1), fitted.sample(9, random_state=1))
    assert loaded.get_params() == fitted.get_params()
    loaded.save(tmp_path / "again")
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()
    with pytest.raises(RunFolderError, match="already there"):
        fitted.save(tmp_path / "model")


def test_run_folder_is_kept_and_loads(tmp_path: Path) -> None:
    model = quick().fit(rows(), run=tmp_path / "run")
    assert_array_equal(JKOFlow.load(tmp_path / "run").log_prob(rows()), model.log_prob(rows()))
    with pytest.raises(RunFolderError, match="already holds a run"):
        quick().fit(rows(), run=tmp_path / "run")


# ── certificates ──


def test_certify_takes_the_rows_that_were_set_aside_or_those_that_are_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def reader(evidence: Evidence, *, recorded: object = None) -> Certificates:
        seen.append(evidence)
        return Certificates(KLBracket(), ())

    monkeypatch.setattr("jkoflow.estimator.certify", reader)
    model = quick(holdout_fraction=0.2).fit(rows())
    assert isinstance(model.certify(), Certificates)
    assert len(seen[0].held_out) == round(0.2 * ROWS)
    with pytest.raises(InputError, match="given without X"):
        model.certify(context=rows())
    model.certify(rows(seed=5))
    expected = (rows(seed=5) - model.model_.schema.location) / model.model_.schema.scale
    np.testing.assert_allclose(seen[1].held_out.x.numpy(), expected, rtol=1e-5, atol=1e-6)
    quick().fit(rows()).certify()
    assert seen[2].held_out is None
    assert "no held-out rows" in seen[2].remarks[0]


def test_certify_counts_rows_that_the_fit_looked_at(tmp_path: Path) -> None:
    """Seven planted copies, one of them of a row that was set aside, among 20 fresh rows."""
    x = rows()
    model = quick(holdout_fraction=0.2).fit(x)
    split = split_rows(read_table(x), model.model_.settings)
    copies = x[[*split.train[:4], *split.validation[:2], split.holdout[0]]]
    given = np.concatenate([rows(20, seed=9), copies])

    def repeats(fitted: JKOFlow, X: Any = None) -> list[str]:
        return [note for note in fitted.certify(X).notes if "held-out rows" in note]

    assert repeats(model, given)[0].startswith("6 of 27 held-out rows occur exactly")
    assert "flatter" in repeats(model, given)[0]
    assert repeats(model) == ["0 of 16 held-out rows occur exactly among the rows of the fit"]
    model.save(tmp_path / "model")
    loaded = JKOFlow.load(tmp_path / "model")
    assert "is not known" in repeats(loaded, given)[0]
    assert repeats(loaded)[0].startswith("no held-out rows")
    assert vars(model)["_fitted"].looked_at.hashes.nbytes <= 8 * ROWS


def test_a_pickle_takes_no_row_of_the_fit_along() -> None:
    """A pickle is given away as a model is; the training table is not."""
    x = rows()
    model = quick(holdout_fraction=0.2).fit(x)
    told = pickle.dumps(model)
    standardised = model.model_.schema.standardise(x)
    for rows_of in (x, x.astype(np.float32), standardised, standardised.astype(np.float32)):
        assert all(row.tobytes() not in told for row in rows_of)
    copied = pickle.loads(told)
    np.testing.assert_array_equal(copied.score_samples(x), model.score_samples(x))
    assert copied.certify().notes[0].startswith("no held-out rows")
    assert not model.certify().notes[0].startswith("no held-out rows")


# ── fitted again, and in a pipeline ──


def test_second_fit_keeps_nothing_of_the_first(fitted: JKOFlow) -> None:
    array = rows(seed=3)
    fresh = quick().fit(array)
    again = quick(holdout_fraction=0.2).fit(pd.DataFrame(rows(), columns=["a", "b"]))
    again.sample(3, random_state=0)
    again.left_by_a_subclass_ = 1
    again.set_params(holdout_fraction=0.0).fit(array)
    assert set(vars(again)) == set(vars(fresh))
    assert not hasattr(again, "feature_names_in_")
    assert not hasattr(again, "inversion_error_")
    assert again.certify().notes == fresh.certify().notes
    again.fit(pd.DataFrame(rows(), columns=["a", "b"]))
    assert list(again.feature_names_in_) == list(fitted.feature_names_in_)


def test_fit_that_fails_leaves_the_first(fitted: JKOFlow) -> None:
    model = quick().fit(pd.DataFrame(rows(), columns=["a", "b"]))
    before = vars(model).copy()
    with pytest.raises(InputError):
        model.fit(np.full((20, 2), np.nan))
    assert vars(model) == before


@pytest.mark.parametrize("output", ["default", "pandas"])
def test_pipeline_gives_the_table_that_was_asked_for(output: str) -> None:
    frame = pd.DataFrame(rows(), columns=["a", "b"], index=range(100, 100 + ROWS))
    pipeline = make_pipeline(StandardScaler(), quick()).set_output(transform=output)
    latent = pipeline.fit(frame).transform(frame)
    plain = make_pipeline(StandardScaler(), quick()).fit(frame).transform(frame)
    assert_allclose(np.asarray(latent), plain, atol=1e-12)
    assert list(pipeline.get_feature_names_out()) == ["jkoflow0", "jkoflow1"]
    if output == "pandas":
        assert list(latent.columns) == ["jkoflow0", "jkoflow1"]
        assert latent.index.equals(frame.index)
