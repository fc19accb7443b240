"""`moa-dspy chat`: a conversation with a mixture."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moa_dspy.cli import options
from moa_dspy.cli.ask import ask_live, costs_table, made_of, proposals_table
from moa_dspy.cli.output import complain, console, cost_of, harmless, note, quietly

if TYPE_CHECKING:
    from moa_dspy.moa import MoA
    from moa_dspy.results import MoAPrediction


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
            here.print(harmless(f"{made_of(metadata)}, {metadata.seconds:.1f} s{degraded}", "dim"))

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
