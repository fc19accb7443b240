"""Signatures that are derived at every call, kept: making a class takes a millisecond or two."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import lru_cache, wraps
from typing import Any

import dspy

Signature = type[dspy.Signature]


def kept(derive: Callable[..., Signature]) -> Callable[..., Signature]:
    """The function, with its results kept by the signature and its instructions.

    The instructions count on their own: InferRules writes its rules into the class itself.
    """

    @lru_cache(maxsize=256)
    def derived(signature: Hashable, instructions: str, *arguments: Hashable) -> Signature:
        return derive(signature, *arguments)

    @wraps(derive)
    def wrapper(signature: Signature, *arguments: Any) -> Signature:
        of: Any = signature
        return derived(of, signature.instructions, *arguments)

    return wrapper
