"""Simulated models: no key, no network, deterministic; prompts really change what they answer."""

import subprocess
import sys

import pytest
from support.mixtures import QA, in_task

from moa_dspy import MoA
from moa_dspy.simulated import simulated_lm

PANEL = [f"simulated/{name}" for name in ("alice", "bob", "carol", "dave")]


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
