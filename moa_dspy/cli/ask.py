"""`moa-dspy ask`: one question, the answer, and how it came about."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moa_dspy.cli import options
from moa_dspy.cli.output import FAILED, complain, console, cost_of, harmless, print_json, quietly, table
from moa_dspy.cli.tracking import tracking

if TYPE_CHECKING:
    import dspy
    from rich.text import Text

    from moa_dspy.moa import MoA
    from moa_dspy.results import MoAMetadata, MoAPrediction


def ask(
    question: Annotated[
        str, typer.Argument(metavar="QUESTION", help="Goes to the first input of the signature; - reads it from stdin.")
    ],
    who: options.Who,
    limits: options.Limits,
    strategy: options.Strategy = None,
    signature: options.Signature = None,
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
    moa = who.mixture(signature, strategy)
    limits.bound(moa, one_answer=True)
    inputs = _read_inputs(moa, question)
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


def _read_inputs(moa: MoA, question: str) -> dict[str, Any]:
    from moa_dspy.values import is_needed, validated

    fields = moa.signature.input_fields
    first, *others = fields
    needed = [name for name in others if is_needed(fields[name])]
    if needed:
        raise ValueError(
            f"`ask` gives the question to the first input, {first}; {', '.join(needed)} would be missing. Put all "
            "inputs into a file, one JSON object a line, and use `moa-dspy run`."
        )
    try:
        return {first: validated(question, fields[first].annotation)}
    except ValueError as error:
        try:
            return {first: validated(json.loads(question), fields[first].annotation)}
        except ValueError:
            raise ValueError(f"`{first}` cannot be read as the signature says: {error}") from None


def _show(outputs: Mapping[str, Any] | None, metadata: MoAMetadata, task: type[dspy.Signature]) -> None:
    """The answer in a frame, who proposed what, who agreed, what it cost, and what degraded."""
    from rich.panel import Panel

    here = console()
    if outputs is not None:
        here.print(Panel(_text(outputs), title="answer", title_align="left", border_style="green", expand=False))
        agreement = "" if metadata.agreement is None else f", agreement {metadata.agreement:.0%}"
        here.print(harmless(f"{made_of(metadata)}{agreement}, {metadata.seconds:.1f} s", "dim"))
    here.print()
    here.print(table(["proposer", "proposal", "agrees"], proposal_rows(outputs, metadata, task)))
    here.print()
    if pieces := [piece for piece in metadata.elements if piece.kind != "consensus"]:
        rows = [(one.kind, harmless(one.statement, length=_LENGTH), ", ".join(one.supported_by)) for one in pieces]
        here.print(table(["element", "statement", "supported by"], rows))
        here.print()
    # On a narrow terminal the agents' names say enough of the models.
    shown = [0, *([1] if here.width >= _WIDE else []), *range(2, 7)]
    costs = [[row[column] for column in shown] for row in cost_rows(metadata)]
    here.print(table([COST_HEADINGS[column] for column in shown], costs, right=5))
    for line in _degraded(metadata):
        here.print(harmless(line, "yellow"))


def made_of(metadata: MoAMetadata) -> str:
    """What the answer was made of: `synthesis of 3 proposals`."""
    count = metadata.proposals_received
    return f"{metadata.answered_by} of {count} proposal{'s' * (count != 1)}"


def proposal_rows(
    outputs: Mapping[str, Any] | None, metadata: MoAMetadata, task: type[dspy.Signature]
) -> Iterator[tuple[str | Text, ...]]:
    """The last layer's proposals, those that say the same beside each other, and who failed."""
    import dspy

    from moa_dspy.evaluation import as_metric

    is_same = as_metric("exact", task)
    last = max((proposal.layer for proposal in metadata.all_proposals), default=1)
    left = {proposal.id: proposal for proposal in metadata.all_proposals if proposal.layer == last}
    for vote in metadata.votes:
        agrees = metadata.selected in vote.proposals if metadata.selected is not None else False
        if metadata.selected is None and outputs is not None:
            agrees = bool(is_same(dspy.Example(**vote.answer), dspy.Prediction(**outputs)))
        for id in vote.proposals:
            yield id, _text(left.pop(id).outputs, _LENGTH), harmless("yes" if agrees else "", "green")
    for proposal in left.values():
        yield proposal.id, _text(proposal.outputs, _LENGTH), "" if outputs is None else "abstains"
    for failure in metadata.failures:
        cause = harmless(f"{failure.error}: {failure.message}", "yellow", _LENGTH)
        yield failure.agent, cause, harmless("failed", "yellow")


def cost_rows(metadata: MoAMetadata) -> Iterator[list[str]]:
    """What each agent cost, and all together."""
    models = {call.agent: call.model for call in metadata.calls}
    rows = [(agent, [models[agent]], usage, usage.seconds) for agent, usage in metadata.agents.items()]
    total = [("all", list(metadata.models), metadata.usage, metadata.seconds)] if len(rows) > 1 else []
    for name, asked, usage, seconds in [*rows, *total]:
        cached = f" ({usage.cache_hits} cached)" if usage.cache_hits else ""
        tokens = [f"{usage.prompt_tokens:,}", f"{usage.completion_tokens:,}"]
        model = asked[0] if name in models else ""
        yield [name, model, f"{usage.calls}{cached}", *tokens, cost_of(usage, asked), f"{seconds:.1f}"]


def _degraded(metadata: MoAMetadata) -> Iterator[str]:
    asked, received = metadata.proposals_asked, metadata.proposals_received
    if received < asked:
        yield f"Degraded: {asked - received} of {asked} proposals did not come."
    if metadata.fallback_used:
        yield f"Degraded: the {metadata.strategy} failed, so the answer is the vote among the proposals."
    for id, lost in metadata.shortened.items():
        yield f"Degraded: {lost:,} characters of {id}'s proposal did not fit the aggregator's context window."


def _text(outputs: Mapping[str, Any], length: int | None = None) -> Text:
    """One output as its bare value, several with their names."""
    from moa_dspy.values import as_text

    values = {name: as_text(value) for name, value in outputs.items()}
    lines = list(values.values()) if len(values) == 1 else [f"{name}: {value}" for name, value in values.items()]
    return harmless("\n".join(lines), length=length)


COST_HEADINGS = ["agent", "model", "calls", "tokens in", "out", "cost", "seconds"]
_LENGTH = 300  # characters of each proposal; --json has all of it
_WIDE = 76  # columns
