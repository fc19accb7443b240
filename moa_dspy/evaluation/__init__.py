"""Evaluation: each model alone, the vote, the strategies and the oracle, on the same questions and proposals."""

from moa_dspy.evaluation.comparison import Comparison, Row
from moa_dspy.evaluation.evaluating import EvaluationInterrupted, estimate_evaluation, evaluate
from moa_dspy.evaluation.intervals import Interval, difference_interval, mean_interval, wilson
from moa_dspy.evaluation.metrics import METRICS, Metric, MetricError, as_metric, prediction_of, score
from moa_dspy.evaluation.plot import check_plot, save_figure, save_plot
from moa_dspy.evaluation.scores import Answer, System

__all__ = [
    "METRICS",
    "Answer",
    "Comparison",
    "EvaluationInterrupted",
    "Interval",
    "Metric",
    "MetricError",
    "Row",
    "System",
    "as_metric",
    "check_plot",
    "difference_interval",
    "estimate_evaluation",
    "evaluate",
    "mean_interval",
    "prediction_of",
    "save_figure",
    "save_plot",
    "score",
    "wilson",
]
