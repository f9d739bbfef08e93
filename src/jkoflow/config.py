"""Settings of a fit: frozen, validated, plain names that registries resolve; an unknown key is an error."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from jkoflow.counts import checked_count
from jkoflow.errors import InputError

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
            mixture where held-out rows want it; None, or `"none"` in a file, is the flow of blocks alone.
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

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise InputError(f"{name}: expected one of {list(known)}, got {getattr(self, name)!r}")
        if not isinstance(self.objective, str):
            raise InputError(f"objective: expected a name such as 'auto' or 'jko', got {self.objective!r}")
        for name in ("block", "law"):
            if not isinstance(getattr(self, name), str | Mapping):
                raise InputError(
                    f"{name}: expected a name, or a table with kind, got {getattr(self, name)!r}"
                )
        for name, least in (("max_blocks", 1), ("seed", None)):  # of Python, so that JSON can hold them
            object.__setattr__(self, name, checked_count(getattr(self, name), name, least=least))
        for name in ("validation_fraction", "holdout_fraction"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value < 1:
                raise InputError(f"{name}: expected a share in [0, 1), got {value!r}")
        if self.validation_fraction == 0 or self.validation_fraction + self.holdout_fraction > 0.9:
            raise InputError(
                "validation_fraction: expected > 0 and at most 0.9 together with holdout_fraction,"
                f" got {self.validation_fraction} and {self.holdout_fraction}"
            )
        if self.budget is not None and (not _is_number(self.budget) or not self.budget > 0):
            raise InputError(f"budget: expected CPU-seconds > 0 or None, got {self.budget!r}")
        if not isinstance(self.device, str):
            raise InputError(f"device: expected a name such as 'auto', 'cpu' or 'cuda', got {self.device!r}")

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> Settings:
        """Settings from a mapping; a key that is not an option is refused.

        Raises:
            InputError: An unknown key or a value out of range.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise InputError(f"settings: unknown option {unknown[0]!r}; known: {', '.join(known)}")
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
        """Settings from a TOML file, with `overrides` on top and `defaults` below."""
        try:
            options = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as failure:
            raise InputError(f"config: cannot read {path}: {failure.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as failure:
            raise InputError(f"config: {path} is not TOML: {failure}") from None
        return cls.from_mapping({**(defaults or {}), **options, **overrides})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON holds them."""
        return asdict(self)

    def with_options(self, **options: Any) -> Settings:
        """The same settings but for `options`."""
        return replace(self, **options)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
