"""What the entries of `run.json` and the lines of `steps.jsonl` are, held against what a file says.

    {"table": {"rows": "many"}}   ->   table.rows: expected a whole number, got 'many'

An entry that is not there is let pass, since versions add some; who needs it asks for it by name. Source:
ours; `jkoflow fit --help` lists the files of a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from jkoflow.runs.opening import AGAIN
from jkoflow.storage import read_error, read_json, read_jsonl
from jkoflow.storage.entries import brief, is_whole

if TYPE_CHECKING:
    from jkoflow.runs.folder import RunFolder

__all__ = ["read_run", "read_steps", "require_entries"]

Check = Callable[[Any], bool]


def _is_number(value: Any, *, largest: float = 1e100) -> bool:
    """A number, within what a figure can show."""
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and math.isfinite(value) and abs(value) <= largest


def _is_count(value: Any, *, largest: int = 2**53) -> bool:
    return is_whole(value) and 0 <= value <= largest


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _are_counts(value: Any) -> bool:
    counts = value.values() if isinstance(value, dict) else [value]
    return all(_is_count(count) for count in counts)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


_WORDS: Mapping[Check, str] = MappingProxyType(
    {
        _is_number: "a number",
        _is_count: "a whole number from 0 on",
        is_whole: "a whole number",
        _are_texts: "a list of texts",
        _are_counts: "whole numbers",
        _is_text: "text",
        _is_table: "a table",
    }
)

_RUN: Mapping[str, tuple[Check, bool]] = MappingProxyType(
    {
        "status": (lambda value: value in ("running", "finished", "interrupted", "failed"), False),
        "settings": (_is_table, False),
        "table": (_is_table, False),
        "table.path": (_is_text, True),
        "table.sha256": (_is_text, True),
        "table.rows": (_is_count, False),
        "table.columns": (_are_texts, False),
        "context": (_is_table, True),
        "context.columns": (_are_texts, False),
        "split": (_is_table, False),
        "weights": (_is_table, True),
        "weights.column": (_is_text, True),
        "results": (_is_table, False),
        "results.held_out_on": (lambda value: value in ("holdout", "validation"), False),
        "results.held_out_rows": (_is_count, False),
        **{
            f"results.{name}{error}_nats": (_is_number, True)
            for name in ("held_out_nll", "gaussian_nll", "gaussian_minus_ours")
            for error in ("", "_se")
        },
        "results.notes": (_are_texts, False),
    }
)
"""Each entry of `run.json` that is read again: what it is, and whether it may be null."""

_NUMBERS = (
    *(
        "gamma",
        "nominal_gamma",
        "gradient_ratio",
        "transport",
        "potential_nats",
        "neg_log_det_nats",
        "transport_nats",
    ),
    *("held_out_nll_nats", "held_out_nll_se_nats", "held_out_nll_data_nats"),
    *("step_doubling_error", "cpu_seconds", "cpu_seconds_so_far"),
)
_STEP: Mapping[str, tuple[Check, bool]] = MappingProxyType(
    {
        "block": (_is_count, False),
        "round": (is_whole, False),
        "flow_blocks": (_is_count, False),
        "updates": (_are_counts, True),
        "integration_steps": (_is_count, True),
        "retries": (_is_count, True),
        **dict.fromkeys(_NUMBERS, (_is_number, True)),
    }
)
"""The same of a step in `steps.jsonl`."""


def read_run(file: Path) -> dict[str, Any]:
    """Read `run.json`.

    Raises:
        RunFolderError: It is missing or damaged, or an entry is not what it has to be; the message names it.
    """
    record = read_json(file, remedy=AGAIN)
    with _refusing(file):
        for name, (check, may_be_null) in _RUN.items():
            found, value = _entry(record, name)
            if found:
                _require(name, value, check, may_be_null=may_be_null)
    return record


def require_entries(run: RunFolder, names: Sequence[str]) -> None:
    """Refuse a run without one of these entries of its `run.json`; one of what is null is not asked for.

    Raises:
        RunFolderError: One is missing; the message names it.
    """
    record = {**run.description, "results": run.results}
    with _refusing(run.content / "run.json"):
        for name in names:
            parent, _, _ = name.rpartition(".")
            if parent and _entry(record, parent) == (True, None):
                continue
            if not _entry(record, name)[0]:
                raise ValueError(f"{name}: the entry is missing")


def read_steps(file: Path) -> list[dict[str, Any]]:
    """Read the records of `steps.jsonl` in order.

    Raises:
        RunFolderError: The file is damaged, or an entry of a line is not what it has to be.
    """
    records = read_jsonl(file, remedy=AGAIN)
    for number, record in enumerate(records, start=1):
        with _refusing(file, f"line {number}: "):
            _check_record(record)
    return records


def _check_record(record: Mapping[str, Any]) -> None:
    kind = record.get("kind")
    if kind not in ("step", "decision"):
        raise ValueError(f"kind: expected 'step' or 'decision', got {brief(kind)}")
    if kind == "decision":
        _require("what", record.get("what"), _is_text)
        for name in ("block", "round"):
            _require(name, record.get(name, 0), is_whole)
        return
    _require("block", record.get("block"), _is_count)
    for name, (check, may_be_null) in _STEP.items():
        if name in record:
            _require(name, record[name], check, may_be_null=may_be_null)


@contextmanager
def _refusing(file: Path, where: str = "") -> Iterator[None]:
    try:
        yield
    except ValueError as failure:
        raise read_error(file, f"{where}{failure}", remedy=AGAIN) from None


def _entry(record: Mapping[str, Any], name: str) -> tuple[bool, Any]:
    """Whether there is an entry of that dotted name, and its value."""
    value: Any = record
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return False, None
        value = value[part]
    return True, value


def _require(name: str, value: Any, check: Check, *, may_be_null: bool = False) -> None:
    if check(value) or (may_be_null and value is None):
        return
    words = _WORDS.get(check, "one of the values that it can have")
    raise ValueError(f"{name}: expected {words}{' or null' * may_be_null}, got {brief(value)}")
