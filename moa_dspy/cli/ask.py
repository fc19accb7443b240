"""`moa-dspy ask` and `chat`: one question, or a conversation, and how the answers came about."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moa_dspy.cli import options
from moa_dspy.cli.output import FAILED, complain, console, cost_of, harmless, note, print_json, quietly, table
from moa_dspy.cli.tracking import tracking

if TYPE_CHECKING:
    import dspy
    from rich.table import Table
    from rich.text import Text

    from moa_dspy.moa import MoA
    from moa_dspy.results import MoAMetadata, MoAPrediction

_LENGTH = 300  # characters of each proposal; --json has all of it
_WIDE = 76  # columns: on a narrower terminal the agents' names say enough of the models


def ask(
    question: Annotated[
        str, typer.Argument(metavar="QUESTION", help="Goes to the first input of the signature; - reads it from stdin.")
    ],
    who: options.Who,
    limits: options.Limits,
    mlflow: options.Mlflow = False,
    as_json: options.Json = False,
) -> None:
    r"""Ask one question and see the answer, who proposed what, who agreed, and what it cost.

    Without --config, --preset or --proposer a panel of simulated models answers: no key, no network, no cost.

    [bold]Examples[/bold]
    moa-dspy ask "What is the capital of Scotland?"
    moa-dspy ask "What is 17 * 23?" -s voting --signature "q -> answer: int"
    moa-dspy ask "Why is the sky blue?" --config moa.yaml --json | jq .outputs
    moa-dspy ask - --config tuned.json < question.txt
    moa-dspy ask "Why is the sky blue?" -a openai/gpt-5 \
        -p openai/gpt-5-mini -p anthropic/claude-haiku-4-5

    [bold]--json[/bold] prints outputs (the signature's) and metadata: strategy, answered_by, all_proposals, failures,
    votes, agreement, elements, calls, usage, agents, models, seconds, degraded. Without an answer, outputs is null,
    and error has type and message.

    [bold]Next[/bold]: many questions with [bold]moa-dspy run[/bold].

    Exit status: 0 answered, 1 no answer, 2 bad input, 130 interrupted.
    """
    from moa_dspy.agent import check_keys
    from moa_dspy.errors import MoAError

    question = sys.stdin.read().strip() if question == "-" else question
    if not question.strip():
        raise ValueError("The question is empty, so there is nothing to ask. - reads it from stdin.")
    moa = who.mixture()
    limits.bound(moa, one_answer=True)
    inputs = _read_inputs(moa.signature, question)
    check_keys(moa.agents)
    outputs, problem = None, None
    try:
        with tracking(mlflow, moa, "ask"), quietly():
            prediction = ask_live(moa, inputs)
        outputs, metadata = dict(prediction.items()), prediction.metadata
    except MoAError as error:
        complain(str(error))
        problem, metadata = {"type": type(error).__name__, "message": str(error)}, error.metadata
    if as_json:
        shown = {"outputs": outputs, "metadata": metadata.model_dump(mode="json", fallback=str)}
        print_json(shown if problem is None else {**shown, "error": problem})
    else:
        _show(outputs, metadata, moa.signature)
    if problem is not None:
        raise typer.Exit(FAILED)


def chat(
    who: options.Who,
    limits: options.Limits,
    system: Annotated[str, typer.Option(metavar="TEXT", help="What all models are told.")] = "",
) -> None:
    """Talk with a mixture: each answer knows the turns before it, and is shown as it is written.

    /proposals says who proposed what of the last answer, /cost what it and the whole chat took, /exit ends. Ctrl-C
    stops an answer and keeps the chat.

    [bold]Examples[/bold]
    moa-dspy chat
    moa-dspy chat --config moa.yaml --system "Answer in one sentence."
    moa-dspy chat -p openai/gpt-5-mini -p anthropic/claude-haiku-4-5 -a openai/gpt-5

    [bold]Next[/bold]: from other programs with [bold]moa-dspy serve[/bold].

    Exit status: 0 ended, 2 bad input.
    """
    from moa_dspy.agent import check_keys
    from moa_dspy.serving.conversation import message_field

    moa = who.mixture("moa_dspy.serving.conversation:Chat")
    limits.bound(moa, one_answer=True)
    message_field(moa.signature)
    check_keys(moa.agents)
    conversation = _Conversation(moa, system)
    with suppress(ImportError, EOFError, KeyboardInterrupt):
        import readline  # noqa: F401  # what gives input() a history; Windows has none
    with suppress(EOFError, KeyboardInterrupt):
        while (said := input("> " if sys.stdin.isatty() else "").strip()) != "/exit":
            if said in ("/proposals", "/cost"):
                conversation.show(said)
            elif said.startswith("/"):
                note("/proposals, /cost, /exit")
            elif said:
                conversation.ask(said)


class _Conversation:
    """The turns so far, and what they took."""

    def __init__(self, moa: MoA, system: str) -> None:
        from moa_dspy.usage import Usage

        self.moa = moa
        self.system = [{"role": "system", "content": system}] if system else []
        self.turns: list[dict[str, Any]] = []
        self.last: MoAPrediction | None = None
        self.usage = Usage()

    def ask(self, message: str) -> None:
        """Add a turn; one that fails or is stopped is none, and what it took is in the cost."""
        from moa_dspy.errors import MoAError, ProposersOutOfContext
        from moa_dspy.serving.conversation import inputs_for
        from moa_dspy.values import as_text

        turns = [*self.turns, {"role": "user", "content": message}]
        try:
            with quietly():
                self.last = ask_live(self.moa, inputs_for(self.moa.signature, [*self.system, *turns]))
        except KeyboardInterrupt:
            note("Stopped. The chat goes on; what the stopped answer took is not in /cost.")
        except MoAError as error:
            self.usage += error.metadata.usage
            if self.turns and isinstance(error, ProposersOutOfContext):
                note("The chat is longer than the models read: its older half is left out from here on.")
                self.turns = self.turns[(len(self.turns) // 2 + 1) // 2 * 2 :]
                self.ask(message)
            else:
                complain(str(error))
        else:
            outputs, metadata = dict(self.last.items()), self.last.metadata
            answer = "\n".join(as_text(value) for value in outputs.values())
            self.turns = [*turns, {"role": "assistant", "content": answer}]
            self.usage += metadata.usage
            here = console()
            here.print(harmless(answer))
            degraded = ", degraded" if metadata.degraded else ""
            here.print(harmless(f"{_made_of(metadata)}, {metadata.seconds:.1f} s{degraded}", "dim"))

    def show(self, what: str) -> None:
        """Who proposed what of the last answer; or what it took, and the whole chat."""
        here, last, usage = console(), self.last, self.usage
        if what == "/cost":
            if last is not None:
                here.print(costs_table(last.metadata, here.width))
            tokens = f"{usage.prompt_tokens:,} tokens in, {usage.completion_tokens:,} out"
            cost = cost_of(usage, [agent.model for agent in self.moa.agents])
            here.print(harmless(f"The chat: {usage.calls} calls, {tokens}, cost {cost}"))
        elif last is None:
            note("Nothing was answered yet.")
        else:
            here.print(proposals_table(dict(last.items()), last.metadata, self.moa.signature))


def ask_live(moa: MoA, inputs: Mapping[str, Any]) -> MoAPrediction:
    """Ask, and show meanwhile who is asked and what the aggregator has written so far; both go when it is there.

    Ctrl-C stops the calls that are under way.
    """
    return asyncio.run(_follow(moa, inputs)) if console(stderr=True).is_terminal else moa(**inputs)


async def _follow(moa: MoA, inputs: Mapping[str, Any]) -> MoAPrediction:
    from rich.live import Live
    from rich.spinner import Spinner

    from moa_dspy.serving.conversation import stream

    text = ""
    waiting = Spinner("dots", harmless(f"Asking {', '.join(moa.panels[0].names)} ..."))
    # stdout is for what is final, and may be shut.
    with Live(waiting, console=console(stderr=True), transient=True) as live:
        async for piece in stream(moa, inputs):
            if not isinstance(piece, str):
                return piece
            text += piece
            live.update(harmless(text))
    raise RuntimeError("A stream ends with its prediction.")


def _read_inputs(task: type[dspy.Signature], question: str) -> dict[str, Any]:
    from moa_dspy.values import is_needed, validated

    (first, field), *others = task.input_fields.items()
    if needed := [name for name, other in others if is_needed(other)]:
        raise ValueError(
            f"`ask` gives the question to the first input, {first}; {', '.join(needed)} would be missing. Put all "
            "inputs into a file, one JSON object a line, and use `moa-dspy run`."
        )
    try:
        return {first: validated(question, field.annotation)}
    except ValueError as error:
        try:
            return {first: validated(json.loads(question), field.annotation)}
        except ValueError:
            raise ValueError(f"`{first}` cannot be read as the signature says: {error}") from None


def _show(outputs: Mapping[str, Any] | None, metadata: MoAMetadata, task: type[dspy.Signature]) -> None:
    """The answer in a frame, who proposed what, who agreed, what it cost, and what degraded."""
    from rich.panel import Panel

    here = console()
    if outputs is not None:
        here.print(Panel(_text(outputs), title="answer", title_align="left", border_style="green", expand=False))
        agreement = "" if metadata.agreement is None else f", agreement {metadata.agreement:.0%}"
        here.print(harmless(f"{_made_of(metadata)}{agreement}, {metadata.seconds:.1f} s", "dim"))
    here.print()
    here.print(proposals_table(outputs, metadata, task))
    here.print()
    if pieces := [piece for piece in metadata.elements if piece.kind != "consensus"]:
        rows = [(one.kind, harmless(one.statement, length=_LENGTH), ", ".join(one.supported_by)) for one in pieces]
        here.print(table(["element", "statement", "supported by"], rows))
        here.print()
    here.print(costs_table(metadata, here.width))
    asked, received = metadata.proposals_asked, metadata.proposals_received
    degraded = [f"{asked - received} of {asked} proposals did not come."] if received < asked else []
    if metadata.fallback_used:
        degraded.append(f"the {metadata.strategy} failed, so the answer is the vote among the proposals.")
    for id, lost in metadata.shortened.items():
        degraded.append(f"{lost:,} characters of {id}'s proposal did not fit the aggregator's context window.")
    for line in degraded:
        here.print(harmless(f"Degraded: {line}", "yellow"))


def _made_of(metadata: MoAMetadata) -> str:
    """What the answer was made of: `synthesis of 3 proposals`."""
    count = metadata.proposals_received
    return f"{metadata.answered_by} of {count} proposal{'s' * (count != 1)}"


def proposals_table(outputs: Mapping[str, Any] | None, metadata: MoAMetadata, task: type[dspy.Signature]) -> Table:
    """The last layer's proposals, those that say the same beside each other, and who failed."""
    import dspy

    from moa_dspy.evaluation import as_metric

    is_same = as_metric("exact", task)
    last = max((proposal.layer for proposal in metadata.all_proposals), default=1)
    left = {proposal.id: proposal for proposal in metadata.all_proposals if proposal.layer == last}
    rows: list[tuple[str, str | Text, str | Text]] = []
    for vote in metadata.votes:
        agrees = metadata.selected is not None and metadata.selected in vote.proposals
        if metadata.selected is None and outputs is not None:
            agrees = bool(is_same(dspy.Example(**vote.answer), dspy.Prediction(**outputs)))
        mark = harmless("yes" if agrees else "", "green")
        rows += [(id, _text(left.pop(id).outputs, _LENGTH), mark) for id in vote.proposals]
    rows += [(one.id, _text(one.outputs, _LENGTH), "" if outputs is None else "abstains") for one in left.values()]
    for failure in metadata.failures:
        cause = harmless(f"{failure.error}: {failure.message}", "yellow", _LENGTH)
        rows.append((failure.agent, cause, harmless("failed", "yellow")))
    return table(["proposer", "proposal", "agrees"], rows)


def costs_table(metadata: MoAMetadata, width: int) -> Table:
    """What each agent cost, and all together."""
    models = {call.agent: call.model for call in metadata.calls}
    rows = [(agent, [models[agent]], usage, usage.seconds) for agent, usage in metadata.agents.items()]
    if len(rows) > 1:
        rows.append(("all", list(metadata.models), metadata.usage, metadata.seconds))
    is_wide, shown = width >= _WIDE, []
    for name, asked, usage, seconds in rows:
        cached = f" ({usage.cache_hits} cached)" if usage.cache_hits else ""
        tokens = [f"{usage.prompt_tokens:,}", f"{usage.completion_tokens:,}"]
        model = [asked[0] if name in models else ""] * is_wide
        shown.append([name, *model, f"{usage.calls}{cached}", *tokens, cost_of(usage, asked), f"{seconds:.1f}"])
    return table(["agent", *["model"] * is_wide, "calls", "tokens in", "out", "cost", "seconds"], shown, right=5)


def _text(outputs: Mapping[str, Any], length: int | None = None) -> Text:
    """One output as its bare value, several with their names."""
    from moa_dspy.values import as_text

    values = {name: as_text(value) for name, value in outputs.items()}
    lines = list(values.values()) if len(values) == 1 else [f"{name}: {value}" for name, value in values.items()]
    return harmless("\n".join(lines), length=length)
