"""A strict fake LM: answers for one model, everything it was asked on record, an error when it has no answer left."""

from collections.abc import Sequence
from typing import Any

import dspy
from dspy.lm15 import Request, Usage

from .fake_engine import Answers, AsyncFakeEngine, Call, FakeEngine, current_rollout
from .gate import Gate
from .misuse import FakeMisuse, misuses, strict_fakes

__all__ = ["Call", "FakeLM", "FakeMisuse", "Gate", "misuses", "strict_fakes"]


class FakeLM(dspy.LM):
    """A dspy.LM whose answers a test gives; copies (also deep ones) share answers and record.

    Args:
        name: The model's name, as it shows in usage and history.
        answers: A list, used up in order: dicts (written in the format the prompt asks for), raw text, or exceptions
            to raise; or a callable that makes one from the whole prompt, any number of times.
        usage: Input and output tokens of every call, or a `dspy.lm15.Usage`.
        delay: Seconds a call takes.
        cache: Whether DSPy may answer a repeated call from its cache, unseen by the fake.
        gate: Where calls wait for each other before they answer.
        num_retries: How often DSPy repeats a call that failed with a transient error.
        **kwargs: As for dspy.LM, e.g. `temperature`, `rollout_id`.

    Example:
        >>> fake = FakeLM("a", [{"answer": "42"}, dspy.lm15.RateLimitError("slow down")])
        >>> moa(question="...")
        >>> assert fake.rollouts == [None, 1] and "..." in fake.prompts[0]
        >>> fake.assert_used_up()
    """

    def __init__(
        self,
        name: str,
        answers: Answers,
        *,
        usage: tuple[int, int] | Usage = (10, 5),
        delay: float = 0.0,
        cache: bool = False,
        gate: Gate | None = None,
        num_retries: int = 0,
        **kwargs: Any,
    ) -> None:
        tokens = usage if isinstance(usage, Usage) else Usage(input_tokens=usage[0], output_tokens=usage[1])
        engine = FakeEngine(name, answers, tokens, delay, gate)
        super().__init__(
            name, cache=cache, num_retries=num_retries, engine=engine, async_engine=AsyncFakeEngine(engine), **kwargs
        )
        engine.owner = self

    @property
    def log(self) -> list[Call]:
        """The calls in order of arrival; what DSPy's cache answered is not among them."""
        return self._fake.log

    @property
    def calls(self) -> int:
        """How often the model was asked."""
        return len(self.log)

    @property
    def prompts(self) -> list[str]:
        """The whole text of every call: system message, demos, request."""
        return [call.prompt for call in self.log]

    @property
    def requests(self) -> list[Request]:
        """What DSPy sent: `messages`, `system`, `config.temperature` and the like."""
        return [call.request for call in self.log]

    @property
    def rollouts(self) -> list[int | None]:
        """The rollout id of every call; None where there was none."""
        return [call.rollout_id for call in self.log]

    def assert_used_up(self) -> None:
        """Fail unless every answer of the list was asked for."""
        answers = self._fake.answers
        if isinstance(answers, Sequence):
            left = answers[self.calls :]
            assert not left, f"fake {self.model!r} has {len(left)} of {len(answers)} answers left"

    @property
    def _fake(self) -> FakeEngine:
        engine = self.engine
        assert isinstance(engine, FakeEngine)
        return engine

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        token = current_rollout.set(kwargs.get("rollout_id", self.kwargs.get("rollout_id")))
        try:
            return super().__call__(prompt, messages=messages, **kwargs)
        finally:
            current_rollout.reset(token)

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        token = current_rollout.set(kwargs.get("rollout_id", self.kwargs.get("rollout_id")))
        try:
            return await super().acall(prompt, messages=messages, **kwargs)
        finally:
            current_rollout.reset(token)

    @classmethod
    def load_state(cls, state: dict[str, Any], *, allow_custom_lm_class: bool = False) -> Any:
        """Find the fake that was saved, as long as it is alive: answers and record live in this process."""
        owner = FakeEngine.load_state(state["engine"]["state"]).owner
        return owner.copy(**{key: state[key] for key in ("temperature", "max_tokens", "rollout_id") if key in state})
