"""What models are asked: signatures derived from any task's, whose docstring, types and constraints survive."""

from .judging import (
    BEST,
    CHOICE,
    CRITIQUE,
    ELEMENTS,
    GROUPS,
    SETTLED,
    FusionElement,
    among,
    fusion_signature,
    revision_signature,
    selection_signature,
    synthesis_signature,
    voting_signature,
    without,
)
from .proposal import proposal_signature, starting_instructions
from .task import PROPOSALS, REASONING, duplicate, for_role, task_signature, tell_apart, with_reasoning

__all__ = [
    "BEST",
    "CHOICE",
    "CRITIQUE",
    "ELEMENTS",
    "GROUPS",
    "PROPOSALS",
    "REASONING",
    "SETTLED",
    "FusionElement",
    "among",
    "duplicate",
    "for_role",
    "fusion_signature",
    "proposal_signature",
    "revision_signature",
    "selection_signature",
    "starting_instructions",
    "synthesis_signature",
    "task_signature",
    "tell_apart",
    "voting_signature",
    "with_reasoning",
    "without",
]
