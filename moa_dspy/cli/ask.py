"""`moa-dspy ask`: one question, the answer, and how it came about."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moa_dspy.cli.options import (
    SIMULATED_NOTE,
    Aggregator,
    Config,
    Preset,
    Proposers,
    Signature,
    Strategy,
    is_simulated,
    mixture,
)

if TYPE_CHECKING:
    from moa_dspy.moa import MoA

__all__ = ["HELP", "ask"]

HELP = """Ask one question and see the answer, who proposed what, who agreed, and what it cost.

Without --config, --preset or --proposer a panel of simulated models answers: no key, no network, no cost.

[bold]Examples[/bold]
moa-dspy ask "What is the capital of Scotland?"
moa-dspy ask "What is 17 * 23?" -s voting --signature "q -> answer: int"
moa-dspy ask "Why is the sky blue?" --config moa.yaml --json | jq .outputs
moa-dspy ask "Why is the sky blue?" -a openai/gpt-5 \\
    -p openai/gpt-5-mini -p anthropic/claude-haiku-4-5

[bold]Next[/bold]: many questions with [bold]moa-dspy run[/bold].

Exit status: 0 answered, 1 no answer, 2 bad input, 130 interrupted.
"""


def ask(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="Goes to the first input of the signature.")],
    config: Config = None,
    preset: Preset = None,
    proposer: Proposers = None,
    aggregator: Aggregator = None,
    strategy: Strategy = None,
    signature: Signature = "question -> answer",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print outputs and metadata as JSON, and nothing else, on stdout.")
    ] = False,
) -> None:
    """Ask one question."""
    from rich.console import Console

    from moa_dspy.cli.console import FAILED, INTERRUPTED, complain, note, quiet_stdout, refusing
    from moa_dspy.cli.show import show_account, show_answer
    from moa_dspy.errors import MoAError

    with refusing():
        moa = mixture(signature, config, preset, proposer, aggregator, strategy)
        inputs = _inputs(moa, question)
        for agent in moa.agents:
            agent.check_key()
    if is_simulated(config, preset, proposer):
        note(SIMULATED_NOTE)
    try:
        with quiet_stdout(), Console(stderr=True).status(f"Asking {', '.join(moa.panels[0].names)} ..."):
            prediction = moa(**inputs)
    except MoAError as error:
        complain(str(error))
        if as_json:
            problem = {"type": type(error).__name__, "message": str(error)}
            _print_json({"outputs": None, "error": problem, "metadata": _plain(error.metadata)})
        else:
            show_account(Console(), None, error.metadata, moa.signature)
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        complain("Interrupted: what was under way is lost.")
        raise typer.Exit(INTERRUPTED) from None
    outputs = dict(prediction.items())
    if as_json:
        _print_json({"outputs": outputs, "metadata": _plain(prediction.metadata)})
    else:
        show_answer(Console(), outputs, prediction.metadata)
        show_account(Console(), outputs, prediction.metadata, moa.signature)


def _inputs(moa: MoA, question: str) -> dict[str, Any]:
    from moa_dspy.batch.questions import missing_inputs, typed_input

    names = list(moa.signature.input_fields)
    if not names:
        raise ValueError("The signature has no input, so there is nowhere to put the question.")
    others = [name for name in missing_inputs({}, moa.signature) if name != names[0]]
    if others:
        raise ValueError(
            f"`ask` gives the question to the first input, {names[0]}; {', '.join(others)} would be missing. Put all "
            "inputs into a file, one JSON object a line, and use `moa-dspy run`."
        )
    try:
        return {names[0]: typed_input(names[0], question, moa.signature)}
    except ValueError:
        return {names[0]: typed_input(names[0], _parsed(question), moa.signature)}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _plain(metadata: Any) -> Any:
    return metadata.model_dump(mode="json", fallback=str)


def _print_json(data: Any) -> None:
    from pydantic_core import to_jsonable_python

    # In ASCII: it must get through every pipe, also where a model wrote half a character.
    sys.stdout.write(json.dumps(to_jsonable_python(data, fallback=str), indent=2) + "\n")
