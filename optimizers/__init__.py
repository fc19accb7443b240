"""Optimizers for what DSPy's own lack: several models in one program.

DSPy's optimizers compile a mixture like any other program; these know that it is made of agents.
"""

from .bill import Stop
from .budgets import Budget, calls_per_answer, specialize_budget
from .by_name import OPTIMIZERS, Job
from .collecting import ProposersUnreachable
from .committee_report import Candidate, CommitteeReport
from .committees import Committee, best_committees, pick
from .dawid_skene import dawid_skene
from .diagnosing import diagnose, diagnosis_budget
from .diagnosis import Diagnosis
from .diversity import Diversity, effective_voters, error_correlation, shared_errors
from .feedback import Scored
from .finetune import Finetune, Training
from .interrupted import CompileInterrupted, FinetuneInterrupted
from .log_odds import FittedWeights, fit_log_odds, log_odds, shrunk
from .optimism import optimism
from .prices import BudgetTooSmall
from .recipes import RECIPES, Recipe, recipe
from .recommending import Recommendation, recommend
from .report import Joint, SpecializationReport, StageReport
from .select_committee import SelectCommittee
from .specialize import Specialize
from .specialized import specialized
from .tuning_weights import tune_weights
from .vote_counting import log_likelihood, vote_scores
from .vote_matrix import MISSING, REFUSED, SAYS_NONE, VoteMatrix
from .vote_weights import FitVoteWeights
from .weights_report import AgentWeight, WeightsReport

__all__ = [
    "MISSING",
    "OPTIMIZERS",
    "RECIPES",
    "REFUSED",
    "SAYS_NONE",
    "AgentWeight",
    "Budget",
    "BudgetTooSmall",
    "Candidate",
    "Committee",
    "CommitteeReport",
    "CompileInterrupted",
    "Diagnosis",
    "Diversity",
    "Finetune",
    "FinetuneInterrupted",
    "FitVoteWeights",
    "FittedWeights",
    "Job",
    "Joint",
    "ProposersUnreachable",
    "Recipe",
    "Recommendation",
    "Scored",
    "SelectCommittee",
    "SpecializationReport",
    "Specialize",
    "StageReport",
    "Stop",
    "Training",
    "VoteMatrix",
    "WeightsReport",
    "best_committees",
    "calls_per_answer",
    "dawid_skene",
    "diagnose",
    "diagnosis_budget",
    "effective_voters",
    "error_correlation",
    "fit_log_odds",
    "log_likelihood",
    "log_odds",
    "optimism",
    "pick",
    "recipe",
    "recommend",
    "shared_errors",
    "shrunk",
    "specialize_budget",
    "specialized",
    "tune_weights",
    "vote_scores",
]
