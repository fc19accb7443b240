"""Many questions: asked side by side, answered once each, resumed after a kill at any moment."""

from moa_dspy.batch.answering import AnswerRow, BatchInterrupted, BatchSummary, answer_all, read_answers

__all__ = ["AnswerRow", "BatchInterrupted", "BatchSummary", "answer_all", "read_answers"]
