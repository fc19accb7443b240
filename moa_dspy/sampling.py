"""Rollouts: how one model is asked again for another answer.

DSPy keys its cache by `rollout_id`, so two samples of one prompt need two ids. Ids come from
several places at once (a sample's number, BestOfN around the mixture, a mixture inside a
mixture) and are composed, never overwritten: else two different samples would share an id,
and the cache would give both one answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import dspy

# Larger than any number of samples that one place asks for, so that composed ids do not collide.
_STRIDE = 100_003


@dataclass(frozen=True)
class Rollout:
    """A request for another sample: the cache id, and the temperature if the asker sets one."""

    id: int
    temperature: float | None = None


_ambient: ContextVar[Rollout | None] = ContextVar("moa_dspy_rollout", default=None)


def rollout_of(lm: dspy.BaseLM | None) -> Rollout | None:
    """The rollout that an LM's own settings ask for."""
    kwargs = getattr(lm, "kwargs", {})
    if kwargs.get("rollout_id") is None:
        return None
    return Rollout(kwargs["rollout_id"], kwargs.get("temperature"))


def ambient() -> Rollout | None:
    """The rollout in force around this call: an enclosing mixture's, else that of `dspy.settings.lm`."""
    return _ambient.get() or rollout_of(dspy.settings.lm)


def compose(outer: Rollout | None, inner: Rollout | None) -> Rollout | None:
    """One rollout of two, distinct for every pair; the inner temperature wins."""
    if outer is None or inner is None:
        return outer or inner
    temperature = outer.temperature if inner.temperature is None else inner.temperature
    return Rollout((outer.id + 1) * _STRIDE + inner.id, temperature)


@contextmanager
def sampling(rollout: Rollout | None) -> Iterator[None]:
    """Make `rollout` the ambient one for what runs inside."""
    token = _ambient.set(rollout)
    try:
        yield
    finally:
        _ambient.reset(token)


def resampled(lm: dspy.BaseLM, rollout: Rollout | None) -> dspy.BaseLM:
    """The LM as it answers this rollout: itself without one, else a cheap copy that shares its connections."""
    if rollout is None:
        return lm
    own = {} if rollout.temperature is None else {"temperature": rollout.temperature}
    return lm.copy(rollout_id=rollout.id, **own)
