"""jkoflow: a table of numbers in, samples and exact log-likelihoods out, by the JKO flow.

A flow T_N o ... o T_1 trained block by block, each block one Wasserstein-2 proximal step of KL(. | N(0, I)):
Cheng, Lu, Tan & Xie (2024), "Convergence of flow-based generative models via proximal gradient descent in
Wasserstein space", arXiv 2310.17582.
"""

from __future__ import annotations

import importlib.metadata

from jkoflow.blocks import AffineBlock, Block, NeuralODEBlock
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
    "Model",
    "NeuralODEBlock",
    "NumericalError",
    "Particles",
    "RunFolderError",
    "Schema",
    "Settings",
    "make_law",
]

__version__ = importlib.metadata.version("jkoflow")
