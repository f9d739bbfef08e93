"""Tables to reals: read a table, learn its columns, map its rows to standardised float64 and back.

    file or frame → `read_table` → `Table` → `Schema.fit` → `Schema.encode` → z;   z → `decode` → `to_user`

Source: the bijection is that of `jkoflow.data.schema`.
"""

from __future__ import annotations

from jkoflow.data.columns import Column
from jkoflow.data.dependence import Relation, dependence_notes, dependent_columns
from jkoflow.data.files import check_output, hash_file, names_guarded, write_table
from jkoflow.data.reading import TableSource, read_shared_table, read_table
from jkoflow.data.schema import Schema
from jkoflow.data.table import Table
from jkoflow.data.weights import Weights, checked_weight, counted_rows

__all__ = [
    "Column",
    "Relation",
    "Schema",
    "Table",
    "TableSource",
    "Weights",
    "check_output",
    "checked_weight",
    "counted_rows",
    "dependence_notes",
    "dependent_columns",
    "hash_file",
    "names_guarded",
    "read_shared_table",
    "read_table",
    "write_table",
]
