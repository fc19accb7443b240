"""Stream the aggregator's answer while it is written, on an event loop.

$ python examples/streaming.py
Edinburgh
(4 calls, 100% agreement)
"""

import asyncio
from typing import Any

import dspy
from models import AGGREGATOR, PROPOSERS

from moa_dspy import MoA


async def main() -> None:
    """Print the tokens as they come."""
    moa = MoA("question -> answer", PROPOSERS, AGGREGATOR)
    stream: Any = dspy.streamify(moa, stream_listeners=[dspy.streaming.StreamListener("answer")])
    async for item in stream(question="What is the capital of Scotland?"):
        if isinstance(item, dspy.streaming.StreamResponse):
            print(item.chunk, end="", flush=True)
        elif isinstance(item, dspy.Prediction):
            print(f"\n({item.metadata.usage.calls} calls, {item.metadata.agreement:.0%} agreement)")


asyncio.run(main())
