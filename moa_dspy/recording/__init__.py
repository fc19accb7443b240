"""Recordings: what was asked, answered and paid, kept; and mixtures that answer from them without a call."""

from moa_dspy.recording.asking import name_strategies
from moa_dspy.recording.budget import Estimate
from moa_dspy.recording.files import is_recording
from moa_dspy.recording.questions import as_questions, read_questions
from moa_dspy.recording.recorder import estimate, record
from moa_dspy.recording.recording import Recording
from moa_dspy.recording.replay import replay
from moa_dspy.recording.rows import RecordedVerdict, Row, RowError
from moa_dspy.recording.summary import RecordingInterrupted, RecordingStopped, Summary, Trouble

__all__ = [
    "Estimate",
    "RecordedVerdict",
    "Recording",
    "RecordingInterrupted",
    "RecordingStopped",
    "Row",
    "RowError",
    "Summary",
    "Trouble",
    "as_questions",
    "estimate",
    "is_recording",
    "name_strategies",
    "read_questions",
    "record",
    "replay",
]
