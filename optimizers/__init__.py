"""Optimizers for what DSPy's own lack: several models in one program.

DSPy's optimizers compile a mixture like any other program; these know that it is made of agents.
"""

from .interrupted import CompileInterrupted
from .recipes import RECIPES, Recipe, recipe
from .report import SpecializationReport, StageReport
from .specialize import Specialize
from .specialized import specialized

__all__ = [
    "RECIPES",
    "CompileInterrupted",
    "Recipe",
    "SpecializationReport",
    "Specialize",
    "StageReport",
    "recipe",
    "specialized",
]
