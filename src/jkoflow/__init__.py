"""jkoflow: a table of numbers in, samples and exact log-likelihoods out, by the JKO flow.

A flow T_N o ... o T_1 trained block by block, each block one Wasserstein-2 proximal step of KL(. | N(0, I)):
Cheng, Lu, Tan & Xie (2024), "Convergence of flow-based generative models via proximal gradient descent in
Wasserstein space", arXiv 2310.17582.

A name's module is loaded when the name is first used (PEP 562): `jkoflow --help` need not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jkoflow.blocks import AffineBlock, Block, MixtureBlock, NeuralODEBlock
    from jkoflow.config import Settings
    from jkoflow.data import Schema
    from jkoflow.errors import InputError, JKOFlowError, NumericalError, RunFolderError
    from jkoflow.estimator import JKOFlow
    from jkoflow.flow import Flow
    from jkoflow.laws import Law, make_law
    from jkoflow.model import Model
    from jkoflow.particles import Particles

__all__ = [
    "AffineBlock",
    "Block",
    "Flow",
    "InputError",
    "JKOFlow",
    "JKOFlowError",
    "Law",
    "MixtureBlock",
    "Model",
    "NeuralODEBlock",
    "NumericalError",
    "Particles",
    "RunFolderError",
    "Schema",
    "Settings",
    "make_law",
]

_HOMES = {
    "blocks": ("AffineBlock", "Block", "MixtureBlock", "NeuralODEBlock"),
    "config": ("Settings",),
    "data": ("Schema",),
    "errors": ("InputError", "JKOFlowError", "NumericalError", "RunFolderError"),
    "estimator": ("JKOFlow",),
    "flow": ("Flow",),
    "laws": ("Law", "make_law"),
    "model": ("Model",),
    "particles": ("Particles",),
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        return import_module("importlib.metadata").version("jkoflow")
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module 'jkoflow' has no attribute {name!r}")
    return getattr(import_module(f"jkoflow.{home}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
