"""Which models the examples ask.

Simulated ones as they stand: no key, no network. Real ones by one environment variable, the
aggregator last:

    MOA_MODELS=openai/gpt-5.4-mini,anthropic/claude-haiku-4-5,anthropic/claude-sonnet-5-5
"""

import os

_DEFAULT = "simulated/alice,simulated/bob,simulated/carol,simulated/judge"
*PROPOSERS, AGGREGATOR = os.environ.get("MOA_MODELS", _DEFAULT).split(",")
