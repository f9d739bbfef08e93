"""Settings: every option checked, an unknown one refused, the same through TOML and JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from jkoflow.config import ADDED, CHOICES, RETIRED, Settings
from jkoflow.errors import InputError


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().seed = 3  # type: ignore[misc]


@pytest.mark.parametrize("name", sorted(CHOICES))
def test_named_options(name: str) -> None:
    for value in CHOICES[name]:
        assert getattr(Settings(**{name: value}), name) == value
    with pytest.raises(InputError, match=rf"^{name}: expected one of .*, got 'nonsense'$"):
        Settings(**{name: "nonsense"})


@pytest.mark.parametrize(
    "options",
    [
        {"max_blocks": 0},
        {"max_blocks": -1},
        {"max_blocks": 2.0},
        {"max_blocks": True},
        {"seed": "0"},
        {"seed": 1.5},
        {"validation_fraction": 0},
        {"validation_fraction": 1},
        {"validation_fraction": -0.1},
        {"validation_fraction": "a"},
        {"validation_fraction": 0.5, "holdout_fraction": 0.5},
        {"holdout_fraction": -0.1},
        {"holdout_fraction": float("nan")},
        {"budget": 0},
        {"budget": -1.0},
        {"budget": float("nan")},
        {"budget": "10"},
        {"budget": True},
        {"device": 0},
        {"dtype": ["float32"]},
        {"objective": None},
        {"objective": 3},
        {"block": None},
        {"block": ["neural_ode"]},
        {"law": 2.0},
    ],
)
def test_value_out_of_range_is_refused_in_one_line(options: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        Settings(**options)
    message = str(caught.value)
    assert "\n" not in message
    assert any(message.startswith(f"{name}: expected") for name in options)
    assert "got" in message


def test_unknown_key_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"unknown option 'gama'; known: gamma, max_blocks"):
        Settings.from_mapping({"gama": 0.1})


def test_dict_and_json_give_the_same_settings_back() -> None:
    settings = Settings(gamma={"kind": "geometric", "first": 0.1}, budget=12.5, seed=-3, dtype="float64")
    assert Settings.from_mapping(settings.to_dict()) == settings
    assert Settings.from_mapping(json.loads(json.dumps(settings.to_dict()))) == settings


def test_names_and_tables_are_held_as_they_are_given() -> None:
    """Which names there are is known to the registries, not to the settings."""
    options = {"objective": "of a plug-in", "block": {"kind": "spline", "bins": 8}, "law": {"kind": "cauchy"}}
    settings = Settings(**options)
    assert {name: getattr(settings, name) for name in options} == options


def test_closing_may_be_left_out() -> None:
    assert (Settings().closing, Settings(closing=None).closing) == ("auto", None)


OLD = {
    "gamma": "auto",
    "max_blocks": 4,
    "objective": "jko",
    "scheme": "backward",
    "block": "neural_ode",
    "velocity": "mlp",
    "seed": 3,
}
"""Settings as version 0.1.0 has them."""


def test_record_of_the_first_version_is_read_as_what_its_fit_did() -> None:
    settings = Settings.from_record(OLD)
    assert settings == Settings(max_blocks=4, objective="jko", seed=3)
    assert {name: getattr(settings, name) for name in ADDED} == ADDED
    assert Settings.from_record(settings.to_dict()) == settings


@pytest.mark.parametrize("name", sorted(RETIRED))
def test_record_with_another_value_of_an_option_that_is_gone_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"unknown option {name!r}"):
        Settings.from_record({**OLD, name: "other"})


def test_options_that_are_gone_are_refused_outside_of_records() -> None:
    with pytest.raises(InputError, match="unknown option 'scheme'"):
        Settings.from_mapping(OLD)


def test_with_options_leaves_the_original_and_checks_the_new() -> None:
    settings = Settings(seed=3)
    assert settings.with_options(max_blocks=2) == Settings(seed=3, max_blocks=2)
    assert settings.max_blocks == 16
    with pytest.raises(InputError, match="max_blocks"):
        settings.with_options(max_blocks=0)


def test_toml_with_overrides(tmp_path: Path) -> None:
    path = tmp_path / "fit.toml"
    path.write_text('objective = "jko"\nmax_blocks = 4\n\n[gamma]\nkind = "constant"\nvalue = 0.5\n')
    settings = Settings.from_toml(path, max_blocks=5)
    assert settings == Settings(objective="jko", max_blocks=5, gamma={"kind": "constant", "value": 0.5})


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"gama = 1", "unknown option 'gama'"),
        (b"gamma = ", "is not TOML"),
        (b"\xff\xfe", "is not TOML"),
        (b"closing = 'gan'", "^closing: expected one of"),
        (b"scheme = 'backward'", "unknown option 'scheme'"),
    ],
)
def test_bad_toml_is_refused(tmp_path: Path, text: bytes, match: str) -> None:
    path = tmp_path / "fit.toml"
    path.write_bytes(text)
    with pytest.raises(InputError, match=match) as caught:
        Settings.from_toml(path)
    assert "\n" not in str(caught.value)


def test_missing_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="config: cannot read"):
        Settings.from_toml(tmp_path / "none.toml")
