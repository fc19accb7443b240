"""What `moa-dspy doctor` looks at: whether a model can be asked, and what to do where it cannot."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal

import dspy
import litellm

from moa_dspy.concurrency import Batch, Call, Outcome, Steps, drive
from moa_dspy.meter import metered
from moa_dspy.models import context_window, missing_key, prices_of
from moa_dspy.secrets import redact

if TYPE_CHECKING:
    from moa_dspy.moa import MoA


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: `key`, `name`, `answers`, `json`, `stream`, `price` or `window`.
        state: `fix`: somebody must do something; `note`: worth knowing.
        text: What was found, and what to do.
    """

    name: str
    state: Literal["ok", "note", "fix"]
    text: str


def examine(moa: MoA, seconds: float) -> list[tuple[str, list[str], list[Check]]]:
    """Ask each model of a mixture, all at once; gives its name, its agents and what was found."""
    exams: dict[str, _Examination] = {}
    for agent in moa.agents:
        if agent.lm is not None:
            key = json.dumps([agent.lm.model, agent.lm.kwargs], default=repr)
            names = exams.setdefault(key, _Examination(agent.lm, seconds)).agents
            names += [agent.name] * (agent.name not in names)

    def ask() -> Steps[list[Outcome]]:
        return (yield Batch([Call(exam, {}, {}) for exam in exams.values()], seconds))

    found = []
    for exam, outcome in zip(exams.values(), drive(ask()), strict=True):
        checks = list(exam.checks)
        if outcome.error is not None:
            checks.append(Check("answers", "fix", exam.cut(f"{type(outcome.error).__name__}: {outcome.error}")))
        elif not outcome.finished:
            late = "stream" if any(check.name == "answers" for check in checks) else "answers"
            checks.append(
                Check(late, "fix", f"Not done within {seconds:g} s. Is it loaded, or far away? See --timeout.")
            )
        place = f" at {exam.cut(exam.base)}" if exam.base else ""
        found.append((f"{exam.asked.model}{place}", exam.agents, checks))
    return found


class _Examination(dspy.Module):
    """Looks one model up, then asks it; what is found so far stands in `checks`."""

    def __init__(self, lm: dspy.BaseLM, seconds: float) -> None:
        super().__init__()
        self.asked, self.seconds = lm, seconds
        self.base = str(lm.kwargs.get("api_base") or lm.kwargs.get("base_url") or "")
        self.agents: list[str] = []
        self.checks: list[Check] = []
        self.key = _missing_key(lm)
        self._look_up()

    def cut(self, text: str) -> str:
        """The first line of a text, without secrets."""
        line = next(iter(redact(text, self.asked).strip().splitlines()), "")
        return line if len(line) <= 200 else f"{line[:200]} ..."

    def forward(self) -> None:
        lm: Any = self.asked
        if self.key is not None:
            return
        with suppress(Exception):  # of a class of somebody's own that takes other options
            lm = lm.copy(cache=False, num_retries=0, timeout=self.seconds)
        with dspy.context(lm=lm):
            try:
                is_well = self._answers(lm)
            except Exception as error:
                return self._add("answers", "fix", self._explain(error))
            if is_well:
                self._gives_json()
                self._streams()

    def _add(self, name: str, state: Literal["ok", "note", "fix"], text: str) -> None:
        self.checks.append(Check(name, state, text))

    def _look_up(self) -> None:
        model, prices, window = self.asked.model, prices_of(self.asked), context_window(self.asked.model)
        if self.key is not None:
            self._add("key", "fix", f"{self.key} is not set: export it, or name another with api_key:.")
        else:
            self._add("key", "ok", "found, or none is needed")
        if model.startswith(("simulated/", "router/")):
            return
        provider, _, name = model.rpartition("/") if "/" not in model else model.partition("/")
        known = [one.removeprefix(f"{provider}/") for one in litellm.models_by_provider.get(provider or "openai", ())]
        if name in known:
            self._add("name", "ok", "known")
        elif not self.base:
            near = get_close_matches(name, known, n=1)
            meant = f" Did you mean {provider or 'openai'}/{near[0]}?" if near else ""
            self._add("name", "note", f"LiteLLM's list of models has none of this name.{meant}")
        if prices is not None:
            self._add("price", "ok", f"${prices.input:g} and ${prices.output:g} per million tokens")
        else:
            self._add("price", "note", "Unknown, so costs will be. State it: prices: {input: 0.15, output: 0.60}.")
        if window is not None:
            self._add("window", "ok", f"{window:,} tokens")
        else:
            self._add("window", "note", "Unknown: long proposals are shortened only once the model refuses them.")

    def _answers(self, lm: Any) -> bool:
        with metered("doctor") as meter:
            [first, *_] = lm("Answer with one word: ready") or [None]
        text = first.get("text") if isinstance(first, dict) else first
        call, most = meter.calls()[-1], lm.kwargs.get("max_tokens") or lm.kwargs.get("max_completion_tokens")
        is_cut = call.finish_reason == "length"
        if not (text or "").strip():
            thought = f" after {call.reasoning_tokens} tokens of reasoning" if call.reasoning_tokens else ""
            room = f": max_tokens={most} leaves no room to write. Give it 8000 or more." if most else "."
            self._add("answers", "fix", f"An empty answer{thought}{room}")
        elif is_cut:
            self._add("answers", "fix", f"Cut off: max_tokens={most} is too little for a reasoning model. Raise it.")
        else:
            self._add("answers", "ok", f"in {call.seconds:.1f} s")
        return bool((text or "").strip()) and not is_cut

    def _gives_json(self) -> None:
        try:
            with dspy.context(adapter=dspy.JSONAdapter()):
                dspy.Predict("question -> answer: str, letters: int")(question="How many letters has the word ready?")
            self._add("json", "ok", "keeps to it")
        except Exception as error:
            told = f"Does not keep to JSON ({type(error).__name__}): the chat format is used anyway."
            self._add("json", "note", told)

    def _streams(self) -> None:
        listener = dspy.streaming.StreamListener("answer")
        program: Any = dspy.streamify(
            dspy.Predict("question -> answer"), stream_listeners=[listener], async_streaming=False
        )
        try:
            streams = any(isinstance(one, dspy.streaming.StreamResponse) for one in [*program(question="Say: ready")])
            self._add("stream", "ok" if streams else "note", "streams" if streams else "Comes in one piece.")
        except Exception as error:
            self._add("stream", "note", f"Cannot be streamed ({type(error).__name__}); plain calls work.")

    def _explain(self, error: Exception) -> str:
        """What an error means, and what to do."""
        told = self.cut(str(error))
        if isinstance(error, dspy.LMAuthError):
            return f"The key is refused: {told}"
        if isinstance(error, dspy.LMTimeoutError) or "timed out" in told:
            return f"No answer in time: {told}"
        if isinstance(error, dspy.LMRateLimitError):
            return f"It answers, and wants no more calls now: {told}"
        of_address = (dspy.LMTransportError, dspy.LMInvalidRequestError, dspy.LMUnsupportedModelError)
        if self.base and isinstance(error, of_address):
            hint = "OpenAI's dialect is spoken under /v1; only Ollama, where LiteLLM asks it, has its own without"
            return f"{told} (Is the server there, and has it this model? Is api_base right? {hint}.)"
        return told


def _missing_key(lm: dspy.BaseLM) -> str | None:
    """The variable of a key that is missing, also as LiteLLM knows it of the providers that DSPy leaves to it."""
    engine, own = getattr(lm, "engine", None), ("api_key", "api_base", "base_url", "headers", "extra_headers")
    if (variable := missing_key(lm)) is not None or engine not in ("auto", "litellm"):
        return variable
    if any(lm.kwargs.get(name) for name in own):
        return None
    # Only keys: what else it may want has other ways, as credentials of a cloud have.
    missing = litellm.validate_environment(lm.model)["missing_keys"]
    return next((name for name in missing if name.endswith("_API_KEY")), None)
