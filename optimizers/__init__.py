"""Optimizers for what DSPy's own lack: several models in one program.

DSPy's optimizers compile a mixture like any other program; these know that it is made of agents.
"""

from .bill import Stop
from .budgets import Budget, calls_per_answer, specialize_budget
from .by_name import OPTIMIZERS, Job
from .feedback import Scored
from .finetune import Finetune, Training
from .interrupted import CompileInterrupted, FinetuneInterrupted
from .recipes import RECIPES, Recipe, recipe
from .report import SpecializationReport, StageReport
from .specialize import Specialize
from .specialized import specialized

__all__ = [
    "OPTIMIZERS",
    "RECIPES",
    "Budget",
    "CompileInterrupted",
    "Finetune",
    "FinetuneInterrupted",
    "Job",
    "Recipe",
    "Scored",
    "SpecializationReport",
    "Specialize",
    "StageReport",
    "Stop",
    "Training",
    "calls_per_answer",
    "recipe",
    "specialize_budget",
    "specialized",
]
