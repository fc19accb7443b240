"""Optimizers for what DSPy's own lack: several models in one program.

DSPy's optimizers compile a mixture like any other program; these know that it is made of agents. All measure on
recordings: what was asked once is arithmetic from then on.
"""

from .calibrate import Calibrate
from .committee import SelectCommittee
from .diagnose import diagnose
from .diagnose import diagnosis_budget as diagnosis_budget  # this, and what is imported so below, for the command line
from .examples import CompileInterrupted
from .examples import ProposersUnreachable as ProposersUnreachable
from .finetune import Finetune, tune_weights
from .fit_cascade import FitCascade
from .fit_route import FitRoute
from .proof import Proof as Proof
from .proof import prove
from .recipes import Recipe as Recipe
from .resampled import Bagging, Boosting
from .specialize import OPTIMIZERS as OPTIMIZERS
from .specialize import Specialize
from .specialize import build as build
from .specialize import split as split
from .vote_weights import FitVoteWeights

__all__ = [
    "Bagging",
    "Boosting",
    "Calibrate",
    "CompileInterrupted",
    "Finetune",
    "FitCascade",
    "FitRoute",
    "FitVoteWeights",
    "SelectCommittee",
    "Specialize",
    "diagnose",
    "prove",
    "tune_weights",
]
