"""The architecture as a test: import order, size, public names, and nothing in src that runs data as code."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "jkoflow"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 400

ORDER = (
    "errors",
    "config",
    "runtime",
    "storage",
    # the material
    "data",
    "laws",
    "particles",
    "exact",
    "bounds",
    # one block
    "blocks",
    # many blocks
    "flow",
    "first_order",
    # learning
    "objective",
    "schedule",
    "budget",
    "descent",
    "warm_start",
    "step",
    "solver_steps",
    "proximal",
    "fit",
    "gaussian_step",
    "expectation_maximisation",
    "closing_search",
    "closing",
    "recipe",
    "pilot",
    "pace",
    "passes",
    "end_to_end",
    "training",
    # store and readers
    "model",
    "runs",
    "pipeline",
    "certify",
    "report",
    "estimator",
    "cli",
)
"""A module (or folder) imports only from those before it; the package's `__init__`, `__main__` from any."""

EXEMPT = {"__init__", "__main__"}
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_NAMES = {"eval", "exec", "__import__"}
UNSAFE_CALLS = {"torch.load", "torch.save", "pd.read_pickle", "pandas.read_pickle", "np.fromfile"}


def part_of(path: Path) -> str:
    """The entry of ORDER that a module belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Every dotted name that is imported anywhere in a module, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the order"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def wrong_imports(part: str, source: str) -> list[str]:
    """What `part` imports from later parts, from the package's root, or from where ORDER names nothing."""
    earlier = ORDER[: ORDER.index(part) + 1]
    names = (name.split(".") for name in imported_names(ast.parse(source)))
    return [".".join(n) for n in names if n[0] == "jkoflow" and (len(n) < 2 or n[1] not in earlier)]


def unsafe_uses(source: str) -> list[str]:
    """What in a module could run data as code."""
    tree = ast.parse(source)
    found = [name for name in imported_names(tree) if name.split(".")[0] in UNSAFE_MODULES]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in UNSAFE_NAMES | UNSAFE_CALLS or name.endswith(".to_pickle"):
                found.append(name)
            found += [
                "allow_pickle"
                for keyword in node.keywords
                if keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False"
            ]
    return found


def public_names(module: ModuleType) -> list[str]:
    """The names that a star import would bring were there no `__all__`, modules aside."""
    return [n for n, v in vars(module).items() if not n.startswith("_") and not isinstance(v, ModuleType)]


def relative_name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", MODULES, ids=relative_name)
def test_module_imports_only_from_those_before_it(path: Path) -> None:
    if path.parent == PACKAGE and path.stem in EXEMPT:
        return
    assert part_of(path) in ORDER, f"{relative_name(path)}: give it its place in ORDER"
    assert not wrong_imports(part_of(path), path.read_text())


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("flow", "from jkoflow.cli import main"),
        ("flow", "import jkoflow.estimator"),
        ("flow", "from jkoflow import proximal"),
        ("blocks", "def late():\n    from jkoflow.flow import Flow"),
        ("fit", "import jkoflow"),
        ("fit", "from jkoflow import JKOFlow"),
        ("runs", "from jkoflow.no_such_module import x"),
    ],
)
def test_reversed_import_is_seen(part: str, source: str) -> None:
    assert wrong_imports(part, source)


def test_import_in_order_is_allowed() -> None:
    source = (
        "from jkoflow.blocks.affine import Affine\nfrom jkoflow import errors\nimport torch, jkoflow.laws"
    )
    assert not wrong_imports("flow", source)


def test_order_names_nothing_that_is_gone() -> None:
    assert [part for part in ORDER if part not in {part_of(path) for path in MODULES}] == []


@pytest.mark.parametrize("path", MODULES, ids=relative_name)
def test_module_is_small(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES, f"{lines} lines: is it still one idea?"


@pytest.mark.parametrize("path", MODULES, ids=relative_name)
def test_module_has_docstring_and_all(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a module opens with one sentence and its formula"
    assigned = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    assert "__all__" in assigned or path.stem == "__main__"


@pytest.mark.parametrize("path", MODULES, ids=relative_name)
def test_nothing_runs_data_as_code(path: Path) -> None:
    assert unsafe_uses(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import dump",
        "import torch\nstate = torch.load('x')",
        "torch.save(x, 'x')",
        "eval('1')",
        "np.load('x', allow_pickle=True)",
        "frame.to_pickle('x')",
    ],
)
def test_unsafe_use_is_seen(source: str) -> None:
    assert unsafe_uses(source)


def test_safe_use_is_allowed() -> None:
    assert unsafe_uses("model.eval()\nnp.load('x', allow_pickle=False)\njson.loads('1')") == []


def test_public_names_are_all() -> None:
    jkoflow = importlib.import_module("jkoflow")
    assert list(jkoflow.__all__) == sorted(set(jkoflow.__all__))
    assert set(public_names(jkoflow)) <= {"annotations", "import_module", "TYPE_CHECKING"}, "names are lazy"
    assert {name: getattr(jkoflow, name).__name__ for name in jkoflow.__all__} == {
        name: name for name in jkoflow.__all__
    }
    assert dir(jkoflow) == sorted([*jkoflow.__all__, "__version__"])
    with pytest.raises(AttributeError, match="no_such_name"):
        jkoflow.no_such_name  # noqa: B018


def test_help_does_not_wait_for_torch() -> None:
    source = (
        "import sys; from jkoflow.cli import main; main(['fit', '--help']); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", source], check=True, capture_output=True)


@pytest.mark.parametrize("path", [p for p in MODULES if p.stem != "__main__"], ids=relative_name)
def test_every_module_can_be_imported_and_exports_what_it_says(path: Path) -> None:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_version_is_the_same_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    released = re.findall(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert released[0] == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


def test_dependencies_are_those_that_the_code_imports() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    declared = {re.split(r"[<>=]", dependency)[0] for dependency in dependencies}
    imported = {
        name.split(".")[0] for path in MODULES for name in imported_names(ast.parse(path.read_text()))
    }
    distribution_of = {"sklearn": "scikit-learn"}
    # pandas reads and writes Parquet through pyarrow without our naming it
    used = {distribution_of.get(name, name) for name in imported} | {"pyarrow"}
    assert declared - used == set()
