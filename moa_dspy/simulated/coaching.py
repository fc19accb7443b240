"""A simulated model as the prompt model of an optimizer: it proposes instructions that other models respond to.

What it proposes are the phrases that the named profiles declare in `hints`: not knowing which of them will read the
instruction, it takes turns. So an optimizer has something to find out, and something to gain from the right prompt.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from moa_dspy.simulated.answers import holds
from moa_dspy.simulated.draws import pick, shuffled
from moa_dspy.simulated.models import JUDGEMENT, SIMULATED_MODELS, mentions
from moa_dspy.simulated.prompts import Prompt
from moa_dspy.simulated.questions import KINDS, find_questions

COACHED = re.compile(r"instruction|advice|rules", re.IGNORECASE)
"""The names of output fields that ask for a better prompt."""

# How many kinds of questions one proposal gives a hint on.
KINDS_PER_PROPOSAL = 3


def coaching(prompt: Prompt, sample: str = "") -> str | None:
    """Return the reply to a plain prompt that asks for a better instruction (as GEPA's does), else None."""
    text = prompt.inputs.get("prompt", "")
    quoted = re.search(r"```\w*\n(.*?)\n?```", text, re.DOTALL)
    if prompt.style != "plain" or quoted is None or "instruction" not in text.casefold():
        return None
    return f"```\n{improved(quoted[1], text[quoted.end() :], sample)}\n```"


def proposed_instruction(prompt: Prompt, sample: str = "") -> str:
    """Return an instruction for the task that an optimizer's prompt describes."""
    given = [text for name, text in prompt.inputs.items() if "instruction" in name]
    # COPRO lists the attempts by their scores, the best one last.
    attempts = re.findall(r"Instruction #\d+: (.*)", "\n".join(given))
    current = attempts[-1] if attempts else given[-1] if given else ""
    return improved(current.strip("«» \n"), "\n".join(prompt.inputs.values()), sample)


def advice(prompt: Prompt, sample: str = "") -> dict[str, str]:
    """Return a hint for each of the modules that an optimizer's prompt names."""
    evidence = "\n".join(prompt.inputs.values())
    modules = re.findall(r"[«\"]([^«»\"]+)[»\"]", prompt.inputs.get("module_names", ""))
    return {module: improved("", evidence, f"{sample} {module}") for module in modules}


def improved(instruction: str, evidence: str, sample: str = "") -> str:
    r"""Return the instruction with hints on the questions that were answered wrongly, or on any.

    Args:
        instruction: The present instruction; hints that it has already are not repeated.
        evidence: Examples of questions, with the answers that were given.
        sample: Which of its proposals is asked for.

    Example:
        >>> improved("Answer.", "# Example 1\nWhat is 5 degrees Celsius in degrees Fahrenheit?\n### answer\n9")
        'Answer.\nFor units: write the unit after every number.'
    """
    key = (instruction, evidence, sample)
    hints = []
    for kind in shuffled(_kinds(evidence), *key)[:KINDS_PER_PROPOSAL]:
        fresh = [phrase for phrase in _phrases(kind) if not mentions(instruction, phrase)]
        if fresh:
            hints.append(f"For {kind}: {pick(fresh, *key, kind)}.")
    return "\n".join(filter(None, [instruction, *hints]))


def _kinds(evidence: str) -> Sequence[str]:
    """Return the kinds that most need a hint."""
    missed: Counter[str] = Counter()
    for example in re.split(r"^# Example \d+$", evidence, flags=re.MULTILINE)[1:]:
        # The feedback is left out: it may name the right answer.
        said = example.partition("## Generated Outputs")[2].partition("## Feedback")[0] or example
        missed.update({question.kind for question in find_questions(example)[:1] if not holds(said, question.answer)})
    judged = [JUDGEMENT] if re.search(r"^Proposal \w+[^\n]*:\s*«««", evidence, re.MULTILINE) else []
    if missed:
        return [*judged, *(kind for kind, _ in missed.most_common(2))]
    return [*judged, *(dict.fromkeys(question.kind for question in find_questions(evidence)) or KINDS)]


def _phrases(kind: str) -> list[str]:
    hints = [model.hints.get(kind, {}) for model in SIMULATED_MODELS.values()]
    return sorted({phrase for changes in hints for phrase, change in changes.items() if change > 0})
