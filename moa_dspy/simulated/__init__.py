"""Simulated models: `dspy.LM`s that answer without a key, a network or a cost, always the same way.

What they simulate, and what they do not, is written at `SimulatedModel`.
"""

from moa_dspy.simulated.engine import AsyncSimulatedEngine, SimulatedEngine, SimulatedLM, simulated_lm
from moa_dspy.simulated.models import SIMULATED_MODELS, SimulatedModel

__all__ = [
    "SIMULATED_MODELS",
    "AsyncSimulatedEngine",
    "SimulatedEngine",
    "SimulatedLM",
    "SimulatedModel",
    "simulated_lm",
]
