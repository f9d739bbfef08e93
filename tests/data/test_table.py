"""A table is numbers in named columns, from a file or from memory, or it is refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from jkoflow.data import Table, read_table, write_table
from jkoflow.data.trainable import check_trainable
from jkoflow.errors import InputError

ROWS = np.random.default_rng(0).normal(size=(40, 3))


def frame(**columns: object) -> pd.DataFrame:
    return pd.DataFrame(columns)


# ── accepted ──


def test_array_keeps_its_numbers_and_gets_names() -> None:
    table = read_table(ROWS)
    assert np.array_equal(table.values, ROWS)
    assert table.columns == ("x0", "x1", "x2")
    assert (table.integer, table.is_frame, table.source) == ((False,) * 3, False, None)
    assert (len(table), table.dim) == (40, 3)


def test_frame_keeps_its_names_and_types() -> None:
    table = read_table(frame(a=[1, 2, 3], b=[0.5, 1.5, 2.5], c=[True, False, True]))
    assert table.columns == ("a", "b", "c")
    assert table.integer == (True, False, True)
    assert table.is_frame
    assert table.values.tolist() == [[1, 0.5, 1], [2, 1.5, 0], [3, 2.5, 1]]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint8", "int64", "bool"])
def test_every_real_type_becomes_float64_unchanged(dtype: str) -> None:
    array = (np.arange(12).reshape(6, 2) % 5).astype(dtype)
    for source in (array, pd.DataFrame(array)):
        table = read_table(source)
        assert table.values.dtype == np.float64
        assert np.array_equal(table.values, array)
        assert table.integer == (not dtype.startswith("float"),) * 2


@pytest.mark.parametrize("dtype", ["Int64", "Float32", "boolean", "int64[pyarrow]", "double[pyarrow]"])
def test_nullable_types_of_pandas(dtype: str) -> None:
    column = pd.Series([0, 1, 1, 0]).astype(dtype)
    table = read_table(frame(a=column))
    assert table.values[:, 0].tolist() == [0, 1, 1, 0]
    with pytest.raises(InputError, match=r"a \(1 NaN\)"):
        read_table(frame(a=pd.concat([column, pd.Series([None], dtype=dtype)])))


def test_other_things_that_numpy_understands() -> None:
    for source in (ROWS.tolist(), torch.from_numpy(ROWS), np.ma.masked_array(ROWS), ROWS.astype(object)):
        assert np.array_equal(read_table(source).values, ROWS)


def test_the_users_array_is_neither_shared_nor_changed() -> None:
    array = ROWS.copy()
    table = read_table(array)
    array[0, 0] = 7.0
    assert table.values[0, 0] == ROWS[0, 0]
    with pytest.raises(ValueError, match="read-only"):
        table.values[0, 0] = 1.0


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".npy", ".npz"])
def test_file_and_memory_give_the_same_table(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    write_table(path, ROWS, ["a", "b", "c"])
    table = read_table(path)
    named = suffix not in (".npy", ".npz")
    assert np.array_equal(table.values, ROWS)
    assert table.columns == (("a", "b", "c") if named else ("x0", "x1", "x2"))
    assert table.is_frame is named
    assert table.source == str(path)
    assert read_table(str(path)).sha256 == table.sha256


def test_text_of_integers_counts_and_a_missing_header_is_noted(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("5,1.5\n7,2.5\n")
    table = read_table(tmp_path / "t.csv")
    assert table.integer == (True, False)
    assert not table.is_frame
    assert table.columns == ("x0", "x1")
    assert len(table.notes) == 1


def test_hash_tells_tables_apart() -> None:
    hashes = {read_table(source).sha256 for source in (ROWS, ROWS[:-1], ROWS.T, ROWS + 1, pd.DataFrame(ROWS))}
    assert len(hashes) == 5
    assert read_table(ROWS).sha256 == read_table(ROWS.copy(order="F")).sha256
    assert read_table(ROWS).take(slice(0, 5)).sha256 is None


def test_select_drop_take() -> None:
    table = read_table(frame(a=[1, 2], b=[0.5, 1.5], c=[7.0, 8.0]))
    part = table.select(["c", "a"])
    assert (part.columns, part.integer) == (("c", "a"), (False, True))
    assert part.values.tolist() == [[7, 1], [8, 2]]
    assert part.sha256 is None
    assert table.drop(["a"]).columns == ("b", "c")
    assert table.take(np.array([1])).values.tolist() == [[2, 1.5, 8]]
    with pytest.raises(InputError, match="no column named z; the columns are a, b, c"):
        table.select(["a", "z"])
    with pytest.raises(InputError, match="distinct column names"):
        table.select(["a", "a"])
    with pytest.raises(InputError, match="no column is left"):
        table.drop(["a", "b", "c"])


# ── refused, to be fitted or scored ──

NAN, INF = float("nan"), float("inf")

REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "NaN and inf": (
        lambda: frame(a=[1.0, NAN, NAN], b=[0.0, 1.0, 2.0], c=[INF, NAN, 0.0]),
        r"in 3 of 3 rows, 2 columns: a \(2 NaN\), c \(1 NaN, 1 infinite\)",
    ),
    "NaN in an array": (lambda: np.array([[1.0, NAN], [2.0, 3.0]]), r"x1 \(1 NaN\)"),
    "masked": (lambda: np.ma.masked_array([[1, 2], [3, 4]], [[0, 1], [0, 0]]), r"x1 \(1 NaN\)"),
    "None": (lambda: [[1.0, None], [2.0, 3.0]], r"x1 \(1 NaN\)"),
    "text": (
        lambda: frame(a=["1", "red"], b=[0, 1], c=["x", "y"]),
        r"2 of 3 that are not: a holds text \(first 'red'\), c holds text \(first 'x'\)",
    ),
    "numbers in quotes": (lambda: frame(a=["1", "2"]), "numbers in quotes"),
    "text array": (lambda: np.array([["a", "b"], ["c", "d"]]), "x0 holds text"),
    "mixed objects": (lambda: frame(a=[Decimal(1), Decimal(2)]), "a holds Python objects"),
    "only missing": (lambda: frame(a=[None, None], b=[1, 2]), "a holds no value at all"),
    "complex": (lambda: np.ones((3, 2), dtype=complex), "x0 holds complex numbers"),
    "dates": (lambda: frame(a=pd.to_datetime(["2020-01-01", "2020-01-02"])), "dates or durations"),
    "dates with a zone": (lambda: frame(a=pd.to_datetime(["2020-01-01"], utc=True)), "dates or durations"),
    "durations": (lambda: np.array([[1], [2]], dtype="m8[s]"), "dates or durations"),
    "categories": (lambda: frame(a=pd.Categorical([1, 2])), r"categories \(first '1'\)"),
    "1-D": (lambda: [1.0, 2.0], r"1-D of 2 values; use X.reshape\(-1, 1\)"),
    "Series": (lambda: pd.Series([1.0, 2.0]), r"to_frame\(\)"),
    "3-D": (lambda: np.zeros((2, 2, 2)), r"3-D of shape \(2, 2, 2\)"),
    "not a table": (lambda: {"a": [1]}, "got dict"),
    "scalar": (lambda: 3.0, "got float"),
    "ragged": (lambda: [[1.0, 2.0], [3.0]], "rows of equal length"),
    "sparse": (lambda: sparse.csr_array(np.eye(3)), "toarray"),
    "gradient": (lambda: torch.ones(3, 2, requires_grad=True), "requires grad"),
    "structured": (lambda: np.zeros(3, dtype=[("a", float)]), "structured"),
    "no rows": (lambda: np.empty((0, 3)), "at least one row, got none"),
    "no rows in a frame": (lambda: pd.DataFrame({"a": []}, dtype=object), "at least one row, got none"),
    "no columns": (lambda: np.empty((3, 0)), "at least one column, got none"),
    "twice": (lambda: pd.DataFrame([[1, 2, 3]], columns=["a", "b", "a"]), "1 column name given twice: a"),
    "twice as text": (lambda: pd.DataFrame([[1, 2]], columns=[1, "1"]), "given twice: 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(InputError, match=message) as caught:
        read_table(make())  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("the table: ")


def test_long_lists_of_columns_are_cut() -> None:
    with pytest.raises(InputError, match=r"x5 \(2 NaN\) and 44 more; remove"):
        read_table(np.full((2, 50), NAN))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3\n", r"b \(1 NaN\)"),
        ("a,b\n1,2\n3,\n", r"b \(1 NaN\)"),
        ("a,b\n1,inf\n3,4\n", r"b \(1 infinite\)"),
        ("a,b\n1,1e999\n3,4\n", r"b \(1 infinite\)"),
        ("a,b\n1,2\n3,?\n", r"b holds text \(first '\?'\)"),
        ('a,b\n1,2\n3,"4,5"\n', r"b holds text \(first '4,5'\)"),
        ("a,a\n1,2\n", "given twice: a"),
        ("a,b\n", "at least one row"),
    ],
)
def test_file_is_named_in_the_message(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_table(path)
    assert str(caught.value).startswith(f"{path}: ")


# ── refused only to be fitted ──

ONES = np.ones((40, 1))

UNTRAINABLE = {
    "one row": (ROWS[:1], "got one row"),
    "nine distinct rows": (np.repeat(ROWS[:9], 5, axis=0), "at least 10 distinct rows, got 9 among 45"),
    "constant": (np.hstack([ROWS, ONES, 0 * ONES]), "2 constant columns: x3, x4"),
    "constant but for rounding": (
        np.hstack([ROWS, np.where(ROWS > 0, 0.3, 0.1 + 0.2)]),
        "constant.*x3, x4, x5",
    ),
    "far and constant": (1e12 + 1e-4 * ROWS, "3 constant columns"),
    "beyond float64": (1e200 * ROWS, "column x0 has a range of"),
    "below float64": (1e-200 * ROWS, "change its unit"),
    "range overflows": (1e308 * np.sign(ROWS), "has a range of inf"),
}


@pytest.mark.parametrize("name", UNTRAINABLE)
def test_no_density_can_be_fitted(name: str) -> None:
    values, message = UNTRAINABLE[name]
    table = read_table(values)
    with pytest.raises(InputError, match=message) as caught:
        check_trainable(table)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_constant_is_judged_relative_to_the_values(scale: float, offset: float) -> None:
    check_trainable(read_table(scale * (ROWS + offset)))
    with pytest.raises(InputError, match="constant"):
        check_trainable(read_table(scale * (0.0 * ROWS + 3.0)))


def test_repeated_rows_are_accepted_and_pointed_at() -> None:
    repeated = check_trainable(read_table(np.vstack([ROWS, ROWS[:2]])))
    assert np.flatnonzero(repeated).tolist() == [40, 41]


def test_table_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Table(ROWS, ("a",), (False,)).source = "x"  # type: ignore[misc]
