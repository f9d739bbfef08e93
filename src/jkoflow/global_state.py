"""What a whole process or thread shares, put into one known state for the time of a call, and given back.

    default_state:    gradients on, no inference mode or autocast, float32 and the CPU by default, NumPy warns
    one_thread:       one thread for torch's own loops
    one_blas_thread:  one for NumPy's and SciPy's
    warning_filters:  `warnings.catch_warnings` that several threads may enter at once

Some of this belongs to a thread (gradients, inference mode, autocast, the default device, NumPy's errors) and
is simply entered and left. The default dtype, the precision of products, numbers of threads and filters of
warnings belong to the process: where calls of several threads overlap, each putting back what it found would
leave for ever what one of them had set, so the first to come notes what the last to go gives back.

torch's global generator is not here. Nothing in this library draws from it (see `unset_linear`); putting it
back at the end of a fit would hand the numbers that another thread drew meanwhile out a second time.
Source: PyTorch's documentation of the functions named.
"""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

__all__ = ["default_state", "one_blas_thread", "one_thread", "unset_linear", "warning_filters"]


@contextmanager
def default_state() -> Iterator[None]:
    """Compute as torch and NumPy do where nobody has changed their state, then go back to the caller's.

    The doors of the library are decorated with it, so that results do not depend on `torch.no_grad`,
    `inference_mode`, `autocast`, `set_default_dtype`, `set_default_device`, `set_float32_matmul_precision` or
    `numpy.seterr` around them.
    """
    with ExitStack() as left_at_the_end:
        enter = left_at_the_end.enter_context
        if torch.is_inference_mode_enabled():
            enter(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            enter(torch.enable_grad())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                enter(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":  # entered only where needed: it slows every call
            enter(torch.device("cpu"))
        if not {"ignore", "warn"}.issuperset(np.geterr().values()):  # those that raise, print or call
            enter(np.errstate(all="warn", under="ignore"))
        enter(_DTYPE.held())
        enter(_PRECISION.held())  # products in bfloat16 or TF32 miss the round trip, and the density with it
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch's own loops, for the time of a fit; then as many as before.

    A training update is a few products of 512 x 128 numbers: a second thread gains nothing there, and where
    its core is taken by another process, each product waits for it. One thread also adds up in one order.

    torch keeps the number for each thread of Python, and one more that a thread begins with: both are given
    back, the second when the last of several calls ends.
    """
    with _ONE_THREAD.held():
        yield


@contextmanager
def warning_filters() -> Iterator[None]:
    """`warnings.catch_warnings` for several threads: the filters come back when the last of them has left."""
    with _FILTERS.held():
        yield


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """One thread for NumPy's and SciPy's BLAS; as many as before when the last of several threads has left.

    scikit-learn's k-means limits them too, and where two run at once leaves the limit behind; inside of this
    it finds one thread, and leaves one.
    """
    with _ONE_BLAS_THREAD.held():
        yield


def unset_linear(n_in: int, n_out: int) -> nn.Linear:
    """A linear layer on the CPU whose numbers are yet to be set.

    `nn.Linear` itself draws them from torch's global generator, which is the user's.
    """
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, n_in, n_out, device="cpu")  # type: ignore[no-untyped-call]
    return layer


class _OneValue:
    """One value of a variable of the process, as long as anybody is inside.

    Arguments:
        get: Reads the variable.
        put: Sets it.
        value: What it is to be.
    """

    def __init__(self, get: Callable[[], Any], put: Callable[[Any], Any], value: Any) -> None:
        self._get, self._put, self._value = get, put, value
        self._lock, self._inside = threading.Lock(), 0
        self._found = value

    @contextmanager
    def held(self) -> Iterator[None]:
        with self._lock:
            self._inside += 1
            found = self._get()
            if found != self._value:
                self._found = found
                self._put(self._value)
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._found != self._value and not self._inside:
                    self._put(self._found)
                    self._found = self._value


class _OneThread:
    """One thread of torch's in every thread that is inside, and in those that begin meanwhile."""

    def __init__(self) -> None:
        self._lock, self._inside, self._here = threading.Lock(), 0, threading.local()
        self._for_new_threads = 1

    @contextmanager
    def held(self) -> Iterator[None]:
        if getattr(self._here, "is_inside", False):
            yield
            return
        found = self._enter()
        try:
            yield
        finally:
            self._leave(found)

    def _enter(self) -> int:
        with self._lock:
            found = torch.get_num_threads()
            if not self._inside:
                self._for_new_threads = _in_a_new_thread(torch.get_num_threads)
            elif found == 1:  # this thread began while others were inside
                found = self._for_new_threads
            self._inside += 1
            torch.set_num_threads(1)
        self._here.is_inside = True
        return found

    def _leave(self, found: int) -> None:
        self._here.is_inside = False
        with self._lock:
            self._inside -= 1
            torch.set_num_threads(found)  # of this thread, and of those that begin from now on
            for_new_threads = 1 if self._inside else self._for_new_threads
            if for_new_threads != found:
                _in_a_new_thread(lambda: torch.set_num_threads(for_new_threads))


class _Counted:
    """One context for all that are inside: entered by the first to come, left by the last to go."""

    def __init__(self, make: Callable[[], AbstractContextManager[Any]]) -> None:
        self._make, self._lock, self._inside = make, threading.Lock(), 0
        self._entered: AbstractContextManager[Any] = nullcontext()

    @contextmanager
    def held(self) -> Iterator[None]:
        with self._lock:
            if not self._inside:
                self._entered = self._make()
                self._entered.__enter__()
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._entered.__exit__(None, None, None)


_BACKENDS: Any = [getattr(part, "matmul", None) for part in (torch.backends.cuda, torch.backends.mkldnn)]
"""Where the precision of float32 products is told, by kind of device; None in older versions of torch."""
if not all(hasattr(backend, "fp32_precision") for backend in _BACKENDS):
    _BACKENDS = None


def _precision() -> str | tuple[str, ...]:
    """How products of float32 matrices are rounded; torch's older function fails where the newer was used."""
    if _BACKENDS is None:
        return torch.get_float32_matmul_precision()
    # "none" is what nobody has set
    return tuple("ieee" if told == "none" else told for told in (b.fp32_precision for b in _BACKENDS))


def _set_precision(told: str | tuple[str, ...]) -> None:
    if isinstance(told, str):
        torch.set_float32_matmul_precision(told)
        return
    for backend, one in zip(_BACKENDS, told, strict=True):
        backend.fp32_precision = one


def _in_a_new_thread(work: Callable[[], Any]) -> Any:
    """What `work` returns in a thread that has no numbers of its own yet."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


@contextmanager
def _limited_blas() -> Iterator[None]:
    # threadpoolctl lets one thread at a time set limits, as long as that lives: not this one, which another
    # may outlive
    limits = _in_a_new_thread(lambda: _libraries().limit(limits=1, user_api="blas"))
    try:
        yield
    finally:
        _in_a_new_thread(limits.restore_original_limits)


@functools.cache
def _libraries() -> ThreadpoolController:
    """The libraries that have threads of their own; looking for them takes a few hundredths of a second."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


_DTYPE = _OneValue(torch.get_default_dtype, torch.set_default_dtype, torch.float32)
_PRECISION = _OneValue(_precision, _set_precision, "highest" if _BACKENDS is None else ("ieee", "ieee"))
_ONE_THREAD = _OneThread()
_FILTERS, _ONE_BLAS_THREAD = _Counted(warnings.catch_warnings), _Counted(_limited_blas)
