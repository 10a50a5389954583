"""Run generators that yield progress and return a result."""

from __future__ import annotations

from collections import abc
from typing import Any, TypeVar

T = TypeVar("T")
Y = TypeVar("Y")
Z = TypeVar("Z")


def result_of(work: abc.Generator[Any, None, T]) -> T:
    """Exhaust a generator and return its result.

    Examples
    --------
    >>> def work():
    ...     yield "half done"
    ...     return 7
    >>> result_of(work())
    7
    """
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result


def relayed(
    work: abc.Generator[Y, None, T], convert: abc.Callable[[Y], Z]
) -> abc.Generator[Z, None, T]:
    """Run a generator as a part of another: convert what it yields, and return its result.

    Examples
    --------
    >>> def work():
    ...     yield 1
    ...     return 7
    >>> list(relayed(work(), lambda done: f"{done} of 2"))
    ['1 of 2']
    """
    while True:
        try:
            event = next(work)
        except StopIteration as end:
            result: T = end.value
            return result
        yield convert(event)
