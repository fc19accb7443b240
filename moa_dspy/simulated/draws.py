"""Draws that depend on nothing but their key: the same in every process, thread and Python version."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def uniform(*key: object) -> float:
    """Return a number strictly between 0 and 1 that is a fixed function of the key.

    Args:
        *key: The parts that the draw depends on; each counts by its `str`.

    Example:
        >>> uniform("alice", "What is 2+2?") == uniform("alice", "What is 2+2?")
        True
    """
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(errors="replace"), digest_size=8).digest()
    # 52 bits and a half step: exact in a float, and never 0.0 or 1.0, which an inverse normal cannot take.
    return ((int.from_bytes(digest, "big") >> 12) + 0.5) / 2**52


def pick(options: Sequence[T], *key: object) -> T:
    """Return one of the options, chosen by the key.

    Example:
        >>> pick(["only"], "any", "key")
        'only'
    """
    return options[int(uniform(*key) * len(options))]


def shuffled(options: Sequence[T], *key: object) -> list[T]:
    """Return the options in an order chosen by the key.

    Example:
        >>> sorted(shuffled([1, 2, 3], "key"))
        [1, 2, 3]
    """
    return sorted(options, key=lambda option: uniform(*key, option))
