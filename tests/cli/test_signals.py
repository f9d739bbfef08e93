"""SIGTERM and SIGHUP: how a verb ends by them, and whose handlers are left alone."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.commands import tree
from jkoflow.cli import main
from jkoflow.cli.signals import ended_by_signals
from jkoflow.model import Model

SIGNALS = [signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def _plain() -> Iterator[None]:
    """The handlers of a fresh process, whatever those of the test's own are."""
    before = [(number, signal.signal(number, signal.SIG_DFL)) for number in SIGNALS]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_verb_ends_with_a_line_and_128_and_the_number(
    number: signal.Signals,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(self: Model, *arguments: object, **options: object) -> None:
        os.kill(os.getpid(), number)

    monkeypatch.setattr(Model, "sample", interrupted)
    before = tree(finished / "run")
    assert (
        main(["sample", str(finished / "run"), "-n", "3", "-o", str(tmp_path / "rows.csv")]) == 128 + number
    )
    line = f"jkoflow: {number.name}: interrupted; every file is whole, or as it was\n"
    assert capsys.readouterr() == ("", line)
    assert list(tmp_path.iterdir()) == []
    assert tree(finished / "run") == before
    assert [signal.getsignal(number) for number in SIGNALS] == [signal.SIG_DFL] * 2


@pytest.mark.parametrize("number", SIGNALS)
def test_second_signal_does_not_cut_the_end_short(number: signal.Signals) -> None:
    steps = []
    with ended_by_signals() as ending:
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            for other in SIGNALS:
                os.kill(os.getpid(), other)
            steps.append("closed")
    assert steps == ["closed"]
    assert (ending.by, ending.status) == (number, 128 + number)


def test_ctrl_c_is_still_told_as_such() -> None:
    with ended_by_signals() as ending, pytest.raises(KeyboardInterrupt):
        raise KeyboardInterrupt
    assert (ending.prefix, ending.status) == ("", 130)


def test_ignored_signal_stays_ignored_and_a_foreign_handler_stays() -> None:
    seen: list[int] = []
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    with ended_by_signals() as ending:
        for number in SIGNALS:
            os.kill(os.getpid(), number)
    assert seen == [signal.SIGTERM]
    assert ending.by is None
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_verb_in_a_thread_of_its_own_leaves_the_handlers_alone(capsys: pytest.CaptureFixture[str]) -> None:
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(main(["--version"])))
    thread.start()
    thread.join(timeout=60)
    assert statuses == [0]
    assert capsys.readouterr().out.startswith("jkoflow ")
