"""Optimizers for what DSPy's own lack: several models in one program.

DSPy's optimizers compile a mixture like any other program; these know that it is made of agents. All measure on
recordings: what was asked once is arithmetic from then on.
"""

from .by_name import OPTIMIZERS, build, split
from .calibrate import Calibrate
from .committee import SelectCommittee
from .diagnose import diagnose, diagnosis_budget
from .examples import CompileInterrupted, ProposersUnreachable
from .finetune import Finetune
from .fit_cascade import FitCascade
from .fit_route import FitRoute
from .proof import Proof, prove
from .recipes import Recipe
from .resampled import Bagging, Boosting
from .specialize import Specialize
from .tune_weights import tune_weights
from .vote_weights import FitVoteWeights

__all__ = [
    "OPTIMIZERS",
    "Bagging",
    "Boosting",
    "Calibrate",
    "CompileInterrupted",
    "Finetune",
    "FitCascade",
    "FitRoute",
    "FitVoteWeights",
    "Proof",
    "ProposersUnreachable",
    "Recipe",
    "SelectCommittee",
    "Specialize",
    "build",
    "diagnose",
    "diagnosis_budget",
    "prove",
    "split",
    "tune_weights",
]
