"""A provider's batch API: half the price, answers within a day; each command collects what is done and asks on.

Nobody knows beforehand what a program will ask. So each question is put to the mixture with LMs that answer from what
has come so far. A request without a reply ends the attempt, once those that run side by side with it are made too, and
goes into the next batch: a vote is done with the second command; a judge, and each layer more, takes one more.
"""

from __future__ import annotations

import importlib
import json
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any, Final

import dspy
from dspy.lm15 import OpenAIChatLM, Request, Response

from moa_dspy.agent import Agent, find_modules
from moa_dspy.limits import give_limits
from moa_dspy.meter import METER
from moa_dspy.models import CLIENT_OPTIONS, Prices, missing_key, prices_of
from moa_dspy.recording.asking import Asker
from moa_dspy.recording.files import RecordingFile
from moa_dspy.recording.rows import InBatch, Row, RowError
from moa_dspy.recording.summary import Batch, Summary
from moa_dspy.rollouts import ambient_rollout
from moa_dspy.secrets import redact, scrub
from moa_dspy.usage import LMCall
from moa_dspy.values import hash_of

__all__ = ["Batches", "as_batched"]

_DESK: Final = "moa_dspy_batch_desk"  # among DSPy's settings: the question that is being asked
_PROVIDERS = ("openai", "azure", "litellm_proxy")
_ENDPOINT = "/v1/chat/completions"
_ENDED = ("completed", "failed", "expired", "cancelled")
_MOST = 10_000  # requests in one batch, which may hold 200 MB
_UNKNOWN = "file:"  # of a batch that was to be made of this file: it is not known whether it was


class Batches:
    """Answers questions from what batches have given, and submits what is lacking.

    Args:
        asker: Of a mixture that `as_batched` has made.
        file: Where the questions stand until they are answered.
    """

    def __init__(self, asker: Asker, file: RecordingFile) -> None:
        self.asker, self.file, moa = asker, file, asker.moa
        # All is submitted at once: nothing is saved by not waiting for what is paid.
        moa.strategy.early_stop = False
        give_limits(moa, moa.limits.model_copy(update={"quorum": None}))
        self.states: list[Batch] = []
        self._ambient = _from_batches(dspy.settings.lm) if _provider_of(dspy.settings.lm) else dspy.settings.lm
        others = [predictor.lm for other in asker.others.values() for predictor in other.predictors()]
        lms: list[Any] = [self._ambient, *others, *(lm for agent in asker.agents for lm in agent.lms)]
        engines = [getattr(lm, "engine", None) for lm in lms]
        self._providers = {engine.group: engine for engine in engines if isinstance(engine, _Provider)}
        self._replies: dict[str, dict[str, Any]] = {}
        self._found: dict[str, str | None] = {}  # what was to be submitted -> the batch that was made of it
        self._desks: dict[str, _Desk] = {}

    def collect(self, rows: Iterable[Row]) -> None:
        """Fetch what has been done of what these rows wait for."""
        waited: dict[str, list[str]] = {}
        for row in rows:
            for key, id in (row.batch.waiting if row.batch else {}).items():
                waited.setdefault(id, []).append(key)
        for id, keys in waited.items():
            provider = self._providers.get(_group_of(keys[0]))
            if provider is None:  # nobody asks this model any more
                continue
            try:
                if id.startswith(_UNKNOWN):
                    self._found[id] = provider.find(id.removeprefix(_UNKNOWN))
                if (found := self._found.get(id, id)) is not None:
                    state, replies = provider.fetch(found, keys)
                    self._replies |= replies
                    self.states.append(state)
            except Exception as error:  # LiteLLM's: they go on waiting
                status = f"not to be reached ({type(error).__name__}: {error})"
                self.states.append(Batch(model=provider.lm.model, id=id, status=status, requests=len(keys)))

    def __call__(
        self, question: Row, earlier: Row | None, max_calls: int | None = None
    ) -> tuple[Row | None, list[LMCall]]:
        """The question's row, if all replies that it takes are there."""
        start = earlier
        if start is None or not start.is_of(question):
            paid = [] if earlier is None else earlier.paid
            start = question.model_copy(update={"mixture": self.asker.mixture, "earlier_calls": paid})
        desk = _Desk(start, self._replies, self._found)
        try:
            with dspy.context(**{_DESK: desk, "lm": self._ambient}):
                row, calls = self.asker.answer(question, earlier)
        except _Waiting:
            self._desks[question.key] = desk
            if desk.has_news:
                self.file.append(desk.row())
            return None, []
        if row.error is not None or row.degraded:  # it may be asked again, but not for what is paid
            came = {key: {**reply, "billed": True} for key, reply in desk.replies.items() if reply["status"] == 200}
            row.batch = InBatch(replies=came) if came else None
        return row, calls

    def submit(self, summary: Summary) -> None:
        """Submit what is lacking, each request noted in the file before and after; the summary says what waits."""
        try:
            for provider in self._providers.values():
                self._submit(provider)
        except Exception as error:  # LiteLLM's
            summary.stopped = f"Not all could be submitted: {type(error).__name__}: {error}"
        summary.batches = self.states
        summary.pending = sum(bool(desk.waiting) for desk in self._desks.values())

    def _submit(self, provider: _Provider) -> None:
        asked = [(k, desk) for desk in self._desks.values() for k in desk.lacking if _group_of(k) == provider.group]
        for start in range(0, len(asked), _MOST):
            part = asked[start : start + _MOST]
            uploaded = provider.upload({key: desk.lacking[key] for key, desk in part})
            self._note(part, _UNKNOWN + uploaded)  # a kill from here on leaves no batch that nobody knows of
            if self.file.failure is not None:
                return
            state = provider.create(uploaded, len(part))
            self._note(part, state.id)
            self.states.append(state)

    def _note(self, part: Iterable[tuple[str, _Desk]], id: str) -> None:
        """Keep in the file what requests wait for."""
        for key, desk in part:
            desk.waiting[key] = id
        self.file.append(*{desk.start.key: desk.row() for _, desk in part}.values())


def as_batched(module: Any) -> Any:
    """A copy of a mixture or module, whose LMs answer from batches, at half of their prices.

    Raises:
        ValueError: If LiteLLM cannot ask one.
        ImportError: If LiteLLM is not installed.
    """
    copied = module.deepcopy()
    agents = [agent for _, agent in find_modules((copied,), Agent)]
    for agent in agents:
        agents.extend(inside for _, inside in find_modules((agent.program,), Agent))
    holders = [holder for holder in [*agents, *copied.predictors()] if holder.lm is not None]
    lms = {id(holder.lm): holder.lm for holder in holders}
    ambient = [dspy.settings.lm] if any(agent.asks_ambient_lm for agent in agents) else []
    asked = {lm.model: _provider_of(lm) for lm in [*lms.values(), *ambient] if lm is not None}
    if refused := [model for model, provider in asked.items() if provider is None]:
        raise ValueError(
            f"engine='batch' cannot ask {', '.join(refused)}: it asks chat models of {', '.join(_PROVIDERS)}. "
            "LiteLLM's proxy speaks the batch APIs of others: name the model 'litellm_proxy/...', or record with "
            "engine='local'."
        )
    batched = {key: _from_batches(lm) for key, lm in lms.items()}
    for holder in holders:
        holder.lm = batched[id(holder.lm)]
    return copied


class _Waiting(BaseException):
    """A reply is lacking. No `Exception`, so that no program takes it for a failure and goes on without."""


class _Desk:
    """One question's requests: what came, what waits, and what nobody has submitted yet."""

    def __init__(self, start: Row, replies: Mapping[str, dict[str, Any]], found: Mapping[str, str | None]) -> None:
        self.start, state = start, start.batch or InBatch()
        waiting = {key: found.get(id, id) for key, id in state.waiting.items()}
        came = {key: replies[key] for key in waiting if key in replies}
        self.replies = {**state.replies, **came}
        self.waiting = {key: id for key, id in waiting.items() if id is not None and key not in came}
        self.has_news = bool(came)
        self.lacking: dict[str, dict[str, Any]] = {}
        self._asked: Counter[str] = Counter()
        self._asking = threading.Lock()

    def reply(self, provider: _Provider, body: dict[str, Any]) -> dict[str, Any]:
        """What came for a request."""
        meter, rollout = dspy.settings.get(METER), ambient_rollout()
        asked = [self.start.key, meter and meter.agent, rollout and rollout.id, body]
        name = f"{provider.group}-{hash_of(asked, 24)}"
        with self._asking:
            self._asked[name] += 1
            key = f"{name}-{self._asked[name]}"  # asked again, after a reply that was of no use
            if key in self.replies:
                return self.replies[key]
            if key not in self.waiting:
                self.lacking[key] = body
        raise _Waiting

    def row(self) -> Row:
        """The question as it stands in the file until it is answered."""
        batches = ", ".join(dict.fromkeys(self.waiting.values())) or "what is to be submitted"
        error = RowError(type="Pending", message=f"It waits for {batches}.")
        state = InBatch(waiting=dict(self.waiting), replies=self.replies)
        return self.start.model_copy(update={"error": error, "batch": state})


class _Provider:
    """Stands where DSPy asks an LM (its `engine`): speaks the batch API of the LM's provider."""

    def __init__(self, lm: dspy.LM) -> None:
        self.lm = lm
        found: Any = _provider_of(lm)
        self.model, self.provider = found
        access = {name: lm.kwargs[name] for name in CLIENT_OPTIONS if lm.kwargs.get(name) is not None}
        access.pop("custom_llm_provider", None)
        if (url := access.pop("base_url", None)) is not None:
            access.setdefault("api_base", url)
        self.access = {**access, "max_retries": 0}  # a second try could make a second batch
        self.group = hash_of([lm.model, access.get("api_base")], 8)

    def complete(self, request: Request) -> Response:
        """Answer a request from what came: as OpenAI's chat completions are written and read."""
        wire = OpenAIChatLM(api_key="unused")
        desk: Any = dspy.settings.get(_DESK)
        reply = desk.reply(self, json.loads(wire.build_request(request, stream=False).body))
        body = {**reply["body"], "usage": None} if reply.get("billed") else reply["body"]
        if reply["status"] != 200:
            raise wire.normalize_error(reply["status"], json.dumps(body))
        came: Any = SimpleNamespace(json=lambda: body)
        return wire.parse_response(request, came)

    def missing_key(self) -> str | None:
        """The environment variable that should hold the key and does not."""
        return missing_key(self.lm)

    def upload(self, requests: Mapping[str, dict[str, Any]]) -> str:
        """Upload requests; gives the file's id."""
        lines = [
            {"custom_id": key, "method": "POST", "url": _ENDPOINT, "body": {**body, "model": self.model}}
            for key, body in requests.items()
        ]
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        return str(self._call("create_file", file=("moa-dspy.jsonl", content), purpose="batch").id)

    def create(self, file: str, requests: int) -> Batch:
        """Have a batch made of an uploaded file."""
        made = self._call("create_batch", completion_window="24h", endpoint=_ENDPOINT, input_file_id=file)
        return Batch(model=self.lm.model, id=made.id, status=made.status, requests=requests)

    def find(self, file: str) -> str | None:
        """The batch that was made of an uploaded file, if one was."""
        listed = self._call("list_batches", limit=100)
        return next((str(batch.id) for batch in listed.data if batch.input_file_id == file), None)

    def fetch(self, id: str, keys: Iterable[str]) -> tuple[Batch, dict[str, dict[str, Any]]]:
        """How far a batch is, and once it has ended what came of these requests."""
        state = Batch(model=self.lm.model, id=id, status="not found")
        try:
            batch = self._call("retrieve_batch", batch_id=id)
        except Exception as error:
            if getattr(error, "status_code", None) != 404:
                raise
            return state, dict.fromkeys(keys, _failed(f"The provider knows no batch {id}.", "batch_not_found"))
        state.status = batch.status
        if (counts := batch.request_counts) is not None:
            state.requests, state.done, state.failed = counts.total, counts.completed, counts.failed
        if batch.status not in _ENDED:
            return state, {}
        problems = "; ".join(str(one.message) for one in (batch.errors and batch.errors.data) or ())
        said = f"The batch {id} is {batch.status}, without a reply to this. {problems}"
        replies = dict.fromkeys(keys, _failed(said, "batch_" + batch.status))
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            for line in self._call("file_content", file_id=file).content.splitlines():
                told = json.loads(line)
                if told["custom_id"] in replies:
                    replies[told["custom_id"]] = _read(told)
        return state, replies

    def _call(self, name: str, **arguments: Any) -> Any:
        litellm = _litellm()
        try:
            return getattr(litellm, name)(custom_llm_provider=self.provider, **{**self.access, **arguments})
        except Exception as error:
            raise scrub(error, self.lm) from None

    def dump_state(self) -> dict[str, Any]:
        """What DSPy asks of all that it might save, a program's fingerprint included."""
        return {}

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> _Provider:
        """Refuse: this is of one recording."""
        raise TypeError("An LM that answers from batches cannot be loaded. Load the mixture that was recorded.")

    def __deepcopy__(self, memo: dict[int, Any]) -> _Provider:
        return self


def _group_of(key: str) -> str:
    return key.partition("-")[0]


def _read(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line of a batch's output or of its errors, as a reply by HTTP."""
    response = line.get("response") or {}
    status, body = response.get("status_code") or 500, response.get("body") or {}
    if status == 200:
        return {"status": status, "body": body}
    told = line.get("error") or body.get("error") or {}
    return _failed(str(told.get("message") or "The request failed."), str(told.get("code") or "batch_error"), status)


def _failed(message: str, code: str, status: int = 500) -> dict[str, Any]:
    return {"status": status, "body": {"error": {"message": redact(message).strip(), "type": "batch", "code": code}}}


def _from_batches(lm: dspy.LM) -> dspy.LM:
    # What DSPy's cache holds would cost nothing when a later command reads it: the account would lack it.
    options = {"cache": False, "num_retries": 0, "rollout_id": None, **dict.fromkeys(CLIENT_OPTIONS)}
    batched: Any = lm.copy(engine=_Provider(lm), **options)
    if (prices := prices_of(lm)) is not None:
        vars(batched)["prices"] = Prices(input=prices.input / 2, output=prices.output / 2)
    return batched


def _provider_of(lm: Any) -> tuple[str, str] | None:
    """The model as its provider calls it, and the provider as LiteLLM does; None if it has no batch API there."""
    if not isinstance(lm, dspy.LM) or not isinstance(lm.engine, str) or lm.model_type != "chat":
        return None
    try:
        model, provider, *_ = _litellm().get_llm_provider(lm.model)
    except Exception:  # LiteLLM's, of a name that it does not know
        return None
    return (model, provider) if provider in _PROVIDERS else None


def _litellm() -> Any:
    try:
        litellm: Any = importlib.import_module("litellm")
    except ImportError:
        raise ImportError("engine='batch' needs LiteLLM: pip install litellm.") from None
    litellm.suppress_debug_info = True  # else it prints advice with every error
    return litellm
