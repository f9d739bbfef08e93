"""A schema is a bijection with a known log-Jacobian, indifferent to the unit, exact on the disk."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from jkoflow.data import Schema, Table, read_table
from jkoflow.data.columns import ContinuousColumn
from jkoflow.errors import InputError, RunFolderError
from jkoflow.runtime import seed_stream

RNG = np.random.default_rng(0)
REALS = RNG.normal(size=(400, 3)) * [1e-6, 1.0, 1e7] + [0.0, 50.0, -3e8]
MIXED = pd.DataFrame(
    {
        "height": RNG.normal(170.0, 8.0, size=300),
        "children": RNG.integers(0, 5, size=300),
        "price": np.round(RNG.exponential(20.0, size=300), 1),
    }
)


def stream(index: int = 0) -> torch.Generator:
    return seed_stream(1, "dequantise", index)


def fitted(source: Any, **options: Any) -> tuple[Schema, Table]:
    table = read_table(source)
    return Schema.fit(table, **options), table


def log_jacobian(schema: Schema) -> float:
    """That of the map, which is the same in each row where all columns are continuous or on grids."""
    return float(schema.log_jacobian(torch.zeros(1, schema.dim)))


# ── the bijection ──


def test_training_rows_are_standardised() -> None:
    schema, table = fitted(REALS)
    z = schema.encode(table)
    assert np.allclose(z.mean(axis=0), 0.0, atol=1e-7)
    assert np.allclose(z.std(axis=0), 1.0, atol=1e-7)
    assert schema.dequantised == ()
    assert schema.notes == ()


def test_decode_undoes_standardise() -> None:
    schema, table = fitted(REALS)
    assert np.allclose(schema.decode(schema.encode(table)), REALS, rtol=1e-14, atol=0.0)
    z = RNG.normal(size=(7, 5, 3))
    assert np.allclose(schema.standardise(schema.decode(z)), z, atol=1e-6)


def test_log_jacobian_is_that_of_the_map() -> None:
    schema, _ = fitted(REALS)
    jacobian = torch.autograd.functional.jacobian(
        lambda x: (x - torch.from_numpy(schema.location)) / torch.from_numpy(schema.scale),
        torch.from_numpy(REALS[0]),
    )
    told = schema.log_jacobian(torch.zeros(5, 3)).tolist()
    assert told == 5 * [pytest.approx(float(torch.linalg.slogdet(jacobian).logabsdet), rel=1e-12)]
    # by differences of the map that is used, not of a copy of it
    step = np.diag(schema.scale)
    columns = schema.standardise(REALS[0] + step) - schema.standardise(REALS[0])
    assert np.linalg.slogdet(columns / schema.scale)[1] == pytest.approx(told[0], rel=1e-6)


@pytest.mark.parametrize("factor", [1000.0, 1e-12, 1e12])
def test_a_change_of_unit_changes_only_the_log_jacobian(factor: float) -> None:
    for source in (REALS, MIXED.astype(float)):
        here, table = fitted(source)
        there, scaled = fitted(factor * source)
        assert here.dequantised == there.dequantised
        for generators in ((None, None), (stream(), stream())):
            z = here.encode(table, generator=generators[0])
            assert np.allclose(there.encode(scaled, generator=generators[1]), z, rtol=0.0, atol=1e-12)
        shift = log_jacobian(there) - log_jacobian(here)
        assert shift == pytest.approx(-3 * math.log(factor), abs=1e-12)


def test_a_change_of_origin_changes_nothing() -> None:
    here, table = fitted(MIXED)
    there, shifted = fitted(MIXED + 2**20)
    assert log_jacobian(there) == pytest.approx(log_jacobian(here), abs=1e-8)
    assert np.allclose(there.encode(shifted), here.encode(table), atol=1e-8)


def test_float16_trains_on_its_own_numbers() -> None:
    values = REALS[:, 1:2].astype(np.float16)
    schema, table = fitted(values)
    assert schema.columns[0].location == pytest.approx(values.astype(np.float64).mean())
    assert table.values.dtype == np.float64


# ── dequantisation ──


def test_columns_on_a_grid_are_dequantised_and_noted() -> None:
    schema, _ = fitted(MIXED)
    assert [column.kind for column in schema.columns] == ["continuous", "grid", "grid"]
    assert [column.step for column in schema.columns[1:]] == [1.0, pytest.approx(0.1)]
    assert schema.dequantised == ("children", "price")
    assert len(schema.notes) == 1
    assert "children (step 1), price (step 0.1)" in schema.notes[0]


def test_noise_is_uniform_over_one_cell_and_centred() -> None:
    schema, table = fitted(MIXED)
    noise = np.vstack(
        [schema.decode(schema.encode(table, generator=stream(i))) - table.values for i in range(40)]
    )
    assert np.abs(noise[:, 0]).max() < 1e-12
    for j, step in ((1, 1.0), (2, 0.1)):
        u = noise[:, j] / step
        assert u.min() >= -0.5 - 1e-9
        assert u.max() < 0.5 + 1e-9
        # Kolmogorov's distance to the uniform law: its 1e-4 quantile is 2.2 / sqrt(n)
        empirical = np.arange(len(u)) / len(u)
        assert np.abs(np.sort(u) + 0.5 - empirical).max() < 2.2 / math.sqrt(len(u))
    assert abs(np.corrcoef(noise[:, 1], noise[:, 2])[0, 1]) < 4 / math.sqrt(len(noise))


def test_location_and_scale_are_those_of_the_dequantised_law() -> None:
    schema, table = fitted(MIXED)
    z = np.vstack([schema.encode(table, generator=stream(i)) for i in range(400)])
    # 120,000 rows; the noise of the means of the cells is at most 0.29 / sqrt(n)
    assert np.allclose(z.mean(axis=0), 0.0, atol=4 * 0.29 / math.sqrt(len(z)))
    assert np.allclose(z.std(axis=0), 1.0, atol=2e-3)
    assert schema.scale[1] == pytest.approx(math.sqrt(MIXED["children"].var(ddof=0) + 1 / 12))


def test_scores_are_deterministic_at_the_recorded_value() -> None:
    schema, table = fitted(MIXED)
    assert np.array_equal(schema.encode(table), schema.standardise(table.values))


def test_noise_depends_on_the_stream_alone() -> None:
    schema, table = fitted(MIXED)
    once, again = (schema.encode(table, generator=stream()) for _ in range(2))
    assert np.array_equal(once, again)
    assert not np.array_equal(once, schema.encode(table, generator=stream(1)))


def test_digits_are_integers_whatever_their_type() -> None:
    counts = RNG.integers(0, 17, size=(500, 2))
    for dtype in (np.float32, np.float64, np.uint8, np.int64):
        schema, _ = fitted(counts.astype(dtype))
        assert [column.step for column in schema.columns] == [1.0, 1.0]


def test_repeated_rows_are_noted_and_do_not_tie_columns() -> None:
    schema, _ = fitted(np.vstack([REALS[:50], REALS[:20]]))
    assert schema.dequantised == ()
    assert schema.notes == ("20 of 70 rows repeat an earlier row; they are kept",)


def test_repeated_value_on_a_continuous_column_is_noted() -> None:
    values = REALS[:, 1:].copy()
    values[:100, 0] = 50.0
    schema, _ = fitted(values)
    assert schema.dequantised == ("x0",)
    assert any("x0 (25.0% of the rows within" in note for note in schema.notes)
    assert not any("dominated" in note for note in fitted(MIXED)[0].notes)


# ── other tables ──


def test_frames_are_matched_by_name() -> None:
    schema, table = fitted(MIXED)
    shuffled = read_table(MIXED[["price", "height", "children"]])
    assert np.array_equal(schema.encode(shuffled), schema.encode(table))
    assert schema.check(shuffled).columns == ("height", "children", "price")
    assert np.array_equal(schema.encode(read_table(MIXED.to_numpy())), schema.encode(table))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (MIXED.drop(columns="price"), "missing price"),
        (MIXED.rename(columns={"price": "cost"}), "missing price; not known cost"),
        (MIXED.assign(extra=1.0), "not known extra; pass those 3 columns and no more"),
        (REALS[:, :2], r"expected the 3 columns of the fit \(height, children, price\), got 2"),
    ],
    ids=["missing", "renamed", "extra", "fewer"],
)
def test_other_columns_are_refused(other: Any, message: str) -> None:
    schema, _ = fitted(MIXED)
    with pytest.raises(InputError, match=message):
        schema.encode(read_table(other))


def test_a_frame_after_an_array_is_matched_by_place() -> None:
    schema, table = fitted(REALS)
    frame = pd.DataFrame(REALS, columns=["p", "q", "r"])
    assert np.array_equal(schema.encode(read_table(frame)), schema.encode(table))
    with pytest.raises(InputError, match="got 2"):
        schema.encode(read_table(frame[["p", "q"]]))


def test_one_row_or_a_constant_can_be_scored() -> None:
    schema, table = fitted(MIXED)
    assert np.array_equal(schema.encode(read_table(MIXED.head(1))), schema.encode(table)[:1])


def test_rows_come_back_as_the_users_kind() -> None:
    z = RNG.normal(size=(4, 3))
    frame = fitted(MIXED)[0].to_user(z)
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == list(MIXED.columns)
    assert np.array_equal(frame.to_numpy(), z)
    array = fitted(REALS)[0].to_user(z)
    assert isinstance(array, np.ndarray)


@pytest.mark.parametrize("method", ["standardise", "decode", "to_user"])
def test_rows_of_another_width_are_refused(method: str) -> None:
    schema, _ = fitted(REALS)
    for rows in (np.zeros((2, 2)), np.zeros(()), np.zeros((3, 1))):
        with pytest.raises(InputError, match="rows of 3 columns"):
            getattr(schema, method)(rows)


# ── context ──


def test_context_is_standardised_only() -> None:
    context = MIXED.assign(site=4.0)
    schema, table = fitted(context, role="context")
    assert schema.dequantised == ()
    assert schema.columns[3] == ContinuousColumn("site", 4.0, 1.0)
    z = schema.encode(table, generator=stream())
    assert np.allclose(z.mean(axis=0), 0.0, atol=1e-12)
    assert np.allclose(z.std(axis=0), [1, 1, 1, 0], atol=1e-12)
    assert Schema.fit(read_table([[3.0]]), role="context").columns[0].scale == 1.0
    with pytest.raises(InputError, match="columns of the fit's context"):
        schema.encode(read_table(MIXED))


def test_unknown_role_and_untrainable_tables_are_refused() -> None:
    with pytest.raises(InputError, match=r"role: expected one of \['data', 'context'\], got 'y'"):
        fitted(REALS, role="y")
    with pytest.raises(InputError, match="constant column: site"):
        fitted(MIXED.assign(site=4.0))
    with pytest.raises(InputError, match="range of inf"):
        fitted(1e308 * np.sign(REALS - REALS.mean(axis=0)), role="context")


# ── on the disk ──


@pytest.mark.parametrize("role", ["data", "context"])
def test_json_round_trip_is_exact(role: str) -> None:
    for source in (REALS, MIXED, 1e-12 * MIXED):
        schema, _ = fitted(source, role=role)
        assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema


def test_record_of_before_kinds_were_written_is_read() -> None:
    schema, _ = fitted(MIXED)
    record = json.loads(json.dumps(schema.to_dict()))
    for column in record["columns"]:
        del column["kind"]
        column.setdefault("step", None)
    assert Schema.from_dict(record) == schema


def damaged(**changes: object) -> dict[str, Any]:
    record = json.loads(json.dumps(fitted(MIXED)[0].to_dict()))
    columns = {
        key.removeprefix("column_"): value for key, value in changes.items() if key.startswith("column_")
    }
    record["columns"][1].update(columns)
    record.update({key: value for key, value in changes.items() if not key.startswith("column_")})
    return {key: value for key, value in record.items() if value != "gone"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "jkoflow/2"}, "jkoflow/2"),
        ({"format": "gone"}, "not a file of format"),
        ({"notes": "gone"}, "schema with keys"),
        ({"surplus": 1}, "schema with keys"),
        ({"role": "y"}, "role 'y'"),
        ({"was_frame": 1}, "was_frame"),
        ({"columns": []}, "or there are none"),
        ({"columns": {}}, "not a list"),
        ({"columns": [1]}, "not an object"),
        ({"column_name": "height"}, "not distinct"),
        ({"column_name": None}, "no name"),
        ({"column_scale": 0.0}, "not positive"),
        ({"column_scale": None}, "scale of children is not a finite number"),
        ({"column_location": float("nan")}, "location of children is not a finite number"),
        ({"column_location": True}, "location of children"),
        ({"column_step": -1.0}, "not positive"),
        ({"column_surplus": 1}, "column with keys"),
        ({"column_kind": "colour"}, r"kind 'colour', expected one of \['grid', 'continuous'\]"),
    ],
)
def test_damaged_or_later_record_is_refused_by_name(changes: dict[str, object], message: str) -> None:
    with pytest.raises(RunFolderError, match=message) as caught:
        Schema.from_dict(damaged(**changes), path="model/schema.json")
    assert str(caught.value).startswith("model/schema.json: ")
    assert "\n" not in str(caught.value)


def test_moments_come_from_the_rows_of_the_fit_and_grids_from_all() -> None:
    values = np.column_stack([np.linspace(0.0, 1.0, 40) ** 2, np.arange(40) % 5])
    table = read_table(values)
    rows = np.arange(20)
    schema = Schema.fit(table, rows=rows)
    np.testing.assert_allclose(schema.location, values[rows].mean(axis=0), rtol=1e-12)
    assert schema.columns[1].step == pytest.approx(1.0)


def test_a_tied_column_that_is_constant_in_the_rows_of_the_fit_keeps_the_spread_of_its_step() -> None:
    values = np.random.default_rng(0).normal(size=(40, 2))
    values[:, 1] = np.where(np.arange(40) < 20, 1.0, 2.0)
    column = Schema.fit(read_table(values), rows=np.arange(20)).columns[1]
    assert column.location == pytest.approx(1.0)
    assert column.scale == pytest.approx(1.0 / math.sqrt(12.0))
