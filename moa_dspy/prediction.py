"""The prediction of a mixture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dspy

from moa_dspy.metadata import MoAMetadata
from moa_dspy.proposals import Proposal

__all__ = ["MoAPrediction"]


class MoAPrediction(dspy.Prediction):
    """The task's outputs, and beside them how they came about.

    `proposals` and `metadata` are no fields: `dspy.majority`, Evaluate's tables and demos see the
    task's outputs only.
    """

    def __init__(self, base: Any = None, **outputs: Any) -> None:
        super().__init__(base, **outputs)
        self._metadata: MoAMetadata | None = getattr(base, "_metadata", None)

    @classmethod
    def of(cls, outputs: Mapping[str, Any], task: type[dspy.Signature], metadata: MoAMetadata) -> MoAPrediction:
        """The prediction with these outputs and this account."""
        prediction: MoAPrediction = cls.from_completions([dict(outputs)], signature=task)
        prediction._metadata = metadata
        return prediction

    @property
    def metadata(self) -> MoAMetadata:
        """Who was asked, what it cost, how the answer was made."""
        if self._metadata is None:
            raise AttributeError
        return self._metadata

    @property
    def proposals(self) -> list[Proposal]:
        """What the strategy decided on: the last layer's proposals, in declared order."""
        everything = self.metadata.all_proposals
        last = max((proposal.layer for proposal in everything), default=1)
        return [proposal for proposal in everything if proposal.layer == last]

    def __getattr__(self, key: str) -> Any:
        if key in ("metadata", "proposals"):  # the properties gave none
            raise AttributeError(f"No {key}: this prediction was made of its fields alone, without a call's account.")
        return super().__getattr__(key)
