"""Autoregressive blocks: triangular maps whose conditionals are mixtures that a masked network moves."""

from jkoflow.blocks.autoregressive.block import AutoregressiveBlock
from jkoflow.blocks.autoregressive.family import AutoregressiveFamily, AutoregressiveRules

__all__ = ["AutoregressiveBlock", "AutoregressiveFamily", "AutoregressiveRules"]
