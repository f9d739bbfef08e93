"""Autoregressive blocks: triangular maps whose conditionals are mixtures that a masked network moves."""

from jkoflow.blocks.autoregressive.block import AutoregressiveBlock
from jkoflow.blocks.autoregressive.family import AutoregressiveFamily, AutoregressiveRules
from jkoflow.blocks.autoregressive.leaf_rules import LeafRules

__all__ = ["AutoregressiveBlock", "AutoregressiveFamily", "AutoregressiveRules", "LeafRules"]
