"""What is left when a compile ends before its time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moa_dspy.moa import MoA

    from .report import SpecializationReport

__all__ = ["CompileInterrupted", "FinetuneInterrupted"]


class CompileInterrupted(RuntimeError):
    """A stage of a compile failed. What was tuned and paid for until then is on the exception.

    Attributes:
        program: The mixture with the stages that were finished.
        report: What they did, and what all stages cost, the failed ones too.
        reason: What failed, without how to go on.

    Example:
        ```python
        try:
            tuned = Specialize(metric, checkpoint="tuning").compile(moa, trainset=train, valset=val)
        except CompileInterrupted as error:
            error.program.save("so-far.json")  # and the same compile again goes on from the checkpoint
        ```
    """

    def __init__(self, reason: str, program: MoA, report: SpecializationReport, how_to_go_on: str = "") -> None:
        super().__init__(f"{reason} {how_to_go_on}".strip())
        self.program = program
        self.report = report
        self.reason = reason


class FinetuneInterrupted(RuntimeError):
    """A training job failed.

    Attributes:
        program: The mixture with the LMs whose training succeeded; the others are as they were.
    """

    def __init__(self, message: str, program: MoA) -> None:
        super().__init__(message)
        self.program = program
