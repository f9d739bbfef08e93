"""Laws with known densities: the ends of a flow, and shapes whose KL to a model can be computed.

    log q(x) = -V(x) - log Z

`LAWS` names them, and `make_law` builds one by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType

from jkoflow.errors import InputError
from jkoflow.laws.background import Background
from jkoflow.laws.base import Entropy, Law
from jkoflow.laws.checkerboard import Checkerboard
from jkoflow.laws.log_cosh import LogCosh
from jkoflow.laws.mixture import GaussianMixture
from jkoflow.laws.normal import StandardNormal
from jkoflow.laws.quadratic import Gaussian
from jkoflow.laws.rings import Rings
from jkoflow.laws.rose import rose
from jkoflow.laws.tree import tree
from jkoflow.storage.entries import brief

__all__ = [
    "LAWS",
    "Background",
    "Checkerboard",
    "Entropy",
    "Gaussian",
    "GaussianMixture",
    "Law",
    "Rings",
    "StandardNormal",
    "check_law",
    "law_named",
    "make_law",
    "rose",
    "tree",
]

LAWS: Mapping[str, Callable[..., Law]] = MappingProxyType(
    {
        "standard_normal": StandardNormal,
        "gaussian": Gaussian,
        "gaussian_mixture": GaussianMixture,
        "checkerboard": Checkerboard,
        "rings": Rings,
        "rose": rose,
        "tree": tree,
        "log_cosh": LogCosh,
    }
)
"""Every law of this package by name."""


_MISMATCH = (TypeError, ValueError, AttributeError, ArithmeticError, LookupError, RuntimeError, MemoryError)
"""What Python, numpy and torch raise for numbers of another kind or shape."""


def make_law(name: str, **options: object) -> Law:
    """Build a law by its name.

    Arguments:
        name: A key of `LAWS`.
        options: The law's own arguments, such as `dim=2` for `"standard_normal"`.

    Raises:
        InputError: An unknown name, an option that this law does not have, or one that is missing.
    """
    if name not in LAWS:
        raise InputError(f"law: expected one of {', '.join(sorted(LAWS))}, got {name!r}")
    signature = inspect.signature(LAWS[name])
    try:
        signature.bind(**options)
    except TypeError as mismatch:
        expected = ", ".join(signature.parameters) or "no options"
        raise InputError(f"law {name!r}: expected {expected}; {mismatch}") from None
    try:
        return LAWS[name](**options)
    except InputError:
        raise
    except _MISMATCH:
        expected = ", ".join(signature.parameters)
        raise InputError(
            f"law {name!r}: expected {expected} of the kinds that they have, got {brief(options)}"
        ) from None


def check_law(option: str | Mapping[str, object]) -> None:
    """Refuse an option `law` that names no law.

    Raises:
        InputError: There is none of that name.
    """
    kind = option if isinstance(option, str) else option.get("kind")
    if not isinstance(kind, str) or kind not in LAWS:
        raise InputError(
            f"law: expected one of {', '.join(sorted(LAWS))}, or a table with kind, got {brief(option)}"
        )


def law_named(option: str | Mapping[str, object], dim: int) -> Law:
    """The law that a flow of `dim` columns ends in, by the option `law`.

    Arguments:
        option: A key of `LAWS`, or a table with `kind` and that law's own arguments.
        dim: d, which the law's own `dim` is where it has that argument.

    Raises:
        InputError: An unknown law, wrong arguments of it, or a law of another dimension.
    """
    check_law(option)
    given: dict[str, object] = {"kind": option} if isinstance(option, str) else dict(option)
    kind = given.pop("kind")
    if "dim" in inspect.signature(LAWS[str(kind)]).parameters:
        given.setdefault("dim", dim)
    law = make_law(str(kind), **given)
    if law.dim != dim:
        raise InputError(f"law: expected one of {dim} columns, got {kind} of {law.dim}")
    return law
