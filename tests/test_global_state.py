"""The user's state: every public call computes the same under any of it, and gives back what it found."""

from __future__ import annotations

import io
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from jkoflow import JKOFlow, Model
from jkoflow.certify import certify, critic
from jkoflow.certify.rows import evidence_without
from jkoflow.cli import main, parser
from jkoflow.config import Settings
from jkoflow.data import read_table
from jkoflow.fitting import fit_table
from jkoflow.global_state import default_state, one_thread, unset_linear, warning_filters
from jkoflow.model import load_model, save_model
from jkoflow.particles import Particles
from jkoflow.steps.mixture import fit as mixtures
from jkoflow.steps.mixture.fit import MixtureRules
from oracles.quick_critics import use_quick_critics
from oracles.quick_training import quick_recipe, use_quick_recipe

ROWS, FRESH = 80, 20
OPTIONS: dict[str, Any] = {"max_blocks": 1, "random_state": 0, "holdout_fraction": 0.2}


def rows(n: int = ROWS, seed: int = 0) -> np.ndarray:
    """Two clusters."""
    rng = np.random.default_rng(seed)
    return rng.choice([-1.5, 1.5], size=(n, 1)) + 0.4 * rng.normal(size=(n, 2))


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        use_quick_recipe(patch, updates=5)
        use_quick_critics(patch, updates=5)
        yield


# ── what there is to call ──


@dataclass(frozen=True)
class Given:
    """What a call gets.

    Arguments:
        flow: A fit with rows set aside.
        folder: table.csv, fresh.csv, the model folder `model` and the run `run`.
        new: An empty folder.
    """

    flow: JKOFlow
    folder: Path
    new: Path

    @property
    def model(self) -> Model:
        return self.flow.model_

    def shell(self, verb: str, *arguments: str, out: str = "") -> object:
        """Exit status and lines of a verb, with the file that it wrote."""
        lines = io.StringIO()
        with redirect_stdout(lines), redirect_stderr(lines):
            status = main([verb, *arguments])
        written = (self.new / out).read_bytes() if out else b""
        return status, lines.getvalue().replace(str(self.new), ""), written

    def fit_in_shell(self) -> object:
        settings = self.new / "settings.toml"
        settings.write_text("max_blocks = 1\n")
        arguments = (str(self.folder / "table.csv"), "-o", str(self.new / "run"), "--config", str(settings))
        return self.shell("fit", *arguments, out="run/model/model.safetensors")[0::2]


def weights(model: Model) -> list[np.ndarray]:
    return [tensor.double().numpy() for tensor in model.flow.state_dict().values()]


def table(n: int = FRESH) -> Any:
    return read_table(rows(n, seed=1))


def fitted_again(given: Given) -> object:
    flow = JKOFlow(**OPTIONS).fit(rows(), run=given.new / "run")
    return weights(flow.model_), flow.results_["held_out_nll_nats"]


CALLS: dict[str, Callable[[Given], object]] = {
    "JKOFlow.certify": lambda g: g.flow.certify().to_json(),
    "JKOFlow.fit": fitted_again,
    "JKOFlow.fit_transform": lambda g: JKOFlow(**OPTIONS).fit_transform(rows()),
    "JKOFlow.get_feature_names_out": lambda g: g.flow.get_feature_names_out().tolist(),
    "JKOFlow.get_params": lambda g: g.flow.get_params(),
    "JKOFlow.inverse_transform": lambda g: g.flow.inverse_transform(rows()),
    "JKOFlow.load": lambda g: weights(JKOFlow.load(g.folder / "model").model_),
    "JKOFlow.log_prob": lambda g: g.flow.log_prob(rows(FRESH, seed=1)),
    "JKOFlow.sample": lambda g: g.flow.sample(5, random_state=1),
    "JKOFlow.save": lambda g: (g.flow.save(g.new / "m"), (g.new / "m" / "model.safetensors").read_bytes()),
    "JKOFlow.score": lambda g: g.flow.score(rows(FRESH, seed=1)),
    "JKOFlow.score_samples": lambda g: g.flow.score_samples(rows(FRESH, seed=1)),
    "JKOFlow.set_params": lambda g: JKOFlow().set_params(max_blocks=3).get_params(),
    "JKOFlow.transform": lambda g: g.flow.transform(rows(FRESH, seed=1)),
    "Model.encode_context": lambda g: g.model.encode_context(None, 3),
    "Model.inverse_transform": lambda g: g.model.inverse_transform(rows(FRESH)),
    "Model.like": lambda g: (str(g.model.like.dtype), str(g.model.like.device)),
    "Model.log_prob": lambda g: g.model.log_prob(table()),
    "Model.sample": lambda g: g.model.sample(5, seed=1),
    "Model.transform": lambda g: g.model.transform(table()),
    "certify": lambda g: certify(evidence_without(g.model, "none")).to_json(),
    "fit_table": lambda g: weights(
        fit_table(read_table(rows()), settings=Settings(max_blocks=1), recipe=quick_recipe(updates=5)).model
    ),
    "load_model": lambda g: weights(load_model(g.folder / "model")),
    "save_model": lambda g: (
        save_model(g.model, g.new / "m"),
        (g.new / "m" / "model.safetensors").read_bytes(),
    ),
    "jkoflow certify": lambda g: g.shell(
        "certify", str(g.folder / "model"), "-o", str(g.new / "c.json"), out="c.json"
    ),
    "jkoflow fit": lambda g: g.fit_in_shell(),
    "jkoflow report": lambda g: g.shell(
        "report", str(g.folder / "run"), "-o", str(g.new / "p.html"), out="p.html"
    ),
    "jkoflow sample": lambda g: g.shell(
        *("sample", str(g.folder / "run"), "-n", "5", "--seed", "1", "-o", str(g.new / "s.csv")), out="s.csv"
    ),
    "jkoflow score": lambda g: g.shell(
        *("score", str(g.folder / "run"), str(g.folder / "fresh.csv"), "-o", str(g.new / "l.csv")),
        out="l.csv",
    ),
}
"""Every public call, by its name."""

NO_NUMBERS = {
    "JKOFlow.get_metadata_routing",
    "JKOFlow.set_output",
    "jkoflow demo",  # the calls of fit, sample and report; tests/cli/test_demo.py runs it
}
"""Public names that compute nothing, or nothing of their own."""


def test_every_public_call_is_here() -> None:
    names = {f"{kind.__name__}.{name}" for kind in (JKOFlow, Model) for name in dir(kind) if name[0] != "_"}
    requests = {name for name in names if name.endswith("_request")}  # scikit-learn's, as of set_output
    verbs = {f"jkoflow {verb}" for verb in parser._VERBS}
    fields = {"Model.context_schema"}
    functions = {name for name in CALLS if name.isidentifier()}
    assert set(CALLS) | NO_NUMBERS == names - requests - fields | verbs | functions


# ── what the user may have set ──


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def product_precision(name: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def warnings_as_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


STATES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "set_grad_enabled": lambda: torch.set_grad_enabled(False),
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "device": lambda: torch.device("meta"),
    "set_default_device": lambda: default_device("meta"),
    "autocast": lambda: torch.autocast("cpu"),
    "precision": lambda: product_precision("medium"),
    "numpy errors": lambda: np.errstate(all="raise"),
    "warnings": warnings_as_errors,
    "threads": lambda: threads(2),
}
"""Foreign states, by name; under `threads` sums may be split otherwise, so last digits may differ."""


DRAWN, TOLD = "jkoflow report", ("device", "autocast", "inference_mode")
"""A call that takes seconds, and the states that it meets in the quick suite."""


def in_a_new_thread(work: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join(timeout=240)
    return found[0]


def snapshot() -> dict[str, Any]:
    """Everything that a call could leave otherwise than it found it."""
    return {
        "torch's generator": torch.get_rng_state().numpy().tobytes(),
        "NumPy's generator": str(np.random.get_state()),  # noqa: NPY002  (the user's own)
        "Python's generator": random.getstate(),
        "threads": torch.get_num_threads(),
        "threads of new threads": in_a_new_thread(torch.get_num_threads),
        "threads of libraries": sorted((pool["filepath"], pool["num_threads"]) for pool in threadpool_info()),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "precision": torch.get_float32_matmul_precision(),
        "NumPy's errors": np.geterr(),
        "warnings": list(warnings.filters),
    }


@pytest.fixture(scope="module")
def _material(tmp_path_factory: pytest.TempPathFactory, _quick: None) -> tuple[JKOFlow, Path]:
    folder = tmp_path_factory.mktemp("material")
    pd.DataFrame(rows(), columns=["a", "b"]).to_csv(folder / "table.csv", index=False)
    pd.DataFrame(rows(FRESH, seed=1), columns=["a", "b"]).to_csv(folder / "fresh.csv", index=False)
    flow = JKOFlow(**OPTIONS).fit(str(folder / "table.csv"), run=folder / "run")
    flow.save(folder / "model")
    return flow, folder


@pytest.fixture
def given(_material: tuple[JKOFlow, Path], tmp_path: Path) -> Given:
    return Given(*_material, tmp_path)


@pytest.fixture(scope="module")
def expected() -> dict[str, object]:
    """What each call gave without a foreign state, once it was asked for."""
    return {}


def assert_same(found: object, right: object, *, rounding: float = 0.0) -> None:
    """Equal values, however nested; numbers up to `rounding`."""
    assert type(found) is type(right)
    if isinstance(found, list | tuple):
        assert len(found) == len(right)
        for one, other in zip(found, right, strict=True):
            assert_same(one, other, rounding=rounding)
    elif isinstance(found, np.ndarray | pd.DataFrame | float):
        np.testing.assert_allclose(found, right, rtol=rounding, atol=rounding)
    elif not rounding:
        assert found == right


@pytest.mark.parametrize(
    ("call", "state"),
    [
        pytest.param(call, state, marks=[pytest.mark.slow] if call == DRAWN and state not in TOLD else [])
        for call in CALLS
        for state in STATES
    ],
)
def test_call_is_the_same_in_any_state_and_gives_it_back(
    call: str, state: str, given: Given, expected: dict[str, object], tmp_path: Path
) -> None:
    if call not in expected:
        (tmp_path / "plain").mkdir()
        expected[call] = CALLS[call](Given(given.flow, given.folder, tmp_path / "plain"))
    (tmp_path / "foreign").mkdir()
    with STATES[state]():
        before = snapshot()
        found = CALLS[call](Given(given.flow, given.folder, tmp_path / "foreign"))
        assert snapshot() == before
    assert_same(found, expected[call], rounding=1e-5 if state == "threads" else 0.0)


# ── several threads ──


@dataclass
class Caller:
    """A thread that enters a context when it is told to, and leaves it when it is told to."""

    enter: Callable[[], AbstractContextManager[None]]

    def __post_init__(self) -> None:
        self._steps = [threading.Event() for _ in range(3)]
        self._done = [threading.Event() for _ in range(3)]
        self.seen: list[int] = []
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        torch.get_num_threads()  # from here on this thread has a number of its own
        self._wait(0)
        with self.enter():
            self._wait(1)
        self._wait(2)

    def _wait(self, number: int) -> None:
        self.seen.append(torch.get_num_threads())
        self._done[number].set()
        assert self._steps[number].wait(timeout=60)

    def go_on(self) -> None:
        """Do the next step; it is done when this returns."""
        number = sum(step.is_set() for step in self._steps)
        assert self._done[number].wait(timeout=60)
        self._steps[number].set()
        if number < 2:
            assert self._done[number + 1].wait(timeout=60)
        else:
            self._thread.join(timeout=60)


@pytest.mark.parametrize("order", ["1122", "1212", "1221"])
def test_one_thread_in_overlapping_calls_is_given_back(order: str) -> None:
    with threads(2):
        callers = {name: Caller(one_thread) for name in "12"}
        for name in order[:3]:
            callers[name].go_on()
        assert in_a_new_thread(torch.get_num_threads) == 1, "one of them is inside"
        callers[order[3]].go_on()
        late = in_a_new_thread(torch.get_num_threads)
        for caller in callers.values():
            caller.go_on()
            assert caller.seen == [2, 1, 2]
        assert (late, torch.get_num_threads()) == (2, 2)


def test_a_thread_that_begins_during_a_call_has_as_many_threads_afterwards() -> None:
    with threads(2):
        first = Caller(one_thread)
        first.go_on()
        second = Caller(one_thread)
        second.go_on()
        first.go_on()
        second.go_on()
        second.go_on()
        first.go_on()
        assert second.seen == [1, 1, 2]
        assert in_a_new_thread(torch.get_num_threads) == 2


def test_number_of_this_thread_and_that_of_new_ones_are_given_back_both() -> None:
    with threads(2):
        in_a_new_thread(lambda: torch.set_num_threads(3))
        with one_thread():
            assert in_a_new_thread(torch.get_num_threads) == torch.get_num_threads() == 1
        assert (torch.get_num_threads(), in_a_new_thread(torch.get_num_threads)) == (2, 3)


@pytest.mark.parametrize("order", ["1122", "1212", "1221"])
def test_dtype_and_filters_of_overlapping_calls_are_given_back(order: str) -> None:
    @contextmanager
    def quiet() -> Iterator[None]:
        with default_state(), warning_filters():
            warnings.simplefilter("ignore", FutureWarning)
            yield

    with default_dtype(torch.float64), warnings_as_errors():
        before = list(warnings.filters)
        callers = {name: Caller(quiet) for name in "12"}
        for name in order[:3]:
            callers[name].go_on()
        assert torch.get_default_dtype() is torch.float32
        assert list(warnings.filters) != before
        callers[order[3]].go_on()
        assert torch.get_default_dtype() is torch.float64
        assert list(warnings.filters) == before
        for caller in callers.values():
            caller.go_on()


@pytest.mark.parametrize(
    ("place", "name"),
    [(mixtures, "KMeans"), (critic, "HistGradientBoostingClassifier")],
    ids=["k-means", "trees"],
)
def test_threads_of_libraries_come_back_after_overlapping_calls(
    place: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call ends while the second is at work, with the limits of scikit-learn's own inside ours."""
    plain = getattr(place, name)
    first_inside, second_inside, first_left = (threading.Event() for _ in range(3))

    class Slow(plain):
        def _slowly(self, work: Callable[[], Any]) -> Any:
            with threadpool_limits(1, user_api="blas" if place is mixtures else "openmp"):
                if first_inside.is_set():
                    second_inside.set()
                    assert first_left.wait(timeout=60)
                else:
                    first_inside.set()
                    assert second_inside.wait(timeout=60)
                return work()

        def fit(self, *arguments: Any, **options: Any) -> Any:
            return self._slowly(lambda: plain.fit(self, *arguments, **options))

    monkeypatch.setattr(place, name, Slow)
    x = torch.tensor(rows(200))

    def work() -> None:
        if place is mixtures:
            mixtures._clustered(Particles(x), 2, torch.Generator(), MixtureRules())
        else:
            critic.fit_trees(x, x + 1, seed=0)
        first_left.set()

    in_a_new_thread(lambda: threadpool_limits(2, user_api="blas"))
    try:
        before = snapshot()
        first, second = (threading.Thread(target=work) for _ in range(2))
        first.start()
        assert first_inside.wait(timeout=60)
        second.start()
        first.join(timeout=60)
        second.join(timeout=60)
        assert snapshot() == before
    finally:
        in_a_new_thread(lambda: threadpool_limits(1, user_api="blas"))


def test_two_fits_in_two_threads_are_the_fits_alone() -> None:
    alone = [weights(JKOFlow(**{**OPTIONS, "random_state": seed}).fit(rows()).model_) for seed in (0, 1)]
    found: dict[int, list[np.ndarray]] = {}

    def fit(seed: int) -> None:
        found[seed] = weights(JKOFlow(**{**OPTIONS, "random_state": seed}).fit(rows()).model_)

    with threads(2):
        before = snapshot()
        both = [threading.Thread(target=fit, args=(seed,)) for seed in (0, 1)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join(timeout=240)
        assert snapshot() == before
    assert_same([found[0], found[1]], alone)


def test_one_thread_for_the_time_of_a_fit_whatever_happens() -> None:
    with threads(2):
        with pytest.raises(KeyboardInterrupt), one_thread():
            assert torch.get_num_threads() == 1
            raise KeyboardInterrupt
        assert torch.get_num_threads() == 2


# ── the parts ──


def test_default_state_is_that_of_a_fresh_process() -> None:
    with torch.inference_mode(), default_dtype(torch.float16), torch.device("meta"), torch.autocast("cpu"):
        with np.errstate(all="raise"), default_state():
            x = torch.ones(2, requires_grad=True)
            (x @ x).backward()
            assert (x.dtype, x.device.type, x.grad.tolist()) == (torch.float32, "cpu", [2, 2])
            assert not x.is_inference()
            assert set(np.geterr().values()) == {"warn", "ignore"}
        assert torch.empty(1).device.type == "meta"


def test_errors_that_numpy_was_told_to_ignore_stay_ignored() -> None:
    with np.errstate(all="ignore"), default_state():
        assert set(np.geterr().values()) == {"ignore"}


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="older torch has one function")
@pytest.mark.parametrize("precision", ["ieee", "bf16"])
def test_precision_of_one_kind_of_device_is_given_back(precision: str) -> None:
    products = torch.backends.mkldnn.matmul
    with product_precision("highest"):
        products.fp32_precision = precision
        with default_state():
            assert products.fp32_precision == "ieee"
        assert products.fp32_precision == precision
        products.fp32_precision = "ieee"


def test_layer_that_is_yet_to_be_set_draws_nothing() -> None:
    before = torch.get_rng_state()
    with torch.device("meta"):
        layer = unset_linear(3, 2)
    assert (layer.weight.shape, layer.weight.device.type) == ((2, 3), "cpu")
    assert torch.equal(torch.get_rng_state(), before)


def test_global_generator_goes_on_as_if_nothing_had_been_fitted(tmp_path: Path) -> None:
    torch.manual_seed(0)
    flow = JKOFlow(**OPTIONS).fit(rows())
    flow.certify()
    flow.save(tmp_path / "model")
    JKOFlow.load(tmp_path / "model").sample(3)
    assert float(torch.rand(1)) == pytest.approx(0.49625658988952637, abs=1e-7)
