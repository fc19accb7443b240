"""What can go wrong at run time.

    dspy.utils.exceptions.DSPyError
    └── MoAError
        ├── TooFewProposals         fewer proposals than `Limits.min_proposals` came back
        │   └── ProposersOutOfContext   and all for one reason: the inputs are longer than the models read
        └── AggregationFailed       the aggregator failed and no fallback was allowed

A caller's mistake (an unknown strategy, a colliding field, a missing input) is a
`ValueError` or `TypeError`, raised as early as it can be known.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from dspy.utils.exceptions import ContextWindowExceededError, DSPyError, is_retryable_lm_error

if TYPE_CHECKING:
    from moa_dspy.results import Failure, MoAMetadata, Proposal

__all__ = ["AggregationFailed", "MoAError", "ProposersOutOfContext", "TooFewProposals"]


class MoAError(DSPyError):
    """A mixture could not answer. What was paid for until then is on the exception, its cause is chained.

    Attributes:
        metadata: The account of the call so far: proposals, failures, tokens, cost in USD, seconds.

    Examples:
        ```python
        try:
            pred = moa(question="Why is the sky blue?")
        except MoAError as error:
            print(error.metadata.usage.cost_usd, [p.outputs for p in error.proposals])
        ```
    """

    def __init__(self, message: str, metadata: MoAMetadata) -> None:
        DSPyError.__init__(self, message)
        self.metadata = metadata
        self._retryable = False

    @property
    def proposals(self) -> list[Proposal]:
        """The proposals that did come back, of all layers, in declared order."""
        return self.metadata.all_proposals

    @property
    def failures(self) -> list[Failure]:
        """Why the others did not."""
        return self.metadata.failures

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed later, as the cause says."""
        cause = self.__cause__
        return self._retryable if cause is None else isinstance(cause, Exception) and is_retryable_lm_error(cause)

    def __reduce__(self) -> Any:
        # An exception is pickled with what it was made of; DSPy's own would lose the metadata. The cause's text is in
        # the message: what else it holds need not travel.
        return type(self), (self.message, _portable(self.metadata)), {"_retryable": self.retryable}


def _portable(metadata: MoAMetadata) -> MoAMetadata:
    """The metadata; as its JSON where it holds what cannot be pickled, an output of a local class perhaps."""
    try:
        pickle.dumps(metadata)
    except Exception:
        return type(metadata).model_validate_json(metadata.model_dump_json())
    return metadata


class TooFewProposals(MoAError):
    """Fewer proposals than `Limits.min_proposals` came back."""


class ProposersOutOfContext(TooFewProposals, ContextWindowExceededError):
    """Too few proposals came back since the inputs are longer than the models read; ReAct shortens them, for one."""

    default_code = ContextWindowExceededError.default_code


class AggregationFailed(MoAError):
    """The aggregator failed, and `on_degraded` or a bug in a strategy forbade the fallback to the vote."""
