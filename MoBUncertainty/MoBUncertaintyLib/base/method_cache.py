"""Methods that keep what they returned, as long as their object lives."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, TypeVar

Method = TypeVar("Method", bound=Callable[..., Any])


def cached_method(maxsize: int) -> Callable[[Method], Method]:
    """Decorate a method so that its object keeps the latest `maxsize` results, by their (hashable) arguments.

    `functools.lru_cache` of a bound method would be a circle, which holds large volumes until Python looks for circles.
    """

    def decorate(method: Method) -> Method:
        name = f"_results_of_{method.__name__}"

        @wraps(method)
        def call(self: Any, *arguments: Any) -> Any:
            if name not in self.__dict__:
                reference = weakref.ref(self)
                self.__dict__[name] = lru_cache(maxsize)(lambda *values: method(reference(), *values))
            return self.__dict__[name](*arguments)

        return call  # type: ignore[return-value]  # takes and returns what the method does

    return decorate
