"""`python -m jkoflow` is the command `jkoflow`."""

from __future__ import annotations

import sys

from jkoflow.cli import main

if __name__ == "__main__":
    sys.exit(main())
