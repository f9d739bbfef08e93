"""Settings of a fit: frozen, validated, plain names that registries resolve; an unknown key is an error."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from jkoflow.counts import checked_count
from jkoflow.errors import InputError
from jkoflow.storage import open_regular, shown
from jkoflow.storage.entries import brief

__all__ = ["ADDED", "CHOICES", "RETIRED", "Settings"]

CHOICES: dict[str, tuple[str | None, ...]] = {
    "closing": ("auto", "none", None),
    "divergence": ("auto", "determinant", "exact", "hutchinson"),
    "dtype": ("float32", "float64"),
}
"""What each named option may be, but for those whose names are in registries: `objective`, `block`, `law`."""

ADDED: dict[str, Any] = {"closing": "auto", "law": "standard_normal"}
"""Options that a record of version 0.1.0 does not have, with what its fits did."""

RETIRED: dict[str, Any] = {"scheme": "backward", "velocity": "mlp"}
"""Options that a record of version 0.1.0 has and that had one value."""


@dataclass(frozen=True)
class Settings:
    """The options of one fit, those of `JKOFlow` by the same names.

    Arguments:
        gamma: Step sizes: `"auto"`, a number (constant), or a table with `kind`; see `schedule`.
        max_blocks: Most blocks.
        objective: The method: `"auto"` (blocks started by regression), `"jko"` (the proximal objective alone,
            as in the paper), `"end_to_end"` (all blocks at once on the likelihood) or `"flow_matching"` (one
            block on straight paths).
        closing: Where step sizes are automatic, `"auto"` ends each round of blocks with the map of a Gaussian
            mixture where validation rows want it; None, or `"none"` in a file, is the flow of blocks alone.
        block: Kind of block, a name or a table with `kind` and that kind's own options.
        law: The law that the flow ends in, a name or a table with `kind` and that law's own arguments.
        divergence: How training sees the log-determinant; scoring always uses the discrete map's determinant.
        smoothing: None, a W2 distance `delta` in standardised units, or a table with `kind` and `time` or
            `delta`.
        validation_fraction: Share of the rows that early stopping and choices look at.
        holdout_fraction: Share of the rows that no part of the fit looks at.
        budget: CPU-seconds for the fit; None for the documented limit in updates.
        dtype: `"float32"` or `"float64"`.
        device: `"auto"`, `"cpu"`, `"cuda"`, ...
        seed: Seed of every source of randomness.
    """

    gamma: Any = "auto"
    max_blocks: int = 16
    objective: str = "auto"
    closing: str | None = "auto"
    block: Any = "neural_ode"
    law: Any = "standard_normal"
    divergence: str = "auto"
    smoothing: Any = None
    validation_fraction: float = 0.1
    holdout_fraction: float = 0.0
    budget: float | None = None
    dtype: str = "float32"
    device: str = "auto"
    seed: int = 0

    most_blocks: ClassVar[int] = 10_000
    """Most blocks that may be asked for."""

    endless: ClassVar[float] = 1e12
    """CPU-seconds that no budget reaches; None is the budget without an end."""

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise InputError(f"{name}: expected one of {list(known)}, got {brief(getattr(self, name))}")
        if not isinstance(self.objective, str):
            raise InputError(
                f"objective: expected a name such as 'auto' or 'jko', got {brief(self.objective)}"
            )
        for name in ("block", "law"):
            if not isinstance(getattr(self, name), str | Mapping):
                raise InputError(
                    f"{name}: expected a name, or a table with kind, got {brief(getattr(self, name))}"
                )
        limits = (("max_blocks", 1, self.most_blocks), ("seed", None, None))
        for name, least, most in limits:  # whole numbers of Python, so that JSON can hold them
            count = checked_count(getattr(self, name), name, least=least, most=most)
            object.__setattr__(self, name, count)
        for name in ("validation_fraction", "holdout_fraction"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value < 1:
                raise InputError(f"{name}: expected a share in [0, 1), got {brief(value)}")
        if self.validation_fraction == 0 or self.validation_fraction + self.holdout_fraction > 0.9:
            raise InputError(
                "validation_fraction: expected > 0 and at most 0.9 together with holdout_fraction,"
                f" got {self.validation_fraction} and {self.holdout_fraction}"
            )
        if self.budget is not None and not (_is_number(self.budget) and 0 < self.budget < self.endless):
            raise InputError(f"budget: expected CPU-seconds > 0 or None, got {brief(self.budget)}")
        if not isinstance(self.device, str):
            raise InputError(
                f"device: expected a name such as 'auto', 'cpu' or 'cuda', got {brief(self.device)}"
            )

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> Settings:
        """Settings from a mapping; a key that is not an option is refused.

        Raises:
            InputError: An unknown key or a value out of range.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise InputError(f"settings: unknown option {brief(unknown[0])}; known: {', '.join(known)}")
        return cls(**options)

    @classmethod
    def from_record(cls, options: Mapping[str, Any]) -> Settings:
        """Settings as a model or a run of this version, or of 0.1.0, has them.

        Raises:
            InputError: An unknown key or a value out of range.
        """
        kept = {
            key: value for key, value in options.items() if RETIRED.get(key) != value or key not in RETIRED
        }
        return cls.from_mapping(kept)

    @classmethod
    def from_toml(
        cls, path: Path, *, defaults: Mapping[str, Any] | None = None, **overrides: Any
    ) -> Settings:
        """Settings from a TOML file, with `overrides` on top and `defaults` below.

        Raises:
            InputError: The file cannot be read or is not TOML; an unknown key or a value out of range.
        """
        return cls.from_mapping({**(defaults or {}), **_read_toml(path), **overrides})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON holds them."""
        return asdict(self)

    def with_options(self, **options: Any) -> Settings:
        """The same settings but for `options`."""
        return replace(self, **options)


def _read_toml(path: Path, *, most: int = 2**20) -> dict[str, Any]:
    """The options in a file; one of more than `most` bytes is no file of options."""
    try:
        with open_regular(path) as file:
            content = file.read(most + 1)
    except OSError as failure:
        raise InputError(f"config: cannot read {shown(path)}: {failure.strerror}") from None
    if len(content) > most:
        raise InputError(f"config: {shown(path)}: expected at most {most:,} bytes of TOML, got more")
    try:
        return tomllib.loads(content.decode())
    except RecursionError:
        raise InputError(f"config: {shown(path)}: its tables are nested too deep; write them flat") from None
    except ValueError as failure:  # not UTF-8, not TOML, or a whole number of thousands of digits
        raise InputError(f"config: {shown(path)} is not TOML: {failure}") from None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
