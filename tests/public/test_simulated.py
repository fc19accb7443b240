"""Simulated models: no key, no network, deterministic; prompts really change what they answer."""

import subprocess
import sys
from collections import Counter
from typing import Any

import dspy
import pytest
from support.mixtures import QA, in_task

from moa_dspy import MoA
from moa_dspy.simulated import simulated_lm
from moa_dspy.simulated.questions import bundled_questions

QUESTIONS = bundled_questions()
PANEL = [f"simulated/{name}" for name in ("alice", "bob", "carol", "dave")]


def right(program: Any, lm: Any, examples: Any = QUESTIONS) -> int:
    with dspy.context(lm=lm):
        return sum(program(question=example.question).answer == example.answer for example in examples)


def test_the_bundled_questions_are_120_of_six_kinds() -> None:
    assert (len(QUESTIONS), set(Counter(q.kind for q in QUESTIONS).values())) == (120, {20})
    assert all(list(question.inputs().keys()) == ["question"] and question.answer for question in QUESTIONS)


def test_the_same_call_gets_the_same_answer_in_another_process_too() -> None:
    moa = MoA(QA, PANEL, "simulated/judge", num_proposals_per_model=2)
    code = (
        f"from moa_dspy import MoA\nmoa = MoA({QA!r}, {PANEL!r}, 'simulated/judge', num_proposals_per_model=2)\n"
        "print([p.outputs['answer'] for q in ('What is 17 * 23?', 'Odd?') for p in moa(question=q).proposals])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    here = [p.outputs["answer"] for q in ("What is 17 * 23?", "Odd?") for p in moa(question=q).proposals]
    assert done.stdout == f"{here}\n" and in_task(moa, question="Odd?") == moa(question="Odd?")


def test_a_name_works_with_and_without_its_prefix_and_an_unknown_one_lists_the_known() -> None:
    assert simulated_lm("alice").model == simulated_lm("simulated/alice").model == "simulated/alice"
    with pytest.raises(ValueError, match=r"(?s)'?zoe'?.*alice"):
        simulated_lm("zoe")


def test_no_model_is_best_at_everything_and_together_they_know_more() -> None:
    programs = {name: right(dspy.ChainOfThought(QA), simulated_lm(name)) for name in PANEL}
    moa = MoA(QA, PANEL, "simulated/judge")
    assert max(programs.values()) < right(moa, None) < 120


def test_an_instruction_or_a_demo_changes_what_a_model_knows() -> None:
    program: Any = dspy.ChainOfThought(QA)
    before = right(program, simulated_lm("bob"))
    program.predict.demos = [dspy.Example(reasoning="so", **dict(q.items())) for q in QUESTIONS[:6]]
    assert right(program, simulated_lm("bob")) > before
