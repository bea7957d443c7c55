"""Threads on the CPU: blocks of rows on our own, those of the library for large products only.

What a library divides among threads is through when the last of them has run; beside another busy
program that one may not even have begun. Blocks of rows need not wait for each other:
each is multiplied in one thread, and exp and log run on every core too. Results do not depend on
how many threads there are.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import copy_context
from functools import cache
from itertools import islice
from threading import Lock
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

__all__ = ["Setting", "Threads", "blas", "renewed_in_children"]

_LARGE = 1e9  # operations: they take longer than a thread has to wait for its turn
_ALONE = 0.001  # seconds; what is through by then is not worth waking others
_AHEAD = 4  # items, beside one per thread, may be ready to begin, or wait for those before them
_Item = TypeVar("_Item")
_Made = TypeVar("_Made")
_AnyThreads = TypeVar("_AnyThreads", bound="Threads")


class Setting(NamedTuple):
    """How many threads some library uses: in the process, or in the thread that asks."""

    get: Callable[[], int]  # 0 where it is that of another library
    set: Callable[[int], Any]


@cache
def _blas() -> list[Setting]:
    libraries = ThreadpoolController().select(user_api="blas").lib_controllers
    return [Setting(library.get_num_threads, library.set_num_threads) for library in libraries]


@cache
def _keep_memory() -> None:
    """Let glibc keep the memory of finished blocks, which would cost a page fault per 4 KiB anew.

    How much it keeps, it learns from the largest array that was freed.
    """
    np.empty(2**25 - 2**16, dtype=np.uint8)


@cache
def _helpers(number: int) -> ThreadPoolExecutor:
    """Return threads that are kept, as the BLAS keeps its own."""
    return ThreadPoolExecutor(number, "xplinear")


class Threads:
    """Who computes at present, with libraries that have one setting for all users.

    Parameters
    ----------
    settings : callable
        Returns those to be changed, always the same; called at first use.

    Examples
    --------
    >>> threads = Threads(list)  # of no library
    >>> with threads.products(1e6):
    ...     threads.number
    1
    >>> list(threads.each(abs, iter([-1, 2, -3])))
    [1, 2, 3]
    """

    def __init__(self, settings: Callable[[], list[Setting]]) -> None:
        self.settings = settings
        self.lock = Lock()
        self.small, self.large = set[object](), set[object]()  # users, by their products
        self.before: list[int] = []  # what the settings are where there are none

    @property
    def number(self) -> int:
        """As many as the library would use: it heeds the environment, and whoever limits it."""
        return min(filter(None, self.before), default=1)

    @property
    def _one_each(self) -> bool:
        return bool(self.small) and not self.large

    def enter(self, user: object, *, large: bool) -> None:
        """Remember a user, until it is told to leave."""
        with self.lock:
            if not (self.small or self.large):
                self.before = [setting.get() for setting in self.settings()]
            one = self._one_each
            (self.large if large else self.small).add(user)
            if one != self._one_each:
                self._set()

    def leave(self, user: object) -> None:
        """Forget a user; Ctrl-C may have come before there was one."""
        with self.lock:
            one = self._one_each
            self.small.discard(user)
            self.large.discard(user)
            if one != self._one_each:
                self._set()

    def _set(self) -> None:
        for setting, before in zip(self.settings(), self.before, strict=True):
            setting.set(1 if self._one_each else before)

    @contextmanager
    def products(self, flops: float) -> Generator[None]:
        """Make matrix products of about so many operations each: small ones in one thread."""
        user = object()
        try:
            self.enter(user, large=flops >= _LARGE)
            yield
        finally:
            self.leave(user)

    def each(
        self, function: Callable[[_Item], _Made], items: Iterator[_Item], *, at_once: bool = False
    ) -> Generator[_Made]:
        """Yield ``function(item)`` of each, in order, computed by as many threads as there may be.

        The calling thread takes what no other has begun: it waits for nothing but what is under
        way. It begins alone, unless the items are known to be ``at_once`` worth waking others.
        """
        with self.products(0.0):
            end = perf_counter() + _ALONE
            if at_once:
                _keep_memory()
            if not at_once or self.number == 1:
                for item in items:
                    yield function(item)
                    if perf_counter() > end:
                        _keep_memory()
                        if self.number > 1:
                            break
                else:
                    return
            ahead = self.number + _AHEAD
            coming: deque[tuple[_Item, Future[_Made]]] = deque()
            try:
                while True:
                    fresh = list(islice(items, ahead - len(coming)))
                    if len(fresh) == 1 and not coming:  # nothing to do beside it
                        yield function(fresh[0])
                        return
                    coming.extend((item, self.help_with(function, item)) for item in fresh)
                    if not coming:
                        return
                    if not coming[0][1].done():
                        _take_one(function, coming)
                    yield coming.popleft()[1].result()
            finally:
                futures = [future for _, future in coming]
                wait([future for future in futures if not future.cancel()])

    def help_with(self, function: Callable[[_Item], _Made], item: _Item) -> Future[_Made]:
        """Let another thread call a function, in the context of this one."""
        helpers = _helpers(self.number - 1)
        return helpers.submit(copy_context().run, self._helped, function, item)

    def _helped(self, function: Callable[[_Item], _Made], item: _Item) -> _Made:
        with self.products(0.0):
            with self.lock:
                self._set()  # on OpenMP a BLAS has a setting for each thread
            return function(item)

    def forked(self) -> None:
        """Begin anew in a child process, which has none of the threads."""
        self.lock = Lock()
        self.small.clear()
        self.large.clear()
        _helpers.cache_clear()
        if self.before:
            self._set()


def _take_one(
    function: Callable[[_Item], _Made], coming: deque[tuple[_Item, Future[_Made]]]
) -> None:
    """Compute the first item that nobody has begun, in this thread."""
    for i, (item, future) in enumerate(coming):
        if future.cancel():
            done: Future[_Made] = Future()
            done.set_result(function(item))
            coming[i] = item, done
            return


def renewed_in_children(threads: _AnyThreads) -> _AnyThreads:
    """Return threads that begin anew in the child processes of this one."""
    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(after_in_child=threads.forked)
    return threads


blas = renewed_in_children(Threads(_blas))
