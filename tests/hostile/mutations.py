"""Mutations of valid files: a value of a record, a byte, a tensor, a line of options, a cell of a table.

    mutated file = mutation(valid file, source of randomness)

A mutation is drawn from a seed, so that a fault that one finds is written down by its number.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import random
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = [
    "VALUES",
    "mutate_bytes",
    "mutate_json",
    "mutate_npy",
    "mutate_options",
    "mutate_tensors",
    "mutate_text",
]

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 2.5, -0.0, 1e-320, 1e308, -1e308, 1e30, 10**12, 10**400, -(10**400)),
    *(40_000, 10**7, 3 * 10**8, 2**63, "", "a", "nan", "inf", "auto", "mps", "cuda:99", "meta", "x" * 5000),
    *("\x1b[2J", "\u202eevil", "<script>", "\0", "=1+1", "../..", "jkoflow/1", "data", "context", "none"),
    *(
        [],
        {},
        [[]],
        [0],
        [1.0, 2.0],
        {"kind": "mlp"},
        {"kind": "constant", "value": 1},
        {"kind": []},
        [None] * 3,
    ),
    *(
        {"a": {"b": {"c": 1}}},
        [{}],
        {"": 0},
        float("1e999"),
        {"kind": "gaussian"},
        {"delta": -1},
        {"time": 1},
    ),
)
"""What stands in for a value: of every kind, beyond every range, and words that mean something elsewhere."""


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, entry in entries:
        yield from _places(entry, (*path, key))


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def mutate_record(record: Any, rng: random.Random) -> Any:
    """A record with one to three of its entries replaced, left out, doubled or renamed."""
    record = copy.deepcopy(record)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = [path for path in _places(record) if path]
        if not places:
            return rng.choice(VALUES)
        path = rng.choice(places)
        holder, key = _at(record, path[:-1]), path[-1]
        action = rng.randrange(8)
        if action == 0:
            del holder[key]
        elif action == 1 and isinstance(holder, dict):
            holder[f"{key}{rng.choice(('x', ' ', '2'))}"] = holder.pop(key)
        elif action == 2 and isinstance(holder, list):
            holder.extend(copy.deepcopy(holder))
        elif action == 3 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
            holder[key] = holder[key] * rng.choice((-1, 0, 2, 0.5, 1e6, 1e200)) + rng.choice((0, 1, -1))
        elif action == 4:
            holder[key] = [holder[key]]
        elif action == 5:
            holder[key] = copy.deepcopy(_at(record, rng.choice(places)))
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    return record


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """A file of one record, or of a record a line."""
    if rng.random() < 0.1:
        return mutate_bytes(data, rng)
    lines = data.decode().strip().split("\n")
    if len(lines) > 1 and not lines[0].endswith("{"):
        place = rng.randrange(len(lines))
        lines[place] = json.dumps(mutate_record(json.loads(lines[place]), rng))
        return "\n".join([*lines, ""]).encode()
    return json.dumps(mutate_record(json.loads(data), rng)).encode()


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """A file of which bytes were changed, cut off, doubled or put in."""
    if not data:
        return b"\0"
    place, action = rng.randrange(len(data)), rng.randrange(5)
    if action == 0:
        return data[:place]
    if action == 1:
        return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]
    if action == 2:
        return data[:place] + data[rng.randrange(len(data)) :]
    if action == 3:
        return data[:place] + rng.randbytes(rng.choice((1, 8, 100))) + data[place:]
    return (
        data[:place] + rng.choice((b"[" * 20_000, b"\0" * 4096, b"9" * 5000, b'{"a":' * 3000)) + data[place:]
    )


NUMBERS = (float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 1e30, -1e30, 1e-40, 1.0)


def mutate_tensors(data: bytes, rng: random.Random) -> bytes:
    """A file of tensors whose header or numbers are others; the hash in its record has to follow."""
    if rng.random() < 0.1:
        return mutate_bytes(data, rng)
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])
    names = [name for name in header if name != "__metadata__"]
    if not names:
        return mutate_bytes(data, rng)
    if rng.random() < 0.5:
        entry = header[rng.choice(names)]
        (start, stop), item = entry["data_offsets"], 8 if entry["dtype"] == "F64" else 4
        number = struct.pack("<d" if item == 8 else "<f", rng.choice(NUMBERS))
        places = range(start, stop, item)
        for place in places if rng.random() < 0.3 else rng.sample(places, min(1, len(places))):
            body[place : place + item] = number
    elif rng.random() < 0.3:
        name = rng.choice(names)
        header[rng.choice(("a", "blocks", "blocks.x.y", "blocks.0", "blocks.00.a", f"{name}.b"))] = (
            header.pop(name)
        )
    else:
        header = mutate_record(header, rng)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(body)


def follow_hash(config: bytes, tensors: bytes) -> bytes:
    """The record of a model with the hash of other tensors."""
    return json.dumps({**json.loads(config), "model_sha256": hashlib.sha256(tensors).hexdigest()}).encode()


_OPTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "gamma",
        (
            '"auto"',
            "0.5",
            '{kind = "geometric", first = 1, growth = 1e300}',
            '{kind = "adaptive", rounds = 2}',
        ),
    ),
    ("max_blocks", ("1", "2", "1_000_000_000")),
    ("objective", ('"auto"', '"jko"', '"end_to_end"', '"flow_matching"')),
    ("closing", ('"auto"', '"none"')),
    (
        "block",
        (
            '"affine"',
            '"neural_ode"',
            '{kind = "zuko", transform = "MAF"}',
            '{kind = "affine", hue = 1}',
            '{kind = "neural_ode", network = {width = 3}}',
            '{kind = "neural_ode", rules = 3}',
            '{kind = "zuko", transform = "GMM"}',
            '{kind = "zuko", options = {transforms = -1}}',
        ),
    ),
    (
        "law",
        (
            '"standard_normal"',
            '"rings"',
            '{kind = "log_cosh", cells = 1_000_000_000_000}',
            '{kind = "tree", forks = 60}',
            '{kind = "log_cosh", weight = inf}',
            '{kind = "gaussian", mean = [0, 0], covariance = [[1, 0], [0, 1]]}',
            '{kind = "gaussian", mean = ["a"], covariance = 3}',
            '{kind = "standard_normal", dim = 3}',
            '{kind = "gaussian_mixture", weights = [1], means = [[0, 0]], stds = [1]}',
            '{kind = "rings", radii = 3}',
            '{kind = "checkerboard", squares = 2}',
            '{kind = "rose", rings = [1]}',
            '{kind = "log_cosh"}',
        ),
    ),
    ("divergence", ('"auto"', '"determinant"', '"exact"', '"hutchinson"')),
    ("smoothing", ("0.1", "1e200", '{kind = "brownian", time = 0.1}', "{time = 1e300}", "{delta = 1e-300}")),
    ("validation_fraction", ("0.1", "0.5", "1e-300", "0.9")),
    ("holdout_fraction", ("0.0", "0.1", "0.5", "0.89")),
    ("budget", ("1", "1e-9", "1e300", "0.5")),
    ("dtype", ('"float32"', '"float64"')),
    (
        "device",
        ('"auto"', '"cpu"', '"mps"', '"cuda"', '"meta"', '"cpu:7"', '"xla"', '"vulkan"', '"privateuseone"'),
    ),
    ("seed", ("0", "-1", "9" * 400, str(2**63))),
)
_TOML = (
    *("nan", "inf", "-inf", "-1", "0", "0.0", "1.5", "2.5", "true", "[]", "[[]]", "{}", '""', '"x"', "1e400"),
    *(f"1{'0' * 400}", "9" * 5000, "1979-05-27", "12:00:00", '{kind = "mlp"}', "{kind = []}", "[1, 2]"),
    *('{kind = "constant"}', '{kind = "constant", value = nan}', '{kind = "constant", value = inf}'),
    *('{kind = "geometric", growth = 0.5, free_last = true}', '{kind = "geometric", cap = nan}'),
    *(
        '{kind = "adaptive", eta = 1e300}',
        '{kind = "adaptive", eta = inf}',
        '{kind = "adaptive", rounds = 10000000}',
    ),
    *('{kind = "constant", value = 1, stop_ratio = "a"}', "[" * 2000 + "]" * 2000, '"\\u202e"', '"\\u0000"'),
)


def mutate_options(rng: random.Random) -> bytes:
    """A file of options: some valid ones, and one to two that may be anything."""
    chosen = rng.sample(_OPTIONS, rng.randint(0, 3))
    lines = {name: rng.choice(values) for name, values in chosen}
    for _ in range(rng.choice((0, 1, 1, 1, 2))):
        name = (
            rng.choice(_OPTIONS)[0]
            if rng.random() < 0.95
            else rng.choice(("", "colour", "verbose", "a.b", '"="'))
        )
        lines[name] = rng.choice(_TOML)
    text = "".join(f"{name} = {value}\n" for name, value in lines.items()).encode()
    return mutate_bytes(text, rng) if rng.random() < 0.05 else text


_CELLS = (
    *(
        "",
        "nan",
        "inf",
        "-inf",
        "1e999",
        "1e308",
        "-1e308",
        "1e-320",
        "0",
        "x",
        '"',
        '"a,b"',
        "\0",
        "\x1b[2J",
        "NA",
    ),
    *(
        "9" * 400,
        "0x10",
        "1_000",
        "1,000",
        "2020-01-01",
        "True",
        "None",
        "=1+1",
        "\u202e",
        "<b>",
        "$x",
        "1+2j",
    ),
)


def mutate_text(data: bytes, rng: random.Random, separator: str = ",") -> bytes:
    """A table in text with cells, lines or bytes of another kind."""
    if rng.random() < 0.15:
        return mutate_bytes(data, rng)
    rows = [line.split(separator) for line in data.decode().splitlines()]
    for _ in range(rng.choice((1, 1, 2))):
        action, place = rng.randrange(7), rng.choice((0, rng.randrange(len(rows))))
        row = rows[place]
        if action == 0:
            row.append(rng.choice(_CELLS))
        elif action == 1 and row:
            row.pop()
        elif action == 2:
            rows = rows[: rng.choice((1, 2, 3, 12))]
        elif action == 3:
            column = rng.randrange(len(rows[0]) or 1)
            cell = rng.choice(_CELLS)
            rows = [rows[0], *([*r[:column], cell, *r[column + 1 :]] for r in rows[1:])]
        elif action == 4:
            rows = rows[:1] + rows[1:2] * rng.choice((1, 30))
        elif row:
            row[rng.randrange(len(row))] = rng.choice(_CELLS)
    return ("\n".join(separator.join(row) for row in rows) + "\n").encode()


_DTYPES = ("<f8", "|O", "<U4", "|S0", "|V0", "<c16", ">f4", "|b1", "<M8[s]", "<f16", "x", 3, [("a", "<f8")])
_SHAPES = (
    *((10**12, 2), (2, 10**12), (0, 2), (30, 0), (0, 10**12), (60,), (), (-30, -2), (30, 2, 1), (10**12, 0)),
    *((True, 60), "x", (1, 60), (60, 1), (2**62, 4)),
)


def _header(rng: random.Random) -> dict[str, Any]:
    """What an array declares of itself, one entry of it changed."""
    header = {"descr": "<f8", "fortran_order": False, "shape": (30, 2)}
    name, values = rng.choice((("descr", _DTYPES), ("shape", _SHAPES), ("fortran_order", (True, None, 1))))
    return {**header, name: rng.choice(values)}


def mutate_npy(data: bytes, rng: random.Random) -> bytes:
    """An array whose header declares something else, or whose bytes are others."""
    if rng.random() < 0.4:
        return mutate_bytes(data, rng)
    text = repr(_header(rng)).encode().ljust(117) + b"\n"
    body = (
        data[128:] if rng.random() < 0.8 else np.full(60, rng.choice((np.nan, np.inf, 0.0, 1e300))).tobytes()
    )
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def npz_of(member: bytes) -> bytes:
    """An archive with one member, of those bytes."""
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x.npy", member)
    return buffer.getvalue()
