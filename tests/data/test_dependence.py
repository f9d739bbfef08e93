"""Columns that others determine are named with their relation; columns that are only correlated are not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine

from jkoflow.data import Schema, dependence_notes, dependent_columns, read_table


def relations(rows: object) -> list[str]:
    table = read_table(rows)
    return [str(relation) for relation in dependent_columns(table, Schema.fit(table).columns)]


def source() -> np.random.Generator:
    return np.random.default_rng(0)


def composition() -> pd.DataFrame:
    return pd.DataFrame(source().dirichlet([4, 3, 2], size=800), columns=["sand", "silt", "clay"])


def heights() -> pd.DataFrame:
    rng = source()
    a = rng.normal(size=600)
    cm = 170 + 100 * a
    return pd.DataFrame({"cm": cm, "inch": cm / 2.54, "w": a + rng.normal(size=600)})


def classes() -> pd.DataFrame:
    rng = source()
    k = rng.choice(3, size=1000, p=[0.6, 0.3, 0.1])
    return pd.DataFrame({f"c{i}": k == i for i in range(3)}).assign(v=rng.normal(size=1000) + 2 * k)


def line(*, offset: float = 0.0, noise: float = 0.0) -> np.ndarray:
    rng = source()
    y = offset + rng.normal(size=500)
    return np.column_stack([y, rng.normal(size=500), 2 * y + 1 + noise * rng.normal(size=500)])


def chained() -> np.ndarray:
    """The second determined column is a function of the first, which is one of two columns of noise 1e-7."""
    rng = source()
    x = rng.normal(size=(500, 2))
    near = x[:, 0] + 1e-7 * rng.normal(size=500)
    return np.column_stack([x, near, 3 * near + x[:, 1]])


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (composition(), ["clay = 1 - sand - silt"]),
        ((100 * composition()).astype(np.float32), ["clay = 100 - sand - silt"]),
        ((100 * composition()).round(2), ["clay = 100 - sand - silt"]),
        (heights(), ["inch = 0.393701*cm"]),
        (classes(), ["c2 = 1 - c0 - c1"]),
        (line(), ["x2 = 1 + 2*x0"]),
        (line(offset=1000).astype(np.float32), ["x2 = 1 + 2*x0"]),
        (line() * [1e-12, 1.0, 1e12], ["x2 = 1e+12 + 2e+24*x0"]),
        (chained(), ["x3 = x1 + 3*x2"]),
    ],
    ids=["simplex", "float32", "rounded", "inch", "one hot", "line", "far off", "scales", "chained"],
)
def test_determined_column_is_named_with_its_relation(rows: object, expected: list[str]) -> None:
    assert relations(rows) == expected


@pytest.mark.parametrize("noise", [1e-2, 1e-6, 1e-10])
def test_correlated_columns_with_noise_are_not_named(noise: float) -> None:
    assert relations(line(noise=noise)) == []


def test_rounding_coarser_than_the_noise_is_needed() -> None:
    """Noise of 0.4 steps shows through rounding to steps of 0.01, and a table of counts is no composition."""
    rng = source()
    x = rng.normal(size=(1000, 2))
    assert relations(np.column_stack([x, x[:, 0] + 0.004 * rng.normal(size=1000)]).round(2)) == []
    assert relations((10 * composition()).round(0)) == []


@pytest.mark.parametrize("load", [load_digits, load_wine, load_breast_cancer, load_diabetes])
def test_tables_of_measurements_have_none(load: object) -> None:
    rows = load().data[:400]
    assert relations(rows[:, rows.std(axis=0) > 0]) == []


def test_chance_is_no_relation() -> None:
    """More columns than rows, and two columns that are zero but for the same row."""
    assert relations(source().normal(size=(20, 30))) == []
    single = np.zeros((500, 3))
    single[3, :2], single[:, 2] = [1, 2], source().normal(size=500)
    assert relations(single) == []


def test_note_names_what_to_drop() -> None:
    table = read_table(heights())
    (note,) = dependence_notes(dependent_columns(table, Schema.fit(table).columns))
    assert "inch = 0.393701*cm" in note
    assert "drop inch" in note
    assert dependence_notes(()) == ()
