"""How sure a mixture may be of an answer: a probability learned from gold answers, and what it can promise."""

from moa_dspy.certainty.calibration import Calibration, OnUnsure, with_promise
from moa_dspy.certainty.evidence import MEASURES, Evidence, weigh_evidence
from moa_dspy.certainty.logit import Fitted, fit, predict
from moa_dspy.certainty.promise import (
    bound_error,
    count_rows_needed,
    find_threshold,
    find_threshold_among,
    list_cuts,
)

__all__ = [
    "MEASURES",
    "Calibration",
    "Evidence",
    "Fitted",
    "OnUnsure",
    "bound_error",
    "count_rows_needed",
    "find_threshold",
    "find_threshold_among",
    "fit",
    "list_cuts",
    "predict",
    "weigh_evidence",
    "with_promise",
]
