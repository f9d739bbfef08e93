"""A model as a value and as a folder: change of variables, context, and refusals of what is on the disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal

from jkoflow.blocks import AffineBlock
from jkoflow.config import Settings
from jkoflow.data import Schema, read_table
from jkoflow.data.shared_rows import SharedRows
from jkoflow.errors import InputError, RunFolderError
from jkoflow.flow import Flow
from jkoflow.laws import StandardNormal
from jkoflow.model import Model, load_model, save_model
from jkoflow.storage.chunks import PUSH_ROWS
from jkoflow.world import ALONE, World
from oracles.blocks import BLOCKS, CONTEXT_DIM, coarse_block, make_block
from oracles.worlds import run_together

MEAN, COVARIANCE = np.array([1.0, -2.0]), np.array([[4.0, 1.0], [1.0, 0.5]])


def table(n: int = 200, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).multivariate_normal(MEAN, COVARIANCE, size=n)


@pytest.fixture
def gaussian() -> Model:
    """The model of a Gaussian in closed form: the density is that of scipy."""
    schema = Schema.fit(read_table(table()))
    scale = schema.scale
    block = AffineBlock.whitening(
        torch.as_tensor(schema.standardise(MEAN)), torch.as_tensor(COVARIANCE / np.outer(scale, scale))
    )
    flow = Flow(StandardNormal(2)).then(block.double())
    return Model(schema, flow, Settings(dtype="float64"), facts={"training_rows": 200})


def test_log_prob_is_the_density_in_data_units(gaussian: Model) -> None:
    rows = table(50, seed=1)
    expected = multivariate_normal(MEAN, COVARIANCE).logpdf(rows)
    assert_allclose(gaussian.log_prob(read_table(rows)), expected, rtol=0, atol=1e-9)


def test_samples_have_the_moments_and_come_with_their_round_trip(gaussian: Model) -> None:
    rows, error = gaussian.sample(20_000, seed=0)
    assert_allclose(rows.mean(axis=0), MEAN, atol=0.05)
    assert_allclose(np.cov(rows.T), COVARIANCE, atol=0.1)
    assert error.shape == (20_000,)
    assert error.max() < 1e-10


def test_transform_whitens_and_is_undone(gaussian: Model) -> None:
    rows = table(30, seed=2)
    latent = gaussian.transform(read_table(rows))
    assert_allclose(latent @ latent.T, (rows - MEAN) @ np.linalg.inv(COVARIANCE) @ (rows - MEAN).T, atol=1e-9)
    assert_allclose(gaussian.inverse_transform(latent), rows, atol=1e-9)
    latent.flags.writeable = False
    assert_allclose(gaussian.inverse_transform(latent), rows, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_neural_model_is_saved_and_loaded_bit_for_bit(dtype: str, tmp_path: Path) -> None:
    schema = Schema.fit(read_table(table()))
    block = coarse_block(2).to(getattr(torch, dtype))
    model = Model(schema, Flow(StandardNormal(2)).then(block).then(block), Settings(dtype=dtype))
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    rows = read_table(table(40, seed=3))
    assert loaded.schema == model.schema
    assert loaded.settings == model.settings
    assert_array_equal(loaded.log_prob(rows), model.log_prob(rows))
    for ours, theirs in zip(loaded.sample(40, seed=1), model.sample(40, seed=1), strict=True):
        assert_array_equal(ours, theirs)
    assert not any(parameter.requires_grad for parameter in loaded.flow.parameters())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", BLOCKS)
def test_model_of_every_kind_of_block_is_saved_and_loaded(kind: str, dtype: str, tmp_path: Path) -> None:
    block = make_block(kind, getattr(torch, dtype))
    schema = Schema.fit(read_table(np.random.default_rng(0).normal(size=(60, 3))))
    given = None
    if block.conditioned_on:
        given = read_table(np.random.default_rng(1).normal(size=(20, CONTEXT_DIM)))
    context = None if given is None else Schema.fit(given, role="context")
    model = Model(schema, Flow(StandardNormal(3)).then(block), Settings(dtype=dtype), context_schema=context)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    rows = read_table(np.random.default_rng(2).normal(size=(20, 3)))
    assert_array_equal(loaded.log_prob(rows, given), model.log_prob(rows, given))


def test_model_card_says_what_the_folder_is(gaussian: Model, tmp_path: Path) -> None:
    save_model(gaussian, tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    for word in ("x0, x1", "training rows: 200", "JKOFlow.load", "1 block"):
        assert word in card


def test_model_of_a_run_is_found(gaussian: Model, tmp_path: Path) -> None:
    save_model(gaussian, tmp_path / "run" / "model")
    rows = read_table(table(5))
    assert_array_equal(load_model(tmp_path / "run").log_prob(rows), gaussian.log_prob(rows))


def test_model_of_an_absent_device_is_used_on_this_one(gaussian: Model, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("the device is here")
    save_model(replace(gaussian, settings=gaussian.settings.with_options(device="cuda")), tmp_path / "model")
    rows = read_table(table(5))
    assert_array_equal(load_model(tmp_path / "model").log_prob(rows), gaussian.log_prob(rows))


# ── context ──


@pytest.fixture
def conditional() -> Model:
    """A flow that ignores the context it is given."""
    schema = Schema.fit(read_table(table()))
    context_schema = Schema.fit(read_table(np.linspace(0, 1, 20)[:, None]), role="context")
    return Model(schema, Flow(StandardNormal(2)), Settings(), context_schema)


def test_one_row_of_context_serves_all(conditional: Model) -> None:
    one, many = np.full((1, 1), 0.5), np.full((7, 1), 0.5)
    assert_array_equal(
        conditional.encode_context(read_table(one), 7), conditional.encode_context(read_table(many), 7)
    )


def test_context_is_refused_where_it_does_not_fit(conditional: Model, gaussian: Model) -> None:
    with pytest.raises(InputError, match="needs the columns x0; pass context="):
        conditional.log_prob(read_table(table(3)))
    with pytest.raises(InputError, match="expected 1 or 3 rows, got 2"):
        conditional.log_prob(read_table(table(3)), read_table(np.zeros((2, 1))))
    with pytest.raises(InputError, match="leave it out"):
        gaussian.sample(3, seed=0, context=read_table(np.zeros((3, 1))))


# ── refusals ──


def test_existing_model_is_kept_without_overwrite(gaussian: Model, tmp_path: Path) -> None:
    save_model(gaussian, tmp_path / "model")
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    with pytest.raises(RunFolderError, match="already there"):
        save_model(gaussian, tmp_path / "model")
    save_model(gaussian, tmp_path / "model", overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before


def refusal_of(folder: Path) -> str:
    with pytest.raises(RunFolderError) as refusal:
        load_model(folder)
    message = str(refusal.value)
    assert "\n" not in message
    return message


def test_missing_model_is_refused(tmp_path: Path) -> None:
    assert "no such model folder" in refusal_of(tmp_path / "none")
    assert "holds no model" in refusal_of(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "schema.json"])
def test_damaged_future_and_missing_records_are_refused(name: str, gaussian: Model, tmp_path: Path) -> None:
    save_model(gaussian, tmp_path / "model")
    path = tmp_path / "model" / name
    whole = path.read_text()
    path.write_text(whole[:-20])
    assert name in refusal_of(tmp_path / "model")
    path.write_text(whole.replace("jkoflow/1", "jkoflow/2"))
    assert "jkoflow/2" in refusal_of(tmp_path / "model")
    path.write_text('{"format": "jkoflow/1"}')
    assert "damaged" in refusal_of(tmp_path / "model")
    path.unlink()
    assert name in refusal_of(tmp_path / "model")


def test_tensors_that_are_not_those_saved_are_refused(gaussian: Model, tmp_path: Path) -> None:
    save_model(gaussian, tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b"", b"\x80\x04pickle"):
        path.write_bytes(content)
        assert "model.safetensors" in refusal_of(tmp_path / "model")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"blocks": []}, "1 blocks"),
        ({"blocks": [{"kind": "spline"}]}, "spline"),
        ({"base": {"kind": "standard_normal", "dim": 3}}, "expected the law"),
        ({"settings": {"scheme": "forward"}}, "scheme"),
        ({"settings": {"tomorrow": 1}}, "tomorrow"),
    ],
    ids=["no blocks", "block", "base", "setting", "unknown setting"],
)
def test_config_that_does_not_fit_its_model_is_refused(
    change: dict[str, object], word: str, gaussian: Model, tmp_path: Path
) -> None:
    save_model(gaussian, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert word in refusal_of(tmp_path / "model")


@pytest.mark.parametrize("far", [(), (0,), (5, 20_000, 39_999)], ids=["none far", "one far", "some far"])
def test_any_number_of_processes_finds_the_same_scores(far: tuple[int, ...]) -> None:
    schema = Schema.fit(read_table(table(200)))
    flow = Flow(StandardNormal(2), [make_block("neural_ode", torch.float32, 2)])
    model = Model(schema, flow, Settings())
    values = table(40_000, seed=3)
    values[list(far)] = 1e30

    def scores(world: World) -> np.ndarray:
        rows = read_table(values)
        if world.size > 1:
            part = SharedRows(values[world.part(len(values), unit=PUSH_ROWS)], world)
            rows = replace(rows, values=part)
        return model.log_prob(rows, world=world)

    alone = scores(ALONE)
    assert int(np.isneginf(alone).sum()) == len(far)
    for size in (2, 3):
        assert all(np.array_equal(found, alone) for found in run_together(size, scores))
