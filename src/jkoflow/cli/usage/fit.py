"""What `jkoflow fit` takes, and what it tells about itself."""

from __future__ import annotations

import argparse

__all__ = ["DESCRIPTION", "EPILOG", "add_options"]

DESCRIPTION = """\
Train a model on TABLE and keep the run in the folder RUN.

Every numeric column is learned, jointly. A tenth of the rows is held out and judges the result; another
tenth stops the training. Without --budget the fit ends by itself: it takes seconds for 500 rows, minutes for
50,000.
"""

EPILOG = """\
examples:
  jkoflow fit table.csv -o run
  jkoflow fit table.csv -o run --resume              go on after an interruption; starts where there is no run
  jkoflow fit table.csv -o run --context age,dose    the law of the other columns, given these two
  jkoflow fit table.csv -o run --weights w           rows count by the column w, which is not learned
  jkoflow fit table.csv -o run --budget 600          as good as 10 minutes of processor time allow
  torchrun --nproc-per-node 4 -m jkoflow fit table.parquet -o run
                                                     the same model by four processes, for large tables

what appears in RUN:
  model/             the model: config.json, schema.json, model.safetensors, README.md
  run.json           settings, seed, the table's path and SHA-256, results; never the rows
  steps.jsonl        a line for each decision and each block: step size, loss terms, validation NLL, transport
  checkpoints/       what --resume goes on from
  environment.json   versions

a settings file (TOML), each line optional:
  max_blocks = 12                   # most blocks
  gamma = "auto"                    # or a number, or {kind = "geometric", first = 0.25, growth = 1.4}
  objective = "auto"                # or "jko": each block by descent on the proximal objective alone;
                                    # or, to compare with, "end_to_end" or "flow_matching"
  block = "neural_ode"              # or "affine", or {kind = "zuko", transform = "MAF"}
  law = "standard_normal"           # the law at the end; with objective = "jko" also "log_cosh"
  closing = "auto"                  # or "none": blocks alone, no closing by a Gaussian mixture
  smoothing = 0.05                  # a W2 distance in standard deviations; none by default
  holdout_fraction = 0.1
  validation_fraction = 0.1
  dtype = "float32"
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("table", metavar="TABLE", help=".csv, .tsv, .parquet, .npy or .npz")
    parser.add_argument("-o", "--output", metavar="RUN", required=True, help="folder of the run")
    parser.add_argument("--config", metavar="F", help="settings as TOML; an unknown key is an error")
    parser.add_argument("--seed", metavar="N", type=int, help="seed of all randomness (default 0)")
    parser.add_argument("--budget", metavar="CPU_SECONDS", type=float, help="processor time for the fit")
    parser.add_argument("--device", metavar="D", help="auto (default), cpu or cuda")
    parser.add_argument("--context", metavar="COLS", help="columns to condition on, separated by commas")
    parser.add_argument("--weights", metavar="COL", help="column that says how much each row counts, >= 0")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="go on with the run in RUN, or start it")
    existing.add_argument("--overwrite", action="store_true", help="replace the run in RUN")
