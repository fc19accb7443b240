"""A mixture in a program beside a predictor: what resamples the program finds one LM to start from."""

from typing import Any

import dspy
import pytest
from support.fake_lm import FakeLM
from support.mixtures import EXAMPLES, mixture

from moa_dspy import MoA


class Beside(dspy.Module):
    """A mixture, and a predictor after it."""

    def __init__(self, moa: MoA, lm: dspy.BaseLM | None = None) -> None:
        super().__init__()
        self.moa, self.after = moa, dspy.Predict("answer -> short")
        self.after.lm = lm

    def forward(self, question: str) -> Any:
        return self.after(answer=self.moa(question=question).answer)


def fakes(*names: str) -> dict[str, FakeLM]:
    return {name: FakeLM(name, lambda prompt: {"reasoning": "so", "answer": "42", "short": "42"}) for name in names}


def rollouts(lms: dict[str, FakeLM]) -> dict[str, list[int | None]]:
    return {name: lm.rollouts for name, lm in lms.items()}


resampling = pytest.mark.parametrize("module", [dspy.BestOfN, dspy.Refine])


@resampling
@pytest.mark.parametrize("has_own", [True, False])
def test_each_is_asked_again_for_its_own_samples(module: Any, has_own: bool) -> None:
    lms, after = (
        fakes("a", "b", "judge"),
        FakeLM("after", lambda prompt: {"short": "42", "discussion": "", "advice": {}}),
    )
    with dspy.context(lm=after):
        program = Beside(mixture(lms), after if has_own else None)
        module(module=program, N=2, reward_fn=lambda *_: 0.0, threshold=1.0)(question="?")
    assert rollouts(lms) == {name: [0, 1] for name in lms}
    assert [call.rollout_id for call in after.log if "discussion" not in call.prompt] == [0, 1]


def test_the_one_lm_is_that_of_the_predictor_beside() -> None:
    after, another = fakes("after", "another").values()
    program = Beside(mixture(fakes("a", "judge")), after)
    assert program.get_lm() is after
    program.set_lm(another)
    program(question="?")
    assert program.get_lm() is another and {agent.lm for agent in program.moa.agents} == {another}


def test_mixtures_alone_give_the_first_agents() -> None:
    class Two(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = (mixture(fakes(f"a{number}", "judge")) for number in (1, 2))

    program = Two()
    assert program.get_lm() is program.one.agents[0].lm
    [lm] = fakes("x").values()
    program.set_lm(lm)
    assert program.get_lm() is lm


def test_simba_compiles_it() -> None:
    lms, [after] = fakes("a", "judge"), fakes("after").values()
    simba = dspy.SIMBA(metric=lambda *_: 0.5, bsize=2, num_candidates=2, max_steps=1, max_demos=1, prompt_model=after)
    tuned: Any = simba.compile(Beside(mixture(lms), after), trainset=EXAMPLES)
    assert [agent.model for agent in tuned.moa.agents] == ["a", "judge"] and tuned.get_lm().model == "after"
