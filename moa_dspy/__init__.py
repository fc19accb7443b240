"""Mixture of Agents as a DSPy program."""

from moa_dspy.accounting import LMCall, Usage
from moa_dspy.agent import Agent
from moa_dspy.errors import AggregationFailed, MoAError, TooFewProposals
from moa_dspy.limits import Limits
from moa_dspy.metadata import Element, Failure, MoAMetadata, Vote
from moa_dspy.moa import MoA
from moa_dspy.panel import Panel
from moa_dspy.prediction import MoAPrediction
from moa_dspy.proposals import Proposal
from moa_dspy.strategies import Case, Fusion, Selection, Strategy, Synthesis, Verdict, Voting

__all__ = [
    "Agent",
    "AggregationFailed",
    "Case",
    "Element",
    "Failure",
    "Fusion",
    "LMCall",
    "Limits",
    "MoA",
    "MoAError",
    "MoAMetadata",
    "MoAPrediction",
    "Panel",
    "Proposal",
    "Selection",
    "Strategy",
    "Synthesis",
    "TooFewProposals",
    "Usage",
    "Verdict",
    "Vote",
    "Voting",
]
