from optimizers import *
from optimizers import OPTIMIZERS as OPTIMIZERS
from optimizers import Proof as Proof
from optimizers import ProposersUnreachable as ProposersUnreachable
from optimizers import Recipe as Recipe
from optimizers import build as build
from optimizers import diagnosis_budget as diagnosis_budget
from optimizers import split as split
