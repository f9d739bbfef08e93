"""What a fit has decided and done, in order: replayed on resume, and the only part that reads a clock.

decide · step -> on record before it takes effect;    resumed fit = record, then the rest
"""

from __future__ import annotations

from jkoflow.journal.clock import Stopwatch
from jkoflow.journal.journal import Journal
from jkoflow.journal.pace import Pace
from jkoflow.journal.shares import UpdateShares
from jkoflow.journal.taken import Solution, Taken

__all__ = ["Journal", "Pace", "Solution", "Stopwatch", "Taken", "UpdateShares"]
