"""Methods: which steps a fit takes, in what order, until when; one file each, found by name.

Source: docs/method.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from jkoflow.errors import InputError
from jkoflow.methods.automatic import automatic
from jkoflow.methods.base import Job, Method
from jkoflow.methods.end_to_end import end_to_end
from jkoflow.methods.flow_matching import flow_matching
from jkoflow.methods.jko import jko

__all__ = ["METHODS", "Job", "Method", "method_named"]

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "auto": automatic,
        "jko": jko,
        "end_to_end": end_to_end,
        "flow_matching": flow_matching,
    }
)
"""Every method by the name that the option `objective` gives it."""


def method_named(name: str) -> Method:
    """The method of that name.

    Raises:
        InputError: There is none.
    """
    if name not in METHODS:
        raise InputError(f"objective: expected one of {list(METHODS)}, got {name!r}")
    return METHODS[name]
