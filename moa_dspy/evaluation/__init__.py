"""Evaluation: each model alone, the vote, the strategies and the oracle, on the same questions and proposals."""

from moa_dspy.evaluation.evaluating import EvaluationInterrupted, evaluate

__all__ = ["EvaluationInterrupted", "evaluate"]
