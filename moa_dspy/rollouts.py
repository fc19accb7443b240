"""Rollouts: how one model gives several answers.

DSPy keys its cache by `rollout_id`, so two samples of one prompt need two ids. Ids come from
several places at once (a sample's number, BestOfN around the mixture, a mixture inside a
mixture) and are composed, never overwritten: else two different samples would share an id,
and the cache would give both one answer.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

import dspy

__all__ = ["AMBIENT", "Rollout", "ambient_rollout", "ask_again", "compose", "resample", "rollout_of", "sample_rollout"]

# Among DSPy's settings, because those reach the workers of dspy.Parallel and context variables do not.
AMBIENT: Final = "moa_dspy_rollout"


@dataclass(frozen=True)
class Rollout:
    """A request for another sample: the cache id, and the temperature if the asker sets one."""

    id: int
    temperature: float | None = None


def sample_rollout(number: int) -> Rollout | None:
    """The rollout of an agent's sample: none for the first one, numbered 0.

    Counted downwards, so as not to meet the ids that users, BestOfN and optimizers count upwards.
    """
    return Rollout(-number) if number else None


def rollout_of(lm: dspy.BaseLM | None) -> Rollout | None:
    """The rollout that an LM's own settings ask for."""
    kwargs = getattr(lm, "kwargs", None) or {}
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


def ambient_rollout() -> Rollout | None:
    """The rollout in force around this call: an enclosing mixture's, else that of `dspy.settings.lm`."""
    return dspy.settings.get(AMBIENT) or rollout_of(dspy.settings.lm)


def ask_again(lm: dspy.BaseLM, number: int = 1) -> dspy.BaseLM:
    """The LM as it answers once more, past DSPy's cache, and at temperature 0 with another reply."""
    again = Rollout(number, 1.0 if lm.kwargs.get("temperature") == 0 else None)
    return resample(lm, compose(rollout_of(lm), again))


def resample(lm: dspy.BaseLM, rollout: Rollout | None, **attributes: Any) -> dspy.BaseLM:
    """The LM as it answers this rollout: itself, or a cheap copy that shares its connections and its history.

    Args:
        lm: The LM.
        rollout: What to ask it for; None for its answer as it is.
        **attributes: What else a copy shall have.
    """
    if rollout is not None:
        attributes["rollout_id"] = rollout.id
        if rollout.temperature is not None:
            attributes["temperature"] = rollout.temperature
    # Whoever gave the LM finds all of its calls in its history, those of copies too.
    return lm.copy(**{"history": lm.history, **attributes}) if attributes else lm
