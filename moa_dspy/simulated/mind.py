"""What a simulated model makes of a prompt: what it knows, how it errs, whom it believes, what it advises."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

from dspy.lm15 import Request

from moa_dspy.simulated.models import JUDGEMENT, SIMULATED_MODELS, SimulatedModel, mentions
from moa_dspy.simulated.prompts import THOUGHTS, Prompt, ShownProposal, fit, read_prompt, read_proposals, write
from moa_dspy.simulated.questions import KINDS, Question, find_questions, recognize, same_answer

__all__ = ["reply"]

# A vote counts it as an abstention.
UNKNOWN = "I'm sorry, but I can't answer that: a simulated model knows its bundled questions, arithmetic and capitals."

# The difficulty of a question is this share of what decides whether a model knows it; the rest is the model's own.
SHARED_DIFFICULTY = 0.2
# Of many seeds, the one by which the named models score close to their declared skills on the bundled questions.
EDITION = 11553
# How often a mistake is the most popular one: two models that err then agree in about 6 of 10 cases.
POPULAR = 0.75
# How many kinds of questions one proposed instruction gives a hint on.
HINTS = 3
# What output fields are called that ask about the proposals.
VERDICTS = frozenset({"choice", "best", "groups", "elements"})


def reply(model: SimulatedModel, request: Request, sample: str = "") -> str:
    """The text that the model answers.

    Args:
        model: Who answers.
        request: The prompt, by one of DSPy's adapters or by none.
        sample: Which of its answers is asked for; `""` is the one it gives at temperature 0.

    Examples:
        >>> from dspy.lm15 import Message
        >>> request = Request(model="simulated/ace", messages=(Message.user("What is 17*23?"),))
        >>> reply(SimulatedModel("ace"), request)
        '391'
    """
    prompt = read_prompt(request)
    # GEPA asks without an adapter, and quotes the present instruction first.
    text = prompt.inputs.get("prompt", "")
    quoted = re.search(r"```\w*\n(.*?)\n?```", text, re.DOTALL)
    if prompt.style == "none" and quoted and "instruction" in text.casefold():
        return f"```\n{_improve(quoted[1], text[quoted.end() :], sample)}\n```"
    thoughts = _think(model, prompt, sample)
    values: dict[str, object] = {}
    for name, schema in prompt.outputs.items():
        if re.search("instruction|rules", name):  # an optimizer asks
            given = [text for field, text in prompt.inputs.items() if "instruction" in field]
            thoughts[name] = _improve("".join(given[-1:]).strip("«» \n"), "\n".join(prompt.inputs.values()), sample)
        value = fit(thoughts["reasoning"] if name in THOUGHTS else thoughts.get(name), schema)
        values[name] = thoughts["reasoning"] if value is None else value
    return write(prompt.style, values)


def _think(model: SimulatedModel, prompt: Prompt, sample: str) -> dict[str, object]:
    """What the model thinks, by the names of the fields that may ask for it."""
    proposals = [shown for text in prompt.inputs.values() for shown in read_proposals(text)]
    question = _find_question(prompt)
    if question is None:
        if not proposals:
            return _answer(prompt, UNKNOWN, UNKNOWN, 0.0)
        answering = [shown for shown in proposals if shown.answer != UNKNOWN]
        chosen = _group(answering or proposals)[0][0]
        reasoning = f"{chosen.label} has the most support"
        return _judge(proposals, chosen) | _answer(prompt, chosen.answer, reasoning, 0.0, chosen)
    sure = not question.mistakes
    key = _key(model, question, sample)
    demos = sum(_kind_taught(*demo) == question.kind for demo in prompt.demos)
    skill = 1.0 if sure else model.skill(question.kind, prompt.instructions, demos)
    knows = sure or _difficulty(question, key) < skill
    if not proposals:
        answer = question.answer if knows else _mistake(question, key)
        return _answer(prompt, answer, f"A question of {question.kind}: working through it gives {answer}", skill)
    judges = sure or _uniform(*key, "judges") < model.skill(JUDGEMENT, prompt.instructions, demos)
    right = next((shown for shown in proposals if shown.gives(question.answer)), None)
    chosen = right if right and judges else _group(proposals)[0][0]
    answer = question.answer if knows and judges else chosen.answer
    reasoning = f"A question of {question.kind}: I compared {len(proposals)} proposals and come to {answer}"
    return _judge(proposals, chosen) | _answer(prompt, answer, reasoning, skill, chosen)


def _answer(
    prompt: Prompt, answer: str, reasoning: str, confidence: float, chosen: ShownProposal | None = None
) -> dict[str, object]:
    """The fields of an answer; those of the proposal that it goes with, as far as that answers the same."""
    asked = [name for name in prompt.outputs if name not in {*THOUGHTS, *VERDICTS, "confidence"}]
    main = "answer" if "answer" in asked or not asked else asked[0]
    known = chosen.fields if chosen else {}
    same = chosen and (chosen.answer == answer or chosen.gives(answer))
    answers = {**known, main: known.get(main, answer) if same else answer}
    return {"confidence": confidence, **answers, "reasoning": reasoning}


def _judge(proposals: Sequence[ShownProposal], chosen: ShownProposal) -> dict[str, object]:
    """The fields that are about the proposals."""
    groups = _group(proposals)
    elements = []
    for same in groups:
        kind, resolution = "consensus" if sum(shown.support for shown in same) > 1 else "unique", None
        if len(groups) > 1:
            kind, resolution = "contradiction", "It stands." if chosen in same else "It was dropped."
        statement = "\n".join(f"{name}: {text}" for name, text in same[0].answers.items())
        labels = [shown.label for shown in same]
        elements.append({"statement": statement, "kind": kind, "supported_by": labels, "resolution": resolution})
    grouped = [element["supported_by"] for element in elements]
    return {"choice": chosen.label, "best": chosen.label, "groups": grouped, "elements": elements}


def _group(proposals: Sequence[ShownProposal]) -> list[list[ShownProposal]]:
    """The proposals grouped by equal answers, the most supported group first."""
    groups: list[list[ShownProposal]] = []
    for proposal in proposals:
        same = next((found for found in groups if same_answer(found[0].answer, proposal.answer)), None)
        if same is None:
            groups.append([proposal])
        else:
            same.append(proposal)
    return sorted(groups, key=lambda found: -sum(proposal.support for proposal in found))


def _find_question(prompt: Prompt) -> Question | None:
    """The one question that the inputs ask, or None if they ask none or several."""
    texts = [text for text in prompt.inputs.values() if not read_proposals(text)]
    whole = next(filter(None, map(recognize, texts)), None)
    alone = (found[0] for found in map(find_questions, texts) if len(found) == 1)
    return whole or next(alone, None)


@lru_cache(maxsize=4096)
def _kind_taught(asked: str, answered: str) -> str | None:
    """The kind of question that a demo teaches: one it asks and answers correctly."""
    return next((question.kind for question in find_questions(asked) if _holds(answered, question.answer)), None)


def _key(model: SimulatedModel, question: Question, sample: str) -> tuple[object, ...]:
    """What the model's draws about a question depend on."""
    text = question.text.casefold()
    steady = sample and _uniform(EDITION, model.name, text, sample, "steady") < model.steadiness
    return EDITION, model.name, text, "" if steady else sample


def _difficulty(question: Question, key: tuple[object, ...]) -> float:
    """How hard the model finds the question, uniform between 0 and 1; it knows what is below its skill."""
    shared, own = _uniform(EDITION, question.text.casefold(), "difficulty"), _uniform(*key, "knows")
    normal = NormalDist()
    return normal.cdf(
        SHARED_DIFFICULTY**0.5 * normal.inv_cdf(shared) + (1 - SHARED_DIFFICULTY) ** 0.5 * normal.inv_cdf(own)
    )


def _mistake(question: Question, key: tuple[object, ...]) -> str:
    popular, *others = question.mistakes
    if not others or _uniform(*key, "popular") < POPULAR:
        return popular
    return _pick(others[:3], *key, "mistake")


def _improve(instruction: str, evidence: str, sample: str) -> str:
    """The instruction with hints on the questions that were answered wrongly, or on any.

    The hints are phrases that the named models declare. The model does not know which of them will read the
    instruction: so an optimizer has something to find out, and something to gain from the right prompt.
    """
    key = (instruction, evidence, sample)
    hints = []
    for kind in sorted(_weak_kinds(evidence), key=lambda kind: _uniform(*key, kind))[:HINTS]:
        changes = [change for model in SIMULATED_MODELS.values() for change in model.hints.get(kind, {}).items()]
        helpful = sorted({phrase for phrase, change in changes if change > 0 and not mentions(instruction, phrase)})
        if helpful:
            hints.append(f"For {kind}: {_pick(helpful, *key, kind)}.")
    return "\n".join(filter(None, [instruction, *hints]))


def _weak_kinds(evidence: str) -> Sequence[str]:
    """The kinds that most need a hint."""
    missed: Counter[str] = Counter()
    for example in re.split(r"^# Example \d+$", evidence, flags=re.MULTILINE)[1:]:
        # The feedback is left out: it may name the right answer.
        answer = example.partition("## Generated Outputs")[2].partition("## Feedback")[0] or example
        missed.update(question.kind for question in find_questions(example)[:1] if not _holds(answer, question.answer))
    judged = [JUDGEMENT] if re.search(r"^Proposal \w+[^\n]*:\s*«««", evidence, re.MULTILINE) else []
    if missed:
        return [*judged, *(kind for kind, _ in missed.most_common(2))]
    return [*judged, *(dict.fromkeys(question.kind for question in find_questions(evidence)) or KINDS)]


def _holds(text: str, answer: str) -> bool:
    """Whether the text has the answer in a place of its own, as adapters and optimizers write field values."""
    return bool(re.search(rf"(?:^|: |>)\"?{re.escape(answer)}\"?,?\s*(?:$|<)", text, re.MULTILINE | re.IGNORECASE))


def _uniform(*key: object) -> float:
    """A number strictly between 0 and 1, the same for a key in every process and Python version."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(errors="replace"), digest_size=8).digest()
    # 52 bits and a half step: exact in a float, and never 0.0 or 1.0, which an inverse normal cannot take.
    return ((int.from_bytes(digest, "big") >> 12) + 0.5) / 2**52


def _pick(options: Sequence[str], *key: object) -> str:
    return options[int(_uniform(*key) * len(options))]
