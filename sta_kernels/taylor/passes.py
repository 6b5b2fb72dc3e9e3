"""What counts as one sample: one whole backward pass, from its first gradient to its end."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch

from sta_kernels.errors import InputError

_NESTED = (
    "a backward pass ran inside another one, so the gradients of one sample may arrive in parts whose |g| must not be "
    "added up apart. That is what torch.utils.checkpoint does with use_reentrant=True: pass use_reentrant=False"
)
_OVERLAP = (
    "a backward pass began before the last one had ended. Either that one failed half-way, and part of its gradients "
    "is already counted: start again; or it runs in another thread: run one after the other; or it is the outer one of "
    "torch.utils.checkpoint with use_reentrant=True: pass use_reentrant=False"
)


class BackwardPasses:
    """Counts backward passes that reach a watched parameter, and refuses those that cannot be told apart.

    Autograd gives every pass (graph task) a number, and calls back at its end. The first hook of a pass opens it, the
    callback closes and counts it. A pass that ends while autograd still evaluates a node of another one was nested in
    it; a pass that starts while one is open overlaps. Both are refused, and stay refused: what was accumulated since
    cannot be undone.

    Args:
        on_end: called at the end of each pass, before it is counted.
    """

    def __init__(self, on_end: Callable[[], None]) -> None:
        self.count = 0
        self._on_end = on_end
        self._open: int | None = None
        self._problem: str | None = None
        self._lock = threading.Lock()  # on several GPUs the hooks of one pass run in several threads

    def enter(self) -> None:
        """To be called from a gradient hook, before the gradient is used.

        Raises:
            InputError: the pass overlaps another one, or an earlier one was refused.
        """
        task = torch._C._current_graph_task_id()
        with self._lock:
            if self._open is None:
                torch.autograd.Variable._execution_engine.queue_callback(self._end)
                self._open = task
            elif self._open != task:
                self._problem = self._problem or _OVERLAP
        self._raise()

    def check(self) -> None:
        """Raise InputError if a pass was refused or has not ended."""
        if self._open is not None:
            self._problem = self._problem or _OVERLAP
        self._raise()

    def refuse(self, problem: str) -> None:
        """Raise InputError now and whenever the result is asked for."""
        self._problem = self._problem or problem
        self._raise()

    def _end(self) -> None:
        if torch._C._current_autograd_node() is not None:
            self._problem = self._problem or _NESTED
        else:
            self._on_end()
            self.count += 1
        self._open = None
        self._raise()

    def _raise(self) -> None:
        if self._problem is not None:
            raise InputError(self._problem)
