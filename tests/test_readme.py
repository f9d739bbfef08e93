"""Every code block of the README runs, in order, from an empty folder.

    ```python    executed; the blocks share one namespace, as in one session
    ```bash      executed until a line fails
    ```console   the lines that begin with `$ ` are executed; the others show output and are not compared
    ```toml      written to the file that its first line names, as in `# settings.toml`
    ```text      shown only
    ```sh        not executed, only for what cannot run here: the first line is `# not run by the tests: WHY`,
                 every other one begins with `make`, `git clone` or `cd`, and each `make` target must exist

Any other fence fails, so that no code can be left out by accident.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOT_RUN = "# not run by the tests: "
SECONDS = 600

SESSION = """
import json, subprocess, sys
from pathlib import Path

namespace = {"__name__": "__main__"}
for language, line, code in json.load(sys.stdin):
    print(f"README.md:{line}", flush=True)
    if language == "python":
        exec(compile("\\n" * (line - 1) + code, "README.md", "exec"), namespace)
    elif language == "toml":
        Path(code.splitlines()[0].removeprefix("# ")).write_text(code)
    else:
        subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True, stdin=subprocess.DEVNULL)
"""
"""What runs the blocks, in a process of its own: a reader's session has none of pytest's settings."""


@dataclass(frozen=True)
class Fence:
    """One fenced block: its language, the README's line on which its code begins, and its code."""

    language: str
    line: int
    code: str


def read_fences(text: str) -> list[Fence]:
    """The fenced blocks of a Markdown text in order; an unclosed fence raises."""
    fences: list[Fence] = []
    language, start, lines = None, 0, []
    for number, line in enumerate(text.splitlines(), start=1):
        if language is None and (opened := re.match(r"\s*```(.*)$", line)):
            language, start, lines = opened[1].strip(), number + 1, []
        elif language is not None and line.strip() == "```":
            fences.append(Fence(language, start, textwrap.dedent("\n".join(lines))))
            language = None
        elif language is not None:
            lines.append(line)
    assert language is None, f"README.md:{start - 1}: the fence is not closed"
    return fences


def shell_script(fence: Fence) -> str:
    """The commands of a `bash` or `console` block."""
    if fence.language == "bash":
        return fence.code
    return "\n".join(line.removeprefix("$ ") for line in fence.code.splitlines() if line.startswith("$ "))


def check_not_run(fence: Fence, targets: set[str]) -> None:
    """An `sh` block may only hold the commands that make the environment in which the tests run."""
    reason, *commands = fence.code.splitlines()
    assert reason.startswith(NOT_RUN), f"README.md:{fence.line}: expected {NOT_RUN!r} on the first line"
    assert reason.removeprefix(NOT_RUN).strip(), f"README.md:{fence.line}: say why it is not run"
    for command in commands:
        words = command.split("#")[0].split()
        assert not words or words[0] in {"make", "cd"} or words[:2] == ["git", "clone"], (
            f"README.md:{fence.line}: {command!r} can run, so it belongs in a bash block"
        )
        if words and words[0] == "make":
            assert set(words[1:]) <= targets, f"README.md:{fence.line}: the Makefile has no {words[1:]}"


def runnable(fences: list[Fence], targets: set[str]) -> list[tuple[str, int, str]]:
    """(language, line, code) of the fences to execute, after each has been held to the rules above."""
    to_run = []
    for fence in fences:
        assert fence.language in {"python", "bash", "console", "toml", "text", "sh"}, (
            f"README.md:{fence.line}: {fence.language!r} is not a fence that this test knows"
        )
        if fence.language == "sh":
            check_not_run(fence, targets)
        elif fence.language == "toml":
            assert re.match(r"# [\w-]+\.toml\n", fence.code), (
                f"README.md:{fence.line}: name the file: # NAME.toml"
            )
        if fence.language in {"bash", "console"}:
            to_run.append((fence.language, fence.line, shell_script(fence)))
        elif fence.language in {"python", "toml"}:
            to_run.append((fence.language, fence.line, fence.code))
    return to_run


def execute(blocks: list[tuple[str, int, str]], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the blocks in `folder`, with the commands of this environment first on PATH."""
    path = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [sys.executable, "-c", SESSION],
        input=json.dumps(blocks),
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def test_every_block_of_the_readme_runs(tmp_path: Path) -> None:
    blocks = runnable(read_fences((ROOT / "README.md").read_text()), make_targets())
    finished = execute(blocks, tmp_path)
    assert finished.returncode == 0, finished.stdout


def test_pictures_and_files_that_the_readme_links_to_exist() -> None:
    links = re.findall(r"\]\(([^)#\s]+)", (ROOT / "README.md").read_text())
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


SAMPLE = """
```python
number = 6 * 7
```
```toml
# settings.toml
seed = 3
```
```console
$ cat settings.toml > copy.toml
this is output
```
  ```bash
  grep -q seed copy.toml
  ```
```python
assert number == 42
open("done", "w").close()
```
"""


def test_blocks_share_a_folder_and_a_namespace(tmp_path: Path) -> None:
    finished = execute(runnable(read_fences(SAMPLE), set()), tmp_path)
    assert finished.returncode == 0, finished.stdout
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize(
    ("block", "line"), [("```python\n\n1 / 0\n```", 3), ("```bash\nfalse\ntrue\n```", 2)]
)
def test_a_failing_block_is_named_by_its_line(block: str, line: int, tmp_path: Path) -> None:
    finished = execute(runnable(read_fences(block), set()), tmp_path)
    assert finished.returncode != 0
    assert re.search(rf"README.md(:|\", line ){line}\b", finished.stdout)


@pytest.mark.parametrize(
    "block",
    [
        "```sh\nmake demo\n```",
        f"```sh\n{NOT_RUN}\nmake demo\n```",
        f"```sh\n{NOT_RUN}it trains\njkoflow fit t.csv -o run\n```",
        f"```sh\n{NOT_RUN}it trains\nmake no-such-target\n```",
        "```\nls\n```",
        "```toml\nseed = 3\n```",
        "```python\nunclosed = True\n",
    ],
)
def test_a_block_cannot_be_left_out_by_accident(block: str) -> None:
    with pytest.raises(AssertionError, match=r"README\.md:"):
        runnable(read_fences(block), {"demo", "test"})
