"""What `environment.json` holds, and what it must not."""

from __future__ import annotations

import getpass
import json
import platform
import socket
import sys
from pathlib import Path

import torch

from jkoflow.runs import environment, environment_changes
from jkoflow.storage import read_json, write_json_atomic


def test_versions_and_threads_are_those_of_this_process() -> None:
    found = environment()
    assert found["python"] == platform.python_version()
    assert found["packages"]["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["packages"]["jkoflow"] is not None


def test_nothing_of_the_person_or_the_machine_is_told() -> None:
    text = json.dumps(environment())
    for secret in (socket.gethostname(), str(Path.home()), sys.prefix, str(Path.cwd())):
        assert secret not in text
    assert "/" not in text
    assert f'"{getpass.getuser()}"' not in text


def test_nothing_changes_through_a_file(tmp_path: Path) -> None:
    write_json_atomic(tmp_path / "environment.json", environment())
    assert environment_changes(read_json(tmp_path / "environment.json"), environment()) == ()


def test_each_change_is_one_short_line() -> None:
    before = {**environment(), "threads": 64, "packages": {**environment()["packages"], "numpy": "1.0"}}
    changes = environment_changes(before, environment())
    assert sorted(change.split(",")[0] for change in changes) == ["numpy 1.0", "threads 64"]


def test_package_that_is_not_installed_is_none() -> None:
    from jkoflow.runs.environment import _version

    assert _version("no-such-package-here") is None
