"""Models that say what cannot be: refused at once, by name, before anything is made by them."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from hostile.workplace import limits
from jkoflow.blocks import Block
from jkoflow.blocks.ode.velocity import MLPVelocity
from jkoflow.config import Settings
from jkoflow.data import Schema, read_table
from jkoflow.errors import RunFolderError
from jkoflow.flow import Flow
from jkoflow.laws import StandardNormal
from jkoflow.model import Model, load_model, save_model
from jkoflow.storage.tensors import write_safetensors
from oracles.blocks import make_block

KINDS = ("neural_ode_taper", "mixture", "affine", "zuko")


def rows() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(40, 2))


def saved(folder: Path, *blocks: Block, **settings: Any) -> Path:
    schema = Schema.fit(read_table(rows()))
    model = Model(schema, Flow(StandardNormal(2), blocks), Settings(**settings), facts={"training_rows": 40})
    save_model(model, folder)
    return folder


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model of one block of each kind."""
    return saved(tmp_path / "model", make_block(request.param, torch.float32, 2))


def change_config(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    record = json.loads((folder / "config.json").read_text())
    change(record)
    (folder / "config.json").write_text(json.dumps(record))


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    """Other tensors, with their hash in the record."""
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    change(tensors)
    digest = write_safetensors(folder / "model.safetensors", tensors)
    change_config(folder, lambda record: record.update(model_sha256=digest))


def refusal_of(folder: Path, *words: str) -> None:
    """A refusal within a second and 100 MB, in one line with these words."""
    start = time.process_time()
    with limits(more_bytes=100 * 2**20), pytest.raises(RunFolderError) as refusal:
        load_model(folder)
    assert time.process_time() - start < 1
    message = str(refusal.value)
    assert message.isprintable()
    assert [word for word in words if word not in message] == []


# ── sizes ──


def test_whole_models_load(folder: Path) -> None:
    assert np.isfinite(load_model(folder).log_prob(read_table(rows()))).all()


SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "columns": ("affine", {"dim": 40_000}),
    "components": ("mixture", {"n_components": 3 * 10**8}),
    "solver steps": ("neural_ode_taper", {"steps": 10**12}),
    "half a step": ("neural_ode_taper", {"steps": 2.5}),
    "no step": ("neural_ode_taper", {"steps": 0}),
    "a step size beyond floats": ("affine", {"gamma": 10**400}),
    "a step size of 0": ("affine", {"gamma": 0}),
    "a negative step size": ("affine", {"gamma": -1.0}),
    "transforms": ("zuko", {"options": {"transforms": 10**9}}),
    "hidden features": ("zuko", {"options": {"transforms": 1, "hidden_features": [10**5, 10**5]}}),
    "bins": ("zuko", {"options": {"transforms": 1, "bins": 10**9}}),
    "a base class of zuko": ("zuko", {"transform": "Flow"}),
}


@pytest.mark.parametrize("name", SIZES)
def test_settings_of_another_size_are_refused(name: str, tmp_path: Path) -> None:
    kind, change = SIZES[name]
    folder = saved(tmp_path / "model", make_block(kind, torch.float32, 2))
    change_config(folder, lambda record: record["blocks"][0].update(change))
    refusal_of(folder, "config.json: block 1", "fit again")


@pytest.mark.parametrize(
    "change", [{"depth": 10**7}, {"width": 10**7}, {"dim": 40_000}, {"context_dim": 10**9}]
)
def test_network_of_another_size_is_refused(change: dict[str, int], tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", make_block("neural_ode", torch.float32, 2))
    change_config(folder, lambda record: record["blocks"][0]["velocity"].update(change))
    refusal_of(folder, "config.json: block 1", "tensor velocity.")


def test_columns_of_a_context_have_to_agree(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", make_block("neural_ode_context", torch.float32, 2))
    refusal_of(folder, "block 1 of 3 context columns, expected 0")


@pytest.mark.parametrize("file", ["config.json", "schema.json", "model.safetensors"])
@pytest.mark.parametrize("other", ["a pipe", "a device", "a folder", "a sparse file of 20 GB"])
def test_what_is_no_file_is_not_read(file: str, other: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", make_block("affine", torch.float32, 2))
    path = folder / file
    path.unlink()
    if other == "a pipe":
        os.mkfifo(path)
    elif other == "a device":
        path.symlink_to("/dev/zero")
    elif other == "a folder":
        path.mkdir()
    else:
        with path.open("wb") as sparse:
            sparse.truncate(20 * 10**9)
    refusal_of(folder, file, "restore it from a copy")


def test_header_that_declares_more_than_the_file_has_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", make_block("affine", torch.float32, 2))
    entry = {"dtype": "F32", "shape": [10**9, 10**3], "data_offsets": [0, 4 * 10**12]}
    header = json.dumps({"__metadata__": {"format": "jkoflow/1"}, "blocks.0.matrix": entry}).encode()
    data = len(header).to_bytes(8, "little") + header
    (folder / "model.safetensors").write_bytes(data)
    change_config(folder, lambda record: record.update(model_sha256=hashlib.sha256(data).hexdigest()))
    refusal_of(folder, "model.safetensors", "4,000,000,000,000 bytes declared, 0 there")


@pytest.mark.parametrize("name", ["a", "blocks", "blocks.0", "blocks.x.matrix", "blocks.-1.matrix"])
def test_tensor_of_another_name_is_refused(name: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", make_block("affine", torch.float32, 2))
    change_tensors(folder, lambda tensors: tensors.update({name: torch.ones(2)}))
    refusal_of(folder, "model.safetensors: expected tensors named blocks.NUMBER.NAME")


# ── numbers ──


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf], ids=str)
def test_numbers_that_are_not_finite_are_refused(number: float, folder: Path) -> None:
    def spoil(tensors: dict[str, Tensor]) -> None:
        name = next(name for name in tensors if "weight" in name or "matrix" in name or "means" in name)
        tensors[name].view(-1)[0] = number

    change_tensors(folder, spoil)
    refusal_of(folder, "model.safetensors: block 1", "finite")


NUMBERS: dict[str, tuple[str, str, float]] = {
    "a radius of 0": ("neural_ode_taper", "velocity.radius", 0.0),
    "a negative radius": ("neural_ode_taper", "velocity.radius", -1.0),
    "a radius that is NaN": ("neural_ode_taper", "velocity.radius", torch.nan),
    "an amplitude of 0": ("neural_ode_taper", "velocity.amplitude", 0.0),
    "a matrix of zeros": ("affine", "matrix", 0.0),
    "weights whose sum is not 1": ("mixture", "log_weights", 0.0),
    "factors of zero": ("mixture", "inverse_factors", 0.0),
    "factors that are not triangular": ("mixture", "inverse_factors", 1.0),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_out_of_range_are_refused(name: str, tmp_path: Path) -> None:
    kind, tensor, number = NUMBERS[name]
    folder = saved(tmp_path / "model", make_block(kind, torch.float32, 2))
    change_tensors(folder, lambda tensors: tensors[f"blocks.0.{tensor}"].fill_(number))
    refusal_of(folder, "model.safetensors: block 1", tensor.removeprefix("velocity."))


def test_matrix_that_turns_space_over_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", make_block("affine", torch.float32, 2))
    change_tensors(folder, lambda tensors: tensors["blocks.0.matrix"].neg_())
    refusal_of(folder, "positive definite")


def test_matrix_without_an_inverse_in_its_dtype_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", make_block("affine", torch.float32, 2))
    change_tensors(
        folder, lambda tensors: tensors["blocks.0.matrix"].copy_(torch.diag(torch.tensor([1, 1e-45])))
    )
    refusal_of(folder, "inverse in torch.float32")


def test_field_without_a_taper_is_no_damage(tmp_path: Path) -> None:
    field = MLPVelocity(dim=2, width=4, depth=1, n_frequencies=2)
    assert torch.isinf(field.radius)
    field.check_numbers()


@pytest.mark.parametrize("entry", [{"scale": 0.0}, {"scale": -1.0}, {"scale": None}, {"location": 10**400}])
def test_columns_out_of_range_are_refused(entry: dict[str, Any], tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", make_block("affine", torch.float32, 2))
    record = json.loads((folder / "schema.json").read_text())
    record["data"]["columns"][0].update(entry)
    (folder / "schema.json").write_text(json.dumps(record))
    refusal_of(folder, "schema.json")


CHANGES: dict[str, Callable[[dict[str, Any]], None]] = {
    "blocks are no list": lambda record: record.update(blocks={"kind": "affine"}),
    "a block is a list": lambda record: record["blocks"].__setitem__(0, [1]),
    "a kind is a list": lambda record: record["blocks"][0].update(kind=["affine"]),
    "facts are a list": lambda record: record.update(facts=[]),
    "a smoothing is none": lambda record: record["facts"].update(smoothing={"time": -1}),
    "settings are a list": lambda record: record.update(settings=[1]),
    "no settings": lambda record: record.pop("settings"),
    "a hash is a number": lambda record: record.update(model_sha256=3),
    "a law of another shape": lambda record: record["settings"].update(law={"kind": "gaussian", "mean": 3}),
    "a law is unhashable": lambda record: record["settings"].update(law={"kind": [1]}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_entries_of_another_kind_are_refused(name: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", make_block("affine", torch.float32, 2))
    change_config(folder, CHANGES[name])
    refusal_of(folder, "damaged", "fit again")


def test_model_card_shows_names_as_they_are(tmp_path: Path) -> None:
    schema = Schema.fit(read_table(rows()))
    names = ("<script>alert(1)</script>", "\u202eevil\x1b[2J [a](http://b)")
    columns = tuple(
        type(column)(name, column.location, column.scale)  # type: ignore[call-arg]
        for name, column in zip(names, schema.columns, strict=True)
    )
    save_model(Model(Schema(columns, True), Flow(StandardNormal(2)), Settings()), tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "&lt;script&gt;" in card
    assert "<script>" not in card
    assert r"\\u202eevil\\x1b\[2J \[a\](http://b)" in card
    assert all(character.isprintable() for line in card.splitlines() for character in line)
