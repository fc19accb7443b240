"""An agent's LM, as DSPy's own machinery saves and loads it.

DSPy saves the `Parameter`s of a program under their names, and a program around a mixture saves the mixture's with
its own. So each agent shows its LM as one, and the mixture its shape and settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dspy
from dspy.predict.parameter import Parameter

from moa_dspy.rollouts import Rollout
from moa_dspy.saving.lm_state import is_same_lm, lm_state, read_lm
from moa_dspy.saving.saved_format import SavedLM, checked

if TYPE_CHECKING:
    from moa_dspy.agent import Agent

__all__ = ["BoundLM"]


class BoundLM(dspy.Module, Parameter):
    """The LM of an agent, as DSPy saves and loads it.

    A view: made when DSPy asks for the parameters, it holds nothing itself. It is a module, as DSPy tells only
    modules whether a file is trusted; it takes no LM from `set_lm`, whose mail goes to the predictors, and for
    `get_lm` it says what they say.
    """

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.agent = agent

    @property
    def lm(self) -> dspy.BaseLM | None:
        program = self.agent.program
        predictors = [] if program is None else program.predictors()
        return predictors[0].lm if predictors else None

    @lm.setter
    def lm(self, lm: dspy.BaseLM | None) -> None:
        pass

    def reset(self) -> None:
        """Nothing: a reset copy of a program answers with the same models."""

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        saved, rollout = lm_state(self.agent.lm), self.agent._rollout
        if rollout is not None:
            saved = saved.model_copy(update={"rollout": (rollout.id, rollout.temperature)})
        return saved.state()

    def load_state(self, state: Any, *, allow_unsafe_lm_state: bool = False) -> None:
        """Take the LM over, unless it is the agent's already: then its connections and its key stay."""
        saved: SavedLM = checked(SavedLM, state, f"the LM of {self.agent.name}")
        if not is_same_lm(saved, self.agent.lm, trusted=allow_unsafe_lm_state):
            self.agent.lm = read_lm(saved, self.agent.name, allow_unsafe=allow_unsafe_lm_state)
        self.agent._rollout = None if saved.rollout is None else Rollout(*saved.rollout)
