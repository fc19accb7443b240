"""What the tests stand on: fake LMs, a loopback provider, recorded answers."""

import os

# Without it DSPy and LiteLLM each fetch a price list from the network at their first call.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "true")
