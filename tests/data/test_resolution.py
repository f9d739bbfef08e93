"""A column whose values float numbers cannot tell apart is found, and one that they can is left alone."""

from __future__ import annotations

import numpy as np
import pytest

from jkoflow.data import Schema, read_table
from jkoflow.data.resolution import crowded_columns


def gamma(shape: float, n: int = 400) -> np.ndarray:
    return np.random.default_rng(0).gamma(shape, size=(n, 1))


def lognormal(sigma: float) -> np.ndarray:
    return np.exp(sigma * np.random.default_rng(0).normal(size=(400, 1)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("rows", "kind", "crowded"),
    [
        (gamma(0.05), "grid", ()),
        (gamma(0.02), "grid", ()),
        (gamma(0.2), "continuous", ("x0",)),
        (lognormal(5), "continuous", ("x0",)),
        (gamma(0.5), "continuous", ()),
        (lognormal(2), "continuous", ()),
        (np.random.default_rng(0).standard_cauchy((2000, 1)), "continuous", ()),
        (np.random.default_rng(0).normal(size=(100_000, 1)), "continuous", ()),
    ],
    ids=[
        "gamma 0.05",
        "gamma 0.02",
        "gamma 0.2",
        "lognormal 5",
        "gamma 0.5",
        "lognormal 2",
        "Cauchy",
        "many",
    ],
)
def test_values_that_floats_cannot_tell_apart_are_found(
    rows: np.ndarray, kind: str, crowded: tuple[str, ...], dtype: type[np.floating]
) -> None:
    """Beyond float64 the column gets noise, so that it has a density; beyond float32 it is named."""
    table = read_table(rows.astype(dtype))
    schema = Schema.fit(table)
    assert schema.columns[0].kind == kind
    assert crowded_columns(table, schema.columns, np.float32) == crowded
    assert crowded_columns(table, schema.columns, np.float64) == ()
    assert (kind == "grid") == any("closer than float64 can tell apart" in note for note in schema.notes)


def test_a_constant_with_jitter_is_a_column_like_others() -> None:
    table = read_table(1 + 1e-9 * np.random.default_rng(0).normal(size=(400, 1)))
    schema = Schema.fit(table)
    assert schema.columns[0].kind == "continuous"
    assert crowded_columns(table, schema.columns, np.float32) == ()
