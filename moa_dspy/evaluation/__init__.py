"""Evaluation: each model alone, the vote, the strategies and the oracle, on the same questions and proposals."""

from moa_dspy.evaluation.comparison import Comparison, Measure, Row
from moa_dspy.evaluation.evaluating import EvaluationInterrupted, Perturb, estimate_evaluation, evaluate, perturb_text
from moa_dspy.evaluation.intervals import (
    Interval,
    calibration_error,
    calibration_interval,
    cut_bins,
    difference_interval,
    mean_interval,
    wilson,
)
from moa_dspy.evaluation.metrics import METRICS, Metric, MetricError, as_metric, metric_name, prediction_of, score
from moa_dspy.evaluation.plot import check_plot, save_figure, save_plot
from moa_dspy.evaluation.scores import Answer, System

__all__ = [
    "METRICS",
    "Answer",
    "Comparison",
    "EvaluationInterrupted",
    "Interval",
    "Measure",
    "Metric",
    "MetricError",
    "Perturb",
    "Row",
    "System",
    "as_metric",
    "calibration_error",
    "calibration_interval",
    "check_plot",
    "cut_bins",
    "difference_interval",
    "estimate_evaluation",
    "evaluate",
    "mean_interval",
    "metric_name",
    "perturb_text",
    "prediction_of",
    "save_figure",
    "save_plot",
    "score",
    "wilson",
]
