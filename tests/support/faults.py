"""What can be wrong with a provider, where it can strike, and what a mixture makes of it: one cell of the matrix."""

import json
import pickle
import socket
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import dspy

from moa_dspy import Agent, Limits, MoA, MoAError, MoAMetadata

from .openai_server import ChatRequest, OpenAIServer, Reply
from .rendering import asked, render

PLACES = ("one proposer", "all but one", "all proposers", "the aggregator, once", "the aggregator", "a later layer")
STRATEGIES = ("synthesis", "selection", "voting", "fusion")
BACKENDS = ("lm15", "litellm")

LEAK = "zebra"  # stands in all that is no answer: it may not become one, nor be shown to anybody
_PROPOSERS = {"a": "gpt-4o-mini", "b": "gpt-4.1-mini", "c": "gpt-4.1-nano"}
_JUDGE = "gpt-4o"
_PAGE = Path(__file__).parents[2] / "docs" / "promises.md"
_MARK = "<!-- written by tests/bench/outcomes.py -->"


@dataclass(frozen=True)
class Fault:
    """One way to fail.

    Args:
        reply: Makes the reply of the fields that a healthy model would have written.
        retries: How often DSPy may try again.
        seconds: How long a reply may take to begin, and a layer or the aggregator may take at most.
        is_refused: Whether nobody listens: there is no reply then.
        is_passing: Whether it is gone at the second request.
    """

    reply: Callable[[Mapping[str, Any], ChatRequest], Reply] = lambda fields, request: Reply()
    retries: int = 0
    seconds: float = 60.0
    is_refused: bool = False
    is_passing: bool = False


def _status(status: int, code: str | None = None, **headers: str) -> Fault:
    reply = Reply(
        f"{LEAK} says no", status=status, code=code, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )
    return Fault(lambda fields, request: reply)


def _raw(text: str, content_type: str = "application/json") -> Fault:
    return Fault(lambda fields, request: Reply(raw=text, content_type=content_type))


def _text(text: str, **options: Any) -> Fault:
    return Fault(lambda fields, request: Reply(text, **options))


def _written(change: Callable[[dict[str, Any]], Mapping[str, Any]], **options: Any) -> Fault:
    """Fields other than the healthy ones, written as asked."""
    return Fault(lambda fields, request: Reply(_render(request, change(dict(fields))), **options))


def _render(request: ChatRequest, fields: Mapping[str, Any]) -> str:
    wanted = asked(request.prompt)
    assert wanted is not None, request.prompt
    return wanted.render(fields)


def _null(fields: Mapping[str, Any], request: ChatRequest) -> Reply:
    return Reply(
        json.dumps({name: None if name in ("answer", "choice", "best") else fields[name] for name in _names(request)})
    )


def _names(request: ChatRequest) -> tuple[str, ...]:
    wanted = asked(request.prompt)
    assert wanted is not None, request.prompt
    return wanted.fields


def _deep(levels: int) -> str:
    return "[" * levels + "]" * levels


FAULTS: dict[str, Fault] = {
    "429 with Retry-After": Fault(
        lambda fields, request: Reply(LEAK, status=429, headers={"Retry-After": "0"}), retries=1, is_passing=True
    ),
    "429": _status(429),
    "500": _status(500),
    "503": _status(503),
    "connection refused": Fault(is_refused=True),
    "connection reset": Fault(lambda fields, request: Reply(drop=True)),
    "hangs before the body": Fault(lambda fields, request: Reply(hang=True), seconds=2),
    "hangs in the body": Fault(lambda fields, request: Reply(_render(request, fields), hang="body"), seconds=2),
    "trickles": Fault(lambda fields, request: Reply(_render(request, fields), pace=0.1), seconds=2),
    "malformed JSON": _raw('{"choices": [' + LEAK),
    "HTML in a 200": _raw(f"<html><body>{LEAK}</body></html>", "text/html"),
    "an error in a 200": _raw(json.dumps({"error": {"message": LEAK, "type": "server_error", "code": None}})),
    "empty": _text(""),
    "null": _text("", message={"content": None}),
    "truncated": Fault(
        lambda fields, request: Reply(
            _render(request, fields).removesuffix("\n\n[[ ## completed ## ]]"), finish_reason="length"
        )
    ),
    "filtered": Fault(lambda fields, request: Reply(_render(request, fields), finish_reason="content_filter")),
    "a refusal field": _text("", message={"content": None, "refusal": f"I can't help with {LEAK}s."}),
    "a refusal in words": _text(f"I'm sorry, but I can't help with {LEAK}s."),
    "a refusal as the answer": _written(
        lambda fields: {
            **fields,
            **dict.fromkeys(("answer", "choice", "groups"), "I'm sorry, but I can't help with that."),
        }
    ),
    "wrong type": _written(lambda fields: {**fields, "year": LEAK, "choice": LEAK, "groups": LEAK, "elements": LEAK}),
    "missing field": _written(lambda fields: {"reasoning": LEAK}),
    "null for a text": Fault(_null),
    "another adapter's format": Fault(lambda fields, request: Reply(render("xml", fields))),
    "400 levels of JSON": _written(
        lambda fields: {**fields, **dict.fromkeys(("extra", "choice", "groups", "elements"), _deep(400))}
    ),
    "10 MB": _written(lambda fields: {**fields, "reasoning": "x" * 10_000_000}),
    "401": _status(401),
    "402": _status(402, "insufficient_quota"),
    "context window exceeded": _status(400, "context_length_exceeded"),
}


@dataclass
class Outcome:
    """What came of a cell."""

    says: str
    reported: list[str]
    wrong: list[str]


@lru_cache(maxsize=1)
def _warm_up() -> None:
    """Make litellm's first call, which takes seconds that a cell's timeouts do not have."""
    import litellm

    litellm.completion("gpt-4o", messages=[{"role": "user", "content": "?"}], mock_response="!")


def happens(fault: str, place: str) -> bool:
    """Whether the fault can strike there: who refuses connections does so from the start."""
    return not (FAULTS[fault].is_refused and place in ("the aggregator, once", "a later layer"))


def read_table() -> dict[str, dict[str, str]]:
    """Fault -> place -> what comes of it, as the page says."""
    lines = [line for line in _PAGE.read_text("utf-8").split(_MARK)[1].splitlines() if line]
    header, _, *rows = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines]
    return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}


def write_table(table: Mapping[str, Mapping[str, str]]) -> None:
    """Put the table into the page."""
    header = ["fault", "reported as", *PLACES]
    rows = [header, ["---"] * len(header)]
    rows += [[fault, *(row.get(name) or "-" for name in header[1:])] for fault, row in table.items()]
    before, _, after = _PAGE.read_text("utf-8").split(_MARK)
    text = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    _PAGE.write_text(f"{before}{_MARK}\n\n{text}\n{_MARK}{after}", "utf-8")


def run_cell(fault: str, place: str, strategy: str, backend: str, ask: Callable[..., Any]) -> Outcome:
    """Ask a mixture whose provider has this fault at this place."""
    if backend == "litellm":
        _warm_up()
    return _Cell(FAULTS[fault], place, strategy, backend).run(ask)


class _Cell:
    def __init__(self, fault: Fault, place: str, strategy: str, backend: str) -> None:
        self.fault, self.place, self.strategy, self.backend = fault, place, strategy, backend
        self.struck: dict[str, int] = {}

    def run(self, ask: Callable[..., Any]) -> Outcome:
        with OpenAIServer(self.answer) as server:
            moa = self.build(server.url)
            error: MoAError | None = None
            prediction: Any = None
            try:
                prediction = ask(moa, question="?")
            except MoAError as raised:
                error = raised
            metadata: MoAMetadata = prediction.metadata if error is None else error.metadata
            wrong = [*self.find_leaks(server, prediction), *self.find_lies(server, metadata)]
            if error is not None:
                arrived = pickle.loads(pickle.dumps(error))
                if (str(arrived), arrived.metadata) != (str(error), error.metadata):
                    wrong.append("the error does not survive pickle")
        reported = list(dict.fromkeys(failure.error for failure in metadata.failures))
        return Outcome(_say(metadata) if error is None else type(error).__name__, reported, wrong)

    def build(self, url: str) -> MoA:
        with closing(socket.socket()) as unused:
            unused.bind(("127.0.0.1", 0))
            nobody = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"

        def agent(name: str, model: str) -> Agent:
            is_refused = self.fault.is_refused and self.strikes(name, 1)
            lm = dspy.LM(
                f"openai/{model}",
                api_base=nobody if is_refused else url,
                api_key="any",
                cache=False,
                num_retries=self.fault.retries,
                timeout=self.fault.seconds,
                engine=self.backend,
            )
            return Agent(lm, name=name)

        return MoA(
            "question -> answer, year: int, extra: list",
            [agent(name, model) for name, model in _PROPOSERS.items()],
            agent("judge", _JUDGE),
            self.strategy,  # type: ignore[arg-type]
            layers=2 if self.place == "a later layer" else 1,
            limits=Limits(proposer_timeout=1.2 * self.fault.seconds, aggregator_timeout=3 * self.fault.seconds),
        )

    def strikes(self, name: str, layer: int) -> bool:
        """Whether the fault is this agent's."""
        return {
            "one proposer": name == "a",
            "all but one": name in ("a", "b"),
            "all proposers": name in _PROPOSERS,
            "the aggregator, once": name == "judge",
            "the aggregator": name == "judge",
            "a later layer": name in _PROPOSERS and layer == 2,
        }[self.place]

    def answer(self, request: ChatRequest) -> Reply:
        name = next((name for name, model in _PROPOSERS.items() if model == request.model), "judge")
        layer = 2 if name != "judge" and "## proposals ##" in request.text else 1
        healthy = {
            "reasoning": f"{name} thinks",
            "answer": f"{name} says so",
            "year": 1900 + ord(name[0]) + layer,
            "extra": [1],
            "choice": "P1",
            "groups": [["P1"], ["P2"]],
            "best": "P1",
            "elements": [],
        }
        if self.strikes(name, layer):
            self.struck[name] = self.struck.get(name, 0) + 1
            if self.struck[name] == 1 or not (self.fault.is_passing or self.place == "the aggregator, once"):
                return self.fault.reply(healthy, request)
        return Reply(_render(request, healthy))

    def find_leaks(self, server: OpenAIServer, prediction: Any) -> list[str]:
        shown = [request.text for request in server.requests]
        answers = [] if prediction is None else [json.dumps(prediction.toDict(), default=str)]
        answers += [] if prediction is None else [str(p.outputs) for p in prediction.proposals]
        return [f"leaked: {text[:200]}" for text in shown + answers if LEAK in text]

    def find_lies(self, server: OpenAIServer, metadata: MoAMetadata) -> list[str]:
        calls = metadata.calls
        counted = len(calls) if not self.fault.is_refused else sum(call.error is None for call in calls)
        retried = sum(max(0, n - 1) for n in self.struck.values()) if self.fault.retries else 0
        wrong = []
        if counted != len(server.requests) - retried:
            wrong.append(f"{counted} calls are told, {len(server.requests)} were made")
        wrong += [f"{c.agent}: no finish_reason" for c in calls if c.error is None and c.finish_reason is None]
        MoAMetadata.model_validate_json(metadata.model_dump_json())
        return wrong


def _say(metadata: MoAMetadata) -> str:
    """What a reader of the metadata can tell."""
    if metadata.fallback_used:
        said = "the vote"
    elif metadata.layer == 1 and metadata.num_proposers < metadata.proposals_asked:
        said = "the last full layer"
    elif any(failure.id for failure in metadata.failures):
        said = "an answer of the others"
    elif metadata.shortened or any(proposal.cut_by for proposal in metadata.all_proposals):
        said = "an answer, flagged"
    else:
        return "NOBODY KNOWS WHY" if metadata.degraded else "asked again" if metadata.repaired else "an answer"
    return said if metadata.degraded else f"NOT FLAGGED: {said}"
