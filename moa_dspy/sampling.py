"""Rollouts: how one model is asked again for another answer.

DSPy keys its cache by `rollout_id`, so two samples of one prompt need two ids. Ids come from
several places at once (a sample's number, BestOfN around the mixture, a mixture inside a
mixture) and are composed, never overwritten: else two different samples would share an id,
and the cache would give both one answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import dspy

__all__ = ["Rollout", "ambient", "compose", "resampled", "rollout_of", "sample", "sampling"]


@dataclass(frozen=True)
class Rollout:
    """A request for another sample: the cache id, and the temperature if the asker sets one."""

    id: int
    temperature: float | None = None


def sample(number: int) -> Rollout | None:
    """The rollout of an agent's sample: none for the first one, numbered 0.

    Counted downwards, so as not to meet the ids that users, BestOfN and optimizers count upwards.
    """
    return Rollout(-number) if number else None


def rollout_of(lm: dspy.BaseLM | None) -> Rollout | None:
    """The rollout that an LM's own settings ask for."""
    kwargs = getattr(lm, "kwargs", {})
    if kwargs.get("rollout_id") is None:
        return None
    return Rollout(kwargs["rollout_id"], kwargs.get("temperature"))


def compose(outer: Rollout | None, inner: Rollout | None) -> Rollout | None:
    """One rollout of two, distinct for every pair; the inner temperature wins."""
    if outer is None or inner is None:
        return outer or inner
    # Of a fixed size, however deep mixtures are nested: DSPy caches nothing under an id of more than 64 bits.
    digest = hashlib.blake2b(f"{outer.id}/{inner.id}".encode(), digest_size=6).digest()
    temperature = outer.temperature if inner.temperature is None else inner.temperature
    return Rollout(int.from_bytes(digest, "big"), temperature)


def ambient() -> Rollout | None:
    """The rollout in force around this call: an enclosing mixture's, else that of `dspy.settings.lm`."""
    return dspy.settings.get(_AMBIENT) or rollout_of(dspy.settings.lm)


@contextmanager
def sampling(rollout: Rollout | None) -> Iterator[None]:
    """Make `rollout` the ambient one for what runs inside."""
    with dspy.context(**{_AMBIENT: rollout}):
        yield


def resampled(lm: dspy.BaseLM, rollout: Rollout | None) -> dspy.BaseLM:
    """The LM as it answers this rollout: itself without one, else a cheap copy that shares its connections."""
    if rollout is None:
        return lm
    own = {} if rollout.temperature is None else {"temperature": rollout.temperature}
    return lm.copy(rollout_id=rollout.id, **own)


# Among DSPy's settings, because those reach the workers of dspy.Parallel and context variables do not.
_AMBIENT = "moa_dspy_rollout"
