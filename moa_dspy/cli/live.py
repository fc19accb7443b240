"""An answer as it is written, on a terminal."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from moa_dspy.cli.output import console, harmless

if TYPE_CHECKING:
    from moa_dspy.moa import MoA
    from moa_dspy.results import MoAPrediction

__all__ = ["ask_live"]


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
