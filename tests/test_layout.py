"""The architecture as a test: import order, size, public names, and nothing in src that runs data as code."""

from __future__ import annotations

import ast
import functools
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "jkoflow"
INIT = PACKAGE / "__init__.py"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES, MAX_FUNCTION_LINES = 350, 60
MAX_READING_FILES, MAX_READING_LINES = 8, 900

ORDER = (
    "errors",
    "counts",
    "global_state",
    "storage",
    "config",
    "runtime",
    "world",
    # the material
    "data",
    "laws",
    "particles",
    "exact",
    "bounds",
    # one block
    "blocks",
    "functionals",
    # many blocks
    "flow",
    "first_order",
    # learning
    "schedule",
    "recipe",
    "journal",
    "steps",
    "fold",
    "methods",
    # store and readers
    "model",
    "runs",
    "fitting",
    "certify",
    "report",
    "estimator",
    "cli",
)
"""A module (or folder) imports only from those before it; the package's `__init__`, `__main__` from any."""

EXEMPT = {"__init__", "__main__"}

NUMBERS = ("recipe", "storage", "certify")
"""Where a module may open with numeric constants in capitals; elsewhere they are fields or parameters."""

CLOCKS = ("journal", "cli/progress.py")
"""What may look at the clock: the journal, and the lines that tell a person how long it will take."""


CLOCK_READERS = {"process_time", "perf_counter", "time", "monotonic", "thread_time"}
CAPITALS = re.compile(r"_*[A-Z][A-Z0-9_]*")
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_NAMES = {"eval", "exec", "__import__"}
UNSAFE_CALLS = {"torch.load", "torch.save", "pd.read_pickle", "pandas.read_pickle", "np.fromfile"}


@functools.cache
def parsed(source: str) -> ast.Module:
    """The syntax tree of a module, which many tests look at."""
    return ast.parse(source)


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
    names = (name.split(".") for name in imported_names(parsed(source)))
    return [".".join(n) for n in names if n[0] == "jkoflow" and (len(n) < 2 or n[1] not in earlier)]


def unsafe_uses(source: str) -> list[str]:
    """What in a module could run data as code."""
    tree = parsed(source)
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


def assigned_at_the_top(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Names that a module assigns outside functions and classes, each with its value."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.If | ast.Try | ast.With):
            waiting[:0] = [part for part in ast.iter_child_nodes(node) if isinstance(part, ast.stmt)]
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            names, value = [target], node.value
            if isinstance(target, ast.Tuple | ast.List):
                names = target.elts
            values = value.elts if isinstance(value, ast.Tuple | ast.List) else []
            paired = values if len(names) > 1 and len(values) == len(names) else [value] * len(names)
            yield from ((n.id, v) for n, v in zip(names, paired, strict=True) if isinstance(n, ast.Name))


def is_numeric(value: ast.AST, known: set[str]) -> bool:
    """Whether an expression is a number or holds one; `known` are names of numbers."""
    if isinstance(value, ast.Constant):
        return isinstance(value.value, int | float | complex) and not isinstance(value.value, bool)
    if isinstance(value, ast.Name):
        return value.id in known
    if isinstance(value, ast.BinOp):
        sides = (value.left, value.right)
        is_text = any(isinstance(side, ast.Constant) and isinstance(side.value, str) for side in sides)
        return not is_text and any(is_numeric(side, known) for side in sides)
    if isinstance(value, ast.Dict):
        return any(is_numeric(part, known) for part in value.values)
    if isinstance(value, ast.Call):
        return any(is_numeric(part, known) for part in (*value.args, *(k.value for k in value.keywords)))
    if isinstance(value, ast.Tuple | ast.List | ast.Set | ast.UnaryOp | ast.IfExp | ast.Starred):
        return any(is_numeric(part, known) for part in ast.iter_child_nodes(value))
    return False


def numeric_constants(source: str) -> list[str]:
    """The names in capitals that a module gives to numbers, or to what holds numbers."""
    found: list[str] = []
    for name, value in assigned_at_the_top(parsed(source)):
        if CAPITALS.fullmatch(name) and is_numeric(value, set(found)):
            found.append(name)
    return found


def clock_uses(source: str) -> list[str]:
    """Where a module reads a clock, or asks how much of a budget is used or left."""
    tree = parsed(source)
    clocks = {f"time.{reader}" for reader in CLOCK_READERS}
    found = [name for name in imported_names(tree) if name in clocks]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in clocks:
            found.append(ast.unparse(node))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            found += [f".{node.func.attr}()"] * (node.func.attr in {"used", "remaining"})
    return found


def names_in_code(source: str) -> set[str]:
    """Every name that a module imports, reads or takes from something, those in texts aside."""
    names: set[str] = set()
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.alias):
            names.add(node.name.split(".")[-1])
    return names


def long_functions(source: str) -> list[str]:
    """Functions of more than `MAX_FUNCTION_LINES` lines, docstring included."""
    return [
        f"{node.name}: {lines} lines"
        for node in ast.walk(parsed(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]


def is_one_of(path: Path, entries: Iterable[str]) -> bool:
    """Whether a module belongs to one of these parts, or is one of these files."""
    return not {part_of(path), path.relative_to(PACKAGE).as_posix()}.isdisjoint(entries)


def missing_exports(path: Path) -> list[str]:
    """What a module's `__all__` names and it does not have, once it is imported."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
    return [name for name in module.__all__ if not hasattr(module, name)]


def public_names(module: ModuleType) -> list[str]:
    """The names that a star import would bring were there no `__all__`, modules aside."""
    return [n for n, v in vars(module).items() if not n.startswith("_") and not isinstance(v, ModuleType)]


def offenders(rule: Callable[[Path], object], modules: Iterable[Path] = MODULES) -> dict[str, object]:
    """What a rule finds in each module in which it finds something, by the module's path in the package."""
    return {str(path.relative_to(PACKAGE)): found for path in modules if (found := rule(path))}


def test_module_imports_only_from_those_before_it() -> None:
    modules = [path for path in MODULES if path.parent != PACKAGE or path.stem not in EXEMPT]
    assert {part_of(path) for path in modules} <= set(ORDER), "give it its place in ORDER"
    assert offenders(lambda path: wrong_imports(part_of(path), path.read_text()), modules) == {}


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("flow", "from jkoflow.cli import main"),
        ("flow", "import jkoflow.estimator"),
        ("flow", "from jkoflow import fold"),
        ("blocks", "def late():\n    from jkoflow.flow import Flow"),
        ("fold", "import jkoflow"),
        ("fold", "from jkoflow import JKOFlow"),
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


def test_module_is_small() -> None:
    long = offenders(lambda path: path.read_text().splitlines()[MAX_LINES:])
    assert set(long) == set(), "is it still one idea?"


def test_function_is_short() -> None:
    assert offenders(lambda path: long_functions(path.read_text())) == {}


def test_long_function_is_seen() -> None:
    body = "    x = 1\n" * (MAX_FUNCTION_LINES - 1)
    assert long_functions(f"def short():\n{body}") == []
    assert long_functions(f"def long():\n{body}    y = 2") == [f"long: {MAX_FUNCTION_LINES + 1} lines"]
    assert long_functions(f"class C:\n  async def long(self):\n{body}{body}") != []


def test_the_default_fit_is_read_in_few_files() -> None:
    """The reading list of docs/method.md: files that exist, in lines of the file or of the function named."""
    page = (ROOT / "docs" / "method.md").read_text()
    section = page.split("## Reading the code of the default fit", 1)[1].split("\n## ", 1)[0]
    entries = re.findall(r"^\| `([\w/]+\.py)`(?:, `(\w+)`)? \|", section, flags=re.MULTILINE)
    lines = sum(_lines_of(PACKAGE / name, function) for name, function in entries)
    assert 1 < len(entries) <= MAX_READING_FILES
    assert lines <= MAX_READING_LINES, lines


def _lines_of(path: Path, function: str) -> int:
    """Lines of a function, or of the whole file where none is named."""
    text = path.read_text()
    if not function:
        return text.count("\n")
    nodes = [node for node in ast.walk(parsed(text)) if isinstance(node, ast.FunctionDef)]
    (found,) = [node for node in nodes if node.name == function]
    return (found.end_lineno or 0) - found.lineno + 1


def test_module_has_no_numeric_constant_in_capitals() -> None:
    modules = [path for path in MODULES if not is_one_of(path, NUMBERS)]
    found = offenders(lambda path: numeric_constants(path.read_text()), modules)
    assert found == {}, "make it a field or a keyword with a default"


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("_MOST = 3", ["_MOST"]),
        ("_A, _B = 1, 2.0", ["_A", "_B"]),
        ("_A, _NAME = 1, 'a'", ["_A"]),
        ("_X: int = 2**18", ["_X"]),
        ("RATES = (1, 2)", ["RATES"]),
        ("RATES = {'a': 1e-4}", ["RATES"]),
        ("LOWEST = -1.5", ["LOWEST"]),
        ("PAIRS = [('a', 1)]", ["PAIRS"]),
        ("TILT = np.array([1.0, 0.86])", ["TILT"]),
        ("LOOK = Look(size=9)", ["LOOK"]),
        ("A = 1\nB = 2 * A\nC = f(B)", ["A", "B", "C"]),
        ("if True:\n    LATE = 3", ["LATE"]),
        ("NAMES = ('a',)", []),
        ("_PATTERN = re.compile('x')", []),
        ("LEGEND = 'text'", []),
        ("RULE = '-' * 8", []),
        ("LAWS = {'normal': Normal}", []),
        ("HEADERS = {(1, 0): read_header}", []),
        ("FLAGS = {'strict': True}", []),
        ("HELD = {errno.EAGAIN}", []),
        ("def f(*, most: int = 3):\n    LOCAL = 4", []),
        ("class Status(IntEnum):\n    DONE = 0", []),
        ("Rows = 3", []),
    ],
)
def test_numeric_constant_is_seen(source: str, names: list[str]) -> None:
    assert numeric_constants(source) == names


def test_no_clock_outside_the_journal() -> None:
    modules = [path for path in MODULES if not is_one_of(path, CLOCKS)]
    assert offenders(lambda path: clock_uses(path.read_text()), modules) == {}


@pytest.mark.parametrize(
    "source",
    [
        "import time\nstart = time.process_time()",
        "from time import perf_counter",
        "def f(clock=time.monotonic): ...",
        "now = time.time()",
        "left = self.decisions.remaining() / 2",
        "journal.used()",
    ],
)
def test_clock_is_seen(source: str) -> None:
    assert clock_uses(source)


def test_what_is_no_clock_is_allowed() -> None:
    assert clock_uses("remaining = 3\nused = bounds.smoothing_time(m, d, delta)\ntime.sleep") == []


def test_no_block_class_is_named_outside_blocks() -> None:
    concrete = {block.__name__ for block in importlib.import_module("jkoflow.blocks").BLOCKS.values()}
    modules = [path for path in MODULES if path != INIT and not is_one_of(path, ("blocks",))]
    found = offenders(lambda path: names_in_code(path.read_text()) & concrete, modules)
    assert found == {}, "ask the block; do not ask what it is"


def test_name_in_code_is_seen() -> None:
    source = "from jkoflow.blocks import A as B\nisinstance(block, blocks.C)\ndef f(x: D) -> None: 'E'"
    assert {"A", "C", "D"} <= names_in_code(source)
    assert "E" not in names_in_code(source)


def test_module_has_docstring_and_all() -> None:
    trees = {path: parsed(path.read_text()) for path in MODULES}
    bare = offenders(lambda path: not ast.get_docstring(trees[path]))
    assert bare == {}, "a module opens with one sentence and its formula"
    modules = [path for path in MODULES if path.stem != "__main__"]
    named = {path: dict(assigned_at_the_top(trees[path])) for path in modules}
    assert offenders(lambda path: "__all__" not in named[path], modules) == {}


def test_nothing_runs_data_as_code() -> None:
    assert offenders(lambda path: unsafe_uses(path.read_text())) == {}


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


def test_every_module_can_be_imported_and_exports_what_it_says() -> None:
    assert offenders(missing_exports, [path for path in MODULES if path.stem != "__main__"]) == {}


def test_version_is_the_same_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    released = re.findall(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert released[0] == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


def test_dependencies_are_those_that_the_code_imports() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    declared = {re.split(r"[<>=]", dependency)[0] for dependency in dependencies}
    imported = {name.split(".")[0] for path in MODULES for name in imported_names(parsed(path.read_text()))}
    distribution_of = {"sklearn": "scikit-learn"}
    # pandas reads and writes Parquet through pyarrow without our naming it
    used = {distribution_of.get(name, name) for name in imported} | {"pyarrow"}
    assert declared - used == set()
