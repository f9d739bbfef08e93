"""What a fit ran on: versions and processor, for whoever has to repeat it; never host names, users or paths.

    same environment ∧ same seed ∧ same table  ⇒  same model, bit for bit

Source: PyTorch documentation, "Reproducibility": results need not agree between releases or platforms.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

__all__ = ["environment", "environment_changes"]

_PACKAGES = (
    "jkoflow",
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "pyarrow",
    "safetensors",
    "torchdiffeq",
)


def environment() -> dict[str, Any]:
    """Return versions, platform, instruction set, threads and CUDA devices, ready for `environment.json`."""
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "system": platform.system(),
        "machine": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "devices": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def environment_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    """Return one short line for every entry that differs, such as `torch 2.12.0, now 2.13.0`."""
    old, new = _flat(before), _flat(after)
    return tuple(f"{key} {old.get(key)}, now {new[key]}" for key in new if old.get(key) != new[key])


def _flat(entries: Mapping[str, Any]) -> dict[str, Any]:
    flat = {key: value for key, value in entries.items() if key not in ("packages", "format")}
    packages = entries.get("packages")
    return {**flat, **packages} if isinstance(packages, Mapping) else flat


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
