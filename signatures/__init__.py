"""The typed signatures: how a proposal, a synthesis, a selection, a vote and a fusion are asked for.

Each is derived from any task signature; its docstring, descriptions, types, constraints and
defaults survive.
"""

from .fusion import ELEMENTS, SETTLED, FusionElement, fusion_signature, without
from .identity import duplicate, tell_apart
from .proposal import proposal_signature, starting_instructions
from .revision import CRITIQUE, revision_signature
from .selection import CHOICE, among, selection_signature
from .synthesis import synthesis_signature
from .task import PROPOSALS, REASONING, for_role, refuse_collisions, task_signature, with_proposals, with_reasoning
from .voting import BEST, GROUPS, grouped_among, voting_signature

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
    "grouped_among",
    "proposal_signature",
    "refuse_collisions",
    "revision_signature",
    "selection_signature",
    "starting_instructions",
    "synthesis_signature",
    "task_signature",
    "tell_apart",
    "voting_signature",
    "with_proposals",
    "with_reasoning",
    "without",
]
