"""What happens in a tracked block: each LM call once, whoever makes it, and each answer of its mixture."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakKeyDictionary

import dspy

from moa_dspy.errors import MoAError
from moa_dspy.meter import METER, Meter
from moa_dspy.moa import MoA
from moa_dspy.results import MoAMetadata, MoAPrediction
from moa_dspy.usage import LMCall

__all__ = ["BLOCK", "Answer", "Evaluation", "Watch", "find_mixture", "links", "metadata_of", "mixtures_in"]

# Among DSPy's settings: the watch of the block around.
BLOCK: Final = "moa_dspy_block"

# What traces of a mixture are linked to: `tags` and `model_id`, as `mlflow.update_current_trace` takes them.
links: WeakKeyDictionary[MoA, dict[str, Any]] = WeakKeyDictionary()

_KEPT = 5000  # answers whose proposals are kept
_PROGRAM, _OPTIMIZER = "program", "optimizer"  # who asked, where no agent did


@dataclass(frozen=True)
class Answer:
    """One call of the tracked mixture; `outputs` is None if it raised."""

    stage: str
    inputs: Mapping[str, Any]
    metadata: MoAMetadata
    outputs: Mapping[str, Any] | None


@dataclass
class Evaluation:
    """One run of `dspy.Evaluate`; `score` is the metric's mean, 1 for all right.

    Attributes:
        metric: The metric.
        program: What was evaluated.
        is_trial: Whether an optimizer made it, of a candidate.
        asked: Calls that no agent made: the metric's own.
    """

    metric: Any
    program: Any
    is_trial: bool
    asked: int
    score: float = 0.0
    results: list[Any] = field(default_factory=list)


class Watch(Meter):
    """Counts the LM calls of a block, and keeps what its mixture answered.

    It stands among DSPy's settings, where it sees every LM call of the block's context, and among the mixture's own
    callbacks, where it sees its answers in any other thread too. Those are counted by their metadata.

    Args:
        program: What is tracked.
        changed: Told that something is worth writing: what happened, and on what.
    """

    def __init__(self, program: dspy.Module, changed: Callable[[str, Any], None]) -> None:
        super().__init__(_PROGRAM)
        self.mixture = find_mixture(program)
        self.run_id: str | None = None
        self.stage = "run"
        self.answers: list[Answer] = []
        self._changed = changed
        self._made: list[tuple[str, str]] = []  # of each call here: in which stage of the block, and by whom
        self._elsewhere: list[tuple[str, LMCall]] = []
        self._under_way: dict[str, tuple[str, Mapping[str, Any], bool, bool]] = {}
        self._evaluations: dict[str, Evaluation] = {}
        self._compiles: set[str] = set()
        self._compiled = 0
        self._lock = threading.RLock()

    def settings(self) -> dict[str, Any]:
        settings = {**super().settings(), BLOCK: self}
        if dspy.settings.track_usage and dspy.settings.usage_tracker is None:
            # DSPy notes each program's own usage only where there is no tracker yet. The history has it too.
            del settings["usage_tracker"]
        return settings

    @property
    def is_compiling(self) -> bool:
        """Whether an optimizer is at work."""
        return bool(self._compiles)

    def rows(self) -> list[tuple[str, LMCall]]:
        """The LM calls so far, each with the stage of the block in which it was made."""
        with self._lock:
            made = zip(self._made, self.calls(), strict=True)
            here = [(stage, call.model_copy(update={"agent": agent})) for (stage, agent), call in made]
            return here + self._elsewhere

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        meter: Any = dspy.settings.get(METER)  # of the agent that asks, which tells who it is; else a block's
        with self._lock:
            super().on_lm_start(call_id, instance, inputs)
            self._made.append((self.stage, self.agent if isinstance(meter, Watch) else meter.agent))

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        # A mixture inside another one is a part of its answer.
        if isinstance(instance, MoA) and not any(isinstance(c, MoA) for c in dspy.settings.caller_modules or []):
            is_counted = any(callback is self for callback in dspy.settings.callbacks)
            is_ours = self.mixture is not None and _shape(instance) == _shape(self.mixture)
            # Standing in two lists of callbacks, it is told twice, under one id.
            self._under_way[call_id] = self.stage, inputs.get("kwargs", {}), is_counted, is_ours

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        started, metadata = self._under_way.pop(call_id, None), metadata_of(outputs, exception)
        if started is None or metadata is None:
            return
        stage, inputs, is_counted, is_ours = started
        with self._lock:
            if not is_counted:
                self._elsewhere += [(stage, call) for call in metadata.calls]
            if is_ours and not self.is_compiling:
                answered = None if exception is not None else dict(outputs.items())
                if len(self.answers) >= _KEPT:
                    metadata = metadata.model_copy(update={"all_proposals": [], "calls": []})
                self.answers.append(Answer(stage, inputs, metadata, answered))
        self._changed("answer", None)

    def on_evaluate_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        metric = inputs.get("metric") or instance.metric
        asked = self._asked_by_no_agent()
        self._evaluations[call_id] = Evaluation(metric, inputs.get("program"), self.is_compiling, asked)

    def on_evaluate_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        evaluation = self._evaluations.pop(call_id, None)
        if evaluation is not None and exception is None:
            evaluation.score, evaluation.results = float(outputs.score) / 100, outputs.results
            evaluation.asked = self._asked_by_no_agent() - evaluation.asked
            self._changed("evaluation", evaluation)

    def on_compile_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        with self._lock:
            is_outermost = not self._compiles  # an optimizer that another one uses is a part of it
            self._compiles.add(call_id)
            if is_outermost:
                self._compiled += 1
                self.stage, self.agent = _numbered("compile", self._compiled), _OPTIMIZER
        if is_outermost:
            self._changed("compile", (instance, inputs))

    def on_compile_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        with self._lock:
            self._compiles.discard(call_id)
            if self._compiles:
                return
            self.stage, self.agent = _numbered("run", self._compiled + 1), _PROGRAM
        self._changed("compiled", outputs if exception is None else None)

    def _asked_by_no_agent(self) -> int:
        return sum(agent in (_PROGRAM, _OPTIMIZER) for _, agent in self._made)


def mixtures_in(program: Any) -> list[MoA]:
    """The mixture that a program is, or those that it holds."""
    parts = program.named_sub_modules(MoA) if isinstance(program, dspy.Module) else []
    return [part for _, part in parts if isinstance(part, MoA)]


def find_mixture(program: Any, like: MoA | None = None) -> MoA | None:
    """The first of them, or the first of the same shape."""
    return next((moa for moa in mixtures_in(program) if like is None or _shape(moa) == _shape(like)), None)


def metadata_of(outputs: Any, exception: BaseException | None) -> MoAMetadata | None:
    """What a mixture says of a call that ended so; None if it says nothing."""
    if isinstance(exception, MoAError):
        return exception.metadata
    return outputs.metadata if isinstance(outputs, MoAPrediction) else None


def _shape(moa: MoA) -> Any:
    return moa.strategy.name, [agent.name for agent in moa.agents], list(moa.signature.fields)


def _numbered(stage: str, number: int) -> str:
    return stage if number == 1 else f"{stage}_{number}"
