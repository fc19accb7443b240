"""Stream the aggregator's answer while it is written, on an event loop.

python examples/streaming.py
"""

import asyncio
from typing import Any

import dspy
from models import AGGREGATOR, PROPOSERS

from moa_dspy import MoA


async def main() -> None:
    """Print the tokens as they come."""
    moa = MoA("question -> answer", PROPOSERS, AGGREGATOR)
    writes = dict(moa.named_predictors())["aggregator.program.synthesize"]
    listener = dspy.streaming.StreamListener("answer", predict=writes)
    stream: Any = dspy.streamify(moa, stream_listeners=[listener])
    async for item in stream(question="What is the capital of Scotland?"):
        if isinstance(item, dspy.streaming.StreamResponse):
            print(item.chunk, end="", flush=True)
        elif isinstance(item, dspy.Prediction):
            print(f"\n({item.metadata.usage.calls} calls, {item.metadata.agreement:.0%} agreement)")


asyncio.run(main())
