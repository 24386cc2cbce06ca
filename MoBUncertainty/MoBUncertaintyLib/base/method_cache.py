"""Methods that keep what they returned."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, TypeVar

Method = TypeVar("Method", bound=Callable[..., Any])


def cached_method(maxsize: int) -> Callable[[Method], Method]:
    """Decorate a method so that its object keeps the latest `maxsize` results, by their (hashable) arguments.

    `functools.lru_cache` of a bound method refers to the object that keeps it: a circle that stays in memory, with the
    volumes that hang on it, until Python happens to look for circles. This cache goes with its object.
    """

    def decorate(method: Method) -> Method:
        kept = f"_results_of_{method.__name__}"

        @wraps(method)
        def call(self: Any, *arguments: Any) -> Any:
            if kept not in self.__dict__:
                reference = weakref.ref(self)
                self.__dict__[kept] = lru_cache(maxsize)(lambda *given: method(reference(), *given))
            return self.__dict__[kept](*arguments)

        return call  # type: ignore[return-value]  # takes and returns what the method does

    return decorate
