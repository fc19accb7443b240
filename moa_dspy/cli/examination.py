"""What `moa-dspy doctor` looks at: whether a model can be asked, and what to do where it cannot."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal

import dspy
from dspy.clients.model_metadata import model_info

from moa_dspy.concurrency import Batch, Call, Outcome, Steps, drive
from moa_dspy.meter import metered
from moa_dspy.models import missing_key
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
    who: dict[str, tuple[dspy.BaseLM, list[str]]] = {}
    for agent in moa.agents:
        if agent.lm is not None:
            names = who.setdefault(json.dumps([agent.lm.model, agent.lm.kwargs], default=repr), (agent.lm, []))[1]
            names += [agent.name] * (agent.name not in names)
    exams = [_Examination(lm, seconds) for lm, _ in who.values()]

    def ask() -> Steps[list[Outcome]]:
        outcomes = yield Batch([Call(exam, {}, {}) for exam in exams], seconds)
        return outcomes

    found = []
    for exam, outcome, (lm, names) in zip(exams, drive(ask()), who.values(), strict=True):
        checks = list(exam.checks)
        if outcome.error is not None:
            checks.append(Check("answers", "fix", _cut(f"{type(outcome.error).__name__}: {outcome.error}", lm)))
        elif not outcome.finished:
            late = "answers" if not any(check.name == "answers" for check in checks) else "stream"
            checks.append(
                Check(late, "fix", f"Not done within {seconds:g} s. Is it loaded, or far away? See --timeout.")
            )
        place = f" at {_cut(_base(lm), lm)}" if _base(lm) else ""
        found.append((f"{lm.model}{place}", names, checks))
    return found


class _Examination(dspy.Module):
    """Looks one model up, then asks it; what is found so far stands in `checks`."""

    def __init__(self, lm: dspy.BaseLM, seconds: float) -> None:
        super().__init__()
        self.asked = lm
        self.seconds = seconds
        self.checks: list[Check] = []
        self.variable = missing_key(lm)
        self._look_up()  # before the clock starts: it may import LiteLLM

    def forward(self) -> None:
        lm: Any = self.asked
        if self.variable is not None:
            return
        with suppress(Exception):  # of a class of somebody's own that takes other options
            lm = lm.copy(cache=False, num_retries=0, timeout=self.seconds)
        with dspy.context(lm=lm):
            if self._answers(lm):
                self._gives_json()
                self._streams()

    def _add(self, name: str, state: Literal["ok", "note", "fix"], text: str) -> None:
        self.checks.append(Check(name, state, text))

    def _look_up(self) -> None:
        model, prices, variable = self.asked.model, getattr(self.asked, "prices", None), self.variable
        if variable is not None:
            self._add("key", "fix", f"{variable} is not set: export it, or name another with api_key:.")
        else:
            self._add("key", "ok", "found, or none is needed")
        if model.startswith(("simulated/", "router/")):
            return
        provider, name = model.split("/", 1) if "/" in model else ("openai", model)
        info = model_info(provider, name)
        if info.get("litellm_provider"):
            self._add("name", "ok", "known")
        elif not _base(self.asked):
            near = get_close_matches(name, list(_names_of(provider)), n=1)
            meant = f" Did you mean {provider}/{near[0]}?" if near else ""
            self._add("name", "note", f"No model of this name is in DSPy's metadata.{meant}")
        cost = [info.get(f"{kind}_cost_per_token") for kind in ("input", "output")]
        if prices is not None or None not in cost:
            told = [prices.input, prices.output] if prices is not None else [one * 1e6 for one in cost]
            self._add("price", "ok", "${:g} and ${:g} per million tokens".format(*told))
        else:
            self._add("price", "note", "Unknown, so costs will be. State it: prices: {input: 0.15, output: 0.60}.")
        window = info.get("max_input_tokens")
        if window:
            self._add("window", "ok", f"{window:,} tokens")
        else:
            self._add("window", "note", "Unknown: long proposals are shortened only once the model refuses them.")

    def _answers(self, lm: Any) -> bool:
        try:
            with metered("doctor") as meter:
                [first, *_] = lm("Answer with one word: ready") or [None]
        except Exception as error:
            self._add("answers", "fix", _explain(error, lm))
            return False
        text = first.get("text") if isinstance(first, dict) else first
        call, most = meter.calls()[-1], lm.kwargs.get("max_tokens") or lm.kwargs.get("max_completion_tokens")
        if not (text or "").strip():
            thought = f" after {call.reasoning_tokens} tokens of reasoning" if call.reasoning_tokens else ""
            self._add(
                "answers",
                "fix",
                f"An empty answer{thought}"
                + (f": max_tokens={most} leaves no room to write. Give it 8000 or more." if most else "."),
            )
            return False
        if call.finish_reason == "length":
            self._add("answers", "fix", f"Cut off: max_tokens={most} is too little for a reasoning model. Raise it.")
            return False
        self._add("answers", "ok", f"in {call.seconds:.1f} s")
        return True

    def _gives_json(self) -> None:
        try:
            with dspy.context(adapter=dspy.JSONAdapter()):
                dspy.Predict("question -> answer: str, letters: int")(question="How many letters has the word ready?")
            self._add("json", "ok", "keeps to it")
        except Exception as error:
            self._add(
                "json", "note", f"Does not keep to JSON ({type(error).__name__}): the chat format is used anyway."
            )

    def _streams(self) -> None:
        listener = dspy.streaming.StreamListener("answer")
        program: Any = dspy.streamify(
            dspy.Predict("question -> answer"), stream_listeners=[listener], async_streaming=False
        )
        try:
            pieces = [one for one in program(question="Say: ready") if isinstance(one, dspy.streaming.StreamResponse)]
            self._add("stream", "ok" if pieces else "note", "streams" if pieces else "Comes in one piece.")
        except Exception as error:
            self._add("stream", "note", f"Cannot be streamed ({type(error).__name__}); plain calls work.")


def _explain(error: Exception, lm: Any) -> str:
    """What an error means, and what to do."""
    told = _cut(str(error), lm)
    if isinstance(error, dspy.LMAuthError):
        return f"The key is refused: {told}"
    if isinstance(error, dspy.LMTimeoutError) or "timed out" in told:
        return f"No answer in time: {told}"
    if isinstance(error, dspy.LMRateLimitError):
        return f"It answers, and wants no more calls now: {told}"
    is_address = isinstance(error, (dspy.LMTransportError, dspy.LMInvalidRequestError, dspy.LMUnsupportedModelError))
    return (_check_address(lm) if is_address else None) or told


def _check_address(lm: Any) -> str | None:
    """What is wrong with the address of a server of one's own, as far as its list of models tells."""
    base, (provider, _, name) = _base(lm).rstrip("/"), lm.model.partition("/")
    if not base:
        return None
    # By itself DSPy asks in OpenAI's dialect, which all serve under /v1; LiteLLM asks Ollama in its own.
    is_ollama = provider.startswith("ollama") and getattr(lm, "engine", None) == "litellm"
    root = base.removesuffix("/v1")
    other = root if is_ollama or base != root else f"{root}/v1"
    for address in dict.fromkeys((base, other, root)):
        listed = _list_models(address, "/api/tags" if is_ollama else "/models", lm)
        if listed is None:
            continue
        shown = _cut(address, lm)
        if address != base:
            return f"The address is wrong: write api_base: {shown} ({'without' if address == root else 'with'} /v1)."
        if name not in listed:
            near = get_close_matches(name, listed, n=1)
            meant = f"Did you mean {near[0]}? " if near else ""
            return f"{shown} has no model {name}. {meant}It has: {', '.join(listed[:8]) or 'none'}."
        return None
    return f"Nobody answers at {_cut(base, lm)}: is the server running, and is this its address?"


def _list_models(address: str, path: str, lm: Any) -> list[str] | None:
    key = lm.kwargs.get("api_key")
    request = urllib.request.Request(address + path, headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=3) as reply:
            data = json.loads(reply.read(2**20))
        return [str(row.get("id") or row.get("name")) for row in data.get("data", data.get("models"))]
    except (OSError, ValueError, AttributeError, TypeError):  # no server, no JSON, or of another shape
        return None


def _names_of(provider: str) -> Iterator[str]:
    with suppress(ImportError):
        import litellm

        for name, info in litellm.model_cost.items():
            if info.get("litellm_provider") == provider:
                yield name.removeprefix(f"{provider}/")


def _base(lm: Any) -> str:
    return str(lm.kwargs.get("api_base") or lm.kwargs.get("base_url") or "")


def _cut(text: str, lm: Any) -> str:
    line = next(iter(redact(text, lm).strip().splitlines()), "")
    return line if len(line) <= 200 else f"{line[:200]} ..."
