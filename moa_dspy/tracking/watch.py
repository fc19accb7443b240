"""What happens in a tracked block: each LM call once, whoever makes it, and each answer of its mixture; as tables."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final
from weakref import WeakKeyDictionary

import dspy
import numpy as np

from moa_dspy.errors import MoAError
from moa_dspy.meter import METER, Meter
from moa_dspy.moa import MoA
from moa_dspy.results import MoAMetadata, MoAPrediction
from moa_dspy.usage import LMCall, Usage

__all__ = ["BLOCK", "Answer", "Watch", "find_mixture", "links", "metadata_of", "named", "suffix"]

# Among DSPy's settings: the watch of the block around.
BLOCK: Final = "moa_dspy_block"

# What traces of a mixture are linked to: `tags` and `model_id`, as `mlflow.update_current_trace` takes them.
links: WeakKeyDictionary[MoA, dict[str, Any]] = WeakKeyDictionary()

Table = list[dict[str, Any]]

_MEASURED = {"calls", "prompt_tokens", "completion_tokens", "cost_usd", "unpriced_calls", "failed_calls"}
_KEPT = 5000  # answers whose proposals are kept
_PROGRAM, _OPTIMIZER = "program", "optimizer"  # who asked, where no agent did


@dataclass(frozen=True)
class Answer:
    """One call of the tracked mixture; `outputs` is None if it raised."""

    stage: str
    inputs: Mapping[str, Any]
    metadata: MoAMetadata
    outputs: Mapping[str, Any] | None


class Watch(Meter):
    """Counts the LM calls of a block, and keeps what its mixture answered.

    It stands among DSPy's settings, where it sees every LM call of the block's context, and among the callbacks of the
    program's mixtures, where it sees their answers in any other thread too. Those are counted by their metadata. The
    block is at a stage: `"run"`, or `"compile"` while an optimizer works, `"run_2"` after it, and so on.
    """

    def __init__(self, program: dspy.Module) -> None:
        super().__init__(_PROGRAM)
        # The first is the tracked one: its answers are kept, but for those that an optimizer asked for.
        self.mixtures = [part for _, part in program.named_sub_modules(MoA) if isinstance(part, MoA)]
        self.answers: list[Answer] = []
        self.stage = "run"
        self._made: list[tuple[str, str]] = []  # of each call here: in which stage of the block, and by whom
        self._elsewhere: list[tuple[str, LMCall]] = []
        self._under_way: dict[str, tuple[str, Mapping[str, Any], bool]] = {}
        self._compiles: set[str] = set()
        self._compiled = 0
        self._lock = threading.RLock()

    @property
    def run_id(self) -> str | None:
        """The MLflow run of the block, if there is one."""
        return None

    @property
    def is_compiling(self) -> bool:
        """Whether an optimizer is at work."""
        return bool(self._compiles)

    def settings(self) -> dict[str, Any]:
        settings = {**super().settings(), BLOCK: self}
        if dspy.settings.track_usage and dspy.settings.usage_tracker is None:
            # DSPy notes each program's own usage only where there is no tracker yet. The history has it too.
            del settings["usage_tracker"]
        return settings

    def calls(self) -> list[LMCall]:
        """The LM calls so far."""
        return [call for _, call in self.rows()]

    def rows(self) -> list[tuple[str, LMCall]]:
        """The LM calls so far, each with the stage of the block in which it was made."""
        with self._lock:
            made = zip(self._made, super().calls(), strict=True)
            here = [(stage, call.model_copy(update={"agent": agent})) for (stage, agent), call in made]
            return here + self._elsewhere

    def measure(self) -> dict[str, float]:
        """What all calls took, a cost that is not known left out, and how the mixture answered at this stage."""
        found: dict[str, float] = Usage.of(self.calls()).model_dump(include=_MEASURED, exclude_none=True)
        answers = list(self.answers)
        latest = [answer for answer in answers if answer.stage == answers[-1].stage]
        if latest:
            agreements = [one for answer in latest if (one := answer.metadata.agreement) is not None]
            found |= {"agreement": fmean(agreements)} if agreements else {}
            found["degraded_share"] = fmean(answer.outputs is None or answer.metadata.degraded for answer in latest)
            found |= _seconds([answer.metadata.seconds for answer in latest])
        return {"questions": len(answers), **found}

    def call_table(self) -> Table:
        """What each agent's calls of each model took, by stage of the block: seconds are those of one call."""
        groups: dict[tuple[str, str, str], list[LMCall]] = {}
        for stage, call in self.rows():
            groups.setdefault((stage, call.agent, call.model), []).append(call)
        table = []
        for (stage, agent, model), calls in groups.items():
            # What the cache answered took no model's time; how long an abandoned call would have taken is not known.
            seconds = [call.seconds for call in calls if not call.cache_hit and call.error != "Unfinished"]
            usage = Usage.of(calls).model_dump(exclude={"seconds"})
            table.append({"stage": stage, "agent": agent, "model": model, **usage, **_seconds(seconds)})
        return table

    def proposal_table(self, stage: str) -> Table:
        """Who proposed what at a stage: one row per proposal or failure.

        Columns: `call` (from 1), `input_*`, `agent`, `model`, `layer`, `sample`, `output_*`, `chosen` (None where the
        strategy wrote an answer of its own), `answer_*`, `seconds`, `error`. MLflow's page cannot show names with dots.
        """
        rows: Table = []
        for number, answer in enumerate((answer for answer in self.answers if answer.stage == stage), start=1):
            metadata = answer.metadata
            asked, answered = {"call": number, **named("input", answer.inputs)}, named("answer", answer.outputs or {})
            for one in metadata.all_proposals:
                said = one.model_dump(include={"agent", "model", "layer", "sample"}) | named("output", one.outputs)
                chosen = None if metadata.selected is None else one.id == metadata.selected
                rows.append({**asked, **said, "chosen": chosen, **answered, "seconds": one.seconds, "error": None})
            for failure in metadata.failures:
                failed = failure.model_dump(include={"agent", "model", "seconds"})
                rows.append({**asked, **failed, **answered, "error": f"{failure.error}: {failure.message}"})
        return rows

    def asked_by_no_agent(self) -> int:
        """How many calls no agent of a mixture made: a metric's, for instance."""
        return sum(agent in (_PROGRAM, _OPTIMIZER) for _, agent in self._made)

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        meter: Any = dspy.settings.get(METER)  # of the agent that asks, which tells who it is; else a block's
        with self._lock:
            super().on_lm_start(call_id, instance, inputs)
            self._made.append((self.stage, self.agent if isinstance(meter, Watch) else meter.agent))

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        # A mixture inside another one is a part of its answer.
        if isinstance(instance, MoA) and not any(isinstance(c, MoA) for c in dspy.settings.caller_modules or []):
            is_ours = bool(self.mixtures) and _shape(instance) == _shape(self.mixtures[0])
            # Standing in two lists of callbacks, it is told twice, under one id.
            self._under_way[call_id] = self.stage, inputs.get("kwargs", {}), is_ours

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        started, metadata = self._under_way.pop(call_id, None), metadata_of(outputs, exception)
        if started is None or metadata is None:
            return
        stage, inputs, is_ours = started
        with self._lock:
            if not any(callback is self for callback in dspy.settings.callbacks):
                self._elsewhere += [(stage, call) for call in metadata.calls]
            if is_ours and not self.is_compiling:
                answered = None if exception is not None else dict(outputs.items())
                if len(self.answers) >= _KEPT:
                    metadata = metadata.model_copy(update={"all_proposals": [], "calls": []})
                self.answers.append(Answer(stage, inputs, metadata, answered))

    def on_compile_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        with self._lock:
            if not self._compiles:  # an optimizer that another one uses is a part of it
                self._compiled += 1
                self.stage, self.agent = f"compile{suffix(self._compiled)}", _OPTIMIZER
            self._compiles.add(call_id)

    def on_compile_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        with self._lock:
            self._compiles.discard(call_id)
            if not self._compiles:
                self.stage, self.agent = f"run{suffix(self._compiled + 1)}", _PROGRAM


def find_mixture(program: Any, like: MoA) -> MoA | None:
    """The mixture of the same agents and task in a program, or which it is."""
    parts = program.named_sub_modules(MoA) if isinstance(program, dspy.Module) else []
    return next((part for _, part in parts if isinstance(part, MoA) and _shape(part) == _shape(like)), None)


def metadata_of(outputs: Any, exception: BaseException | None) -> MoAMetadata | None:
    """What a mixture says of a call that ended so; None if it says nothing."""
    if isinstance(exception, MoAError):
        return exception.metadata
    return outputs.metadata if isinstance(outputs, MoAPrediction) else None


def named(kind: str, values: Any) -> dict[str, Any]:
    """The columns of a table for these values."""
    return {f"{kind}_{name}": value for name, value in values.items()}


def _seconds(seconds: Sequence[float]) -> dict[str, Any]:
    p50, p95 = np.percentile(seconds, [50, 95]).tolist() if seconds else (None, None)
    return {"seconds_p50": p50, "seconds_p95": p95}


def _shape(moa: MoA) -> Any:
    return moa.strategy.name, [agent.name for agent in moa.agents], list(moa.signature.fields)


def suffix(number: int) -> str:
    """What tells the second of a kind and those after it apart."""
    return "" if number == 1 else f"_{number}"
