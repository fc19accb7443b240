"""Simulated models: `dspy.LM`s that answer without a key, a network or a cost, always the same way."""

from moa_dspy.simulated.lm import (
    SIMULATED_MODELS,
    AsyncSimulatedEngine,
    SimulatedEngine,
    SimulatedLM,
    SimulatedModel,
    simulated_lm,
)

__all__ = [
    "SIMULATED_MODELS",
    "AsyncSimulatedEngine",
    "SimulatedEngine",
    "SimulatedLM",
    "SimulatedModel",
    "simulated_lm",
]
