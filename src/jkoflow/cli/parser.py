"""The options of every verb, and the help that explains them; a verb's own code is loaded when it runs.

    jkoflow VERB ARGUMENTS [--debug]

Source: ours; an option that is not built is not listed.
"""

from __future__ import annotations

import argparse
from functools import partial
from importlib import import_module
from importlib.metadata import version
from typing import NoReturn

from jkoflow.cli import usage
from jkoflow.cli.processes import require_one_process
from jkoflow.errors import InputError

__all__ = ["build_parser"]

_SUMMARY = """\
New rows like those of your table, and the exact log-likelihood of any row, by a normalizing flow that is
trained one Wasserstein proximal step at a time.

verbs:
  fit      train a model on a table; the run is kept in a folder
  sample   draw new rows from a model
  score    log-likelihood of each row of a table, in nats
  certify  how far a model is from the data, and how one knows
  report   one HTML page about a finished run
  demo     all of it on a real data set, in about eight minutes

`jkoflow VERB --help` explains a verb.
"""

_EXAMPLES = """\
an example, from table to answers:
  jkoflow fit table.csv -o run
  jkoflow sample run -n 1000 -o new_rows.csv
  jkoflow score run table.csv -o scores.csv
  jkoflow certify run
  jkoflow report run

tables:
  .csv, .tsv, .parquet, .npy or .npz, all columns numeric, at least 10 distinct rows. Integer columns and
  columns recorded on a grid are dequantised, which the summary tells.

units:
  Log-likelihoods are in nats, for densities in the units of the table. Loss terms, transport and round-trip
  errors are of standardised columns (mean 0, standard deviation 1).

exit status:
  0 done      1 under certify --strict: a claim fails, or nothing is known
  2 wrong usage or input      3 numerical failure
  4 a run folder or file that is missing, damaged, locked or already there; a full disk; under torchrun,
    another process that is gone
  130, 143, 129 interrupted by Ctrl-C, SIGTERM, SIGHUP; a fit goes on with --resume
  An error is one line on stderr; --debug adds the traceback.
"""


class _Parser(argparse.ArgumentParser):
    """Refuses wrong usage with one line, as all of jkoflow does."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


_VERBS = {
    "fit": usage.fit,
    "sample": usage.sample,
    "score": usage.score,
    "certify": usage.certify,
    "report": usage.report,
    "demo": usage.demo,
}

_SHARED_VERBS = ("fit", "sample", "score")
"""Those that several processes may run together."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command `jkoflow`.

    Its `parse_args` raises `InputError` for wrong usage, and else returns options with `run_verb`, to be
    called with them; it returns the exit status.
    """
    layout = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        prog="jkoflow",
        usage="jkoflow VERB ...",
        description=_SUMMARY,
        epilog=_EXAMPLES,
        formatter_class=layout,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"jkoflow {version('jkoflow')}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    verbs = parser.add_subparsers(prog="jkoflow", metavar="VERB", help=argparse.SUPPRESS)
    parser.set_defaults(run_verb=_without_verb)
    for name, verb in _VERBS.items():
        verb_parser = verbs.add_parser(
            name,
            description=verb.DESCRIPTION,
            epilog=verb.EPILOG,
            formatter_class=layout,
            allow_abbrev=False,
        )
        verb.add_options(verb_parser)
        verb_parser.add_argument(
            "--debug",
            action="store_true",
            default=argparse.SUPPRESS,  # or it would undo a --debug before the verb
            help="show the traceback of an error",
        )
        verb_parser.set_defaults(run_verb=partial(_run_verb, name))
    return parser


def _run_verb(name: str, options: argparse.Namespace) -> int:
    """Run a verb: what it returns is the exit status, 0 where it returns nothing."""
    if name not in _SHARED_VERBS:
        require_one_process(name)
    verb = import_module(f"jkoflow.cli.{name}")
    from jkoflow.global_state import default_state  # not at the top: --help need not wait for torch

    with default_state():
        return int(verb.run(options) or 0)


def _without_verb(options: argparse.Namespace) -> NoReturn:
    del options
    raise InputError(f"expected a verb, one of {', '.join(_VERBS)}; see jkoflow --help")
