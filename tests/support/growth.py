"""What makes careless code slow, texts and structures of any size, the worst of each kind; and the work on them."""

from collections.abc import Callable
from typing import Any

import dspy
from pydantic import BaseModel

from moa_dspy import Proposal
from moa_dspy.cli.output import harmless
from moa_dspy.escaping import escaper
from moa_dspy.evaluation import as_metric
from moa_dspy.rendering import render
from moa_dspy.secrets import mask
from moa_dspy.signatures import task_signature
from moa_dspy.strategies.equality import normalise
from moa_dspy.strategies.fusion import merge
from moa_dspy.strategies.normalizers import NORMALIZERS
from moa_dspy.strategies.voting import count
from moa_dspy.values import as_text, to_json, typed_outputs

TASK = task_signature("question -> answer")
contains = as_metric("contains", TASK)

ON_TEXT: dict[str, Callable[[str], Any]] = {
    "escape": escaper(("question", "answer"), ("reasoning", "answer")),
    "normalise": lambda text: normalise(text, str),
    **{f"read as {name}": read for name, read in NORMALIZERS.items()},
    "contains": lambda text: contains(dspy.Example(answer="42"), dspy.Prediction(answer=text)),
    "mask": lambda text: mask(text, ["hunter2-hunter2"]),
    "print": harmless,
}
ON_STRUCTURES: dict[str, Callable[[list[Any], Any], Any]] = {
    "check": lambda values, kind: typed_outputs(
        dspy.Prediction(answer=values[0]), TASK.with_updated_fields("answer", type_=kind)
    ),
    "as JSON": lambda values, kind: to_json(values[0]),
    "as text": lambda values, kind: as_text(values[0]),
    "render": lambda values, kind: render([Proposal(id="m", agent="m", outputs={"x": v}) for v in values], seed=0),
    "normalise": lambda values, kind: normalise(values[0], kind),
    "count": lambda values, kind: count({str(n): {"x": v} for n, v in enumerate(values)}, {"x": kind}),
    "merge": lambda values, kind: merge({str(n): v for n, v in enumerate(values)}, kind, "x"),
}


class Row(BaseModel):
    """A row of a table that a model might fill."""

    name: str
    price: float
    note: str


def _repeated(piece: str, head: str = "", tail: str = "") -> Callable[[int], str]:
    return lambda size: head + piece * (size // len(piece.encode())) + tail


TEXTS: dict[str, Callable[[int], str]] = {
    "words": _repeated("The answer is that it depends, "),
    "tags": _repeated("< "),
    "tags unclosed": _repeated("<", tail=">"),
    "tags of a field": _repeated("<answer "),
    "brackets": _repeated("["),
    "brackets and blanks": _repeated("[[  "),
    "brackets, hashes": _repeated("[[ ## "),
    "hashes": _repeated("# "),
    "hashes, blanks": lambda size: "##" + " " * size,
    "blanks": _repeated(" ", head="x", tail="x"),
    "blanks and brackets": lambda size: "[[" + " " * (size // 2) + "##" + " " * (size // 2) + "]",
    "line breaks": _repeated("\n"),
    "mixed line breaks": _repeated("\r\n\u2028"),
    "heads of proposals": _repeated("Proposal P1 "),
    "heads, blanks": lambda size: "Proposal" + " " * size,
    "fences": _repeated("«"),
    "fences, zero-width": _repeated("««\u200b"),
    "zero-width": _repeated("\u200b"),
    "bracket, zero-width": lambda size: "[" + "\u200b" * (size // 3) + "x",
    "accents": _repeated("\u0300\u0316", head="a"),
    "full-width": _repeated("\uff3b\uff3b\uff03\uff03"),
    "ligatures": _repeated("\ufdfa"),  # one character whose compatible form has eighteen
    "bidi": _repeated("\u202e"),
    "digits": _repeated("9"),
    "thousands": _repeated("1,000"),
    "dollars": _repeated("$"),
    "dollars, blanks": lambda size: "x$" + " " * size + "x",
    "boxes": _repeated("\\boxed{"),
    "fractions": _repeated("\\frac"),
    "backslashes": _repeated("\\"),
    "braces": _repeated("{"),
    "answer is": _repeated("the correct "),
    "address": _repeated("?key"),
    "address of keys": lambda size: "?" + "key" * (size // 3),
    "keys": _repeated("sk-"),
    "bearer": _repeated("Bearer "),
    "stars": _repeated("*"),
    "letters": _repeated("a", tail="b"),
}


def _floats(size: int) -> list[Any]:
    return [[place + run / 10 for place in range(size // 8)] for run in range(3)]


def _near(size: int) -> list[Any]:
    return [[1 + place * 1e-9 + run * 1e-10 for place in range(size // 20)] for run in range(3)]


def _rows(size: int) -> list[Any]:
    return [
        [Row(name=f"item {place}", price=place + run / 10, note="the same note") for place in range(size // 60)]
        for run in range(3)
    ]


def _misread(size: int) -> list[Any]:
    return [
        [
            Row(name=f"item {place}{'x' * run}", price=place % 7, note=f"note {place % 50}")
            for place in range(size // 60)
        ]
        for run in range(3)
    ]


def _alike(size: int) -> list[Any]:
    return [[Row(name="same", price=1, note="same") for _ in range(size // 50 + run)] for run in range(3)]


def _unlike(size: int) -> list[Any]:
    return [[Row(name=f"{run} {n}", price=n + run * size, note="same") for n in range(size // 50)] for run in range(3)]


def _long_rows(size: int) -> list[Any]:
    return [[Row(name="n", price=run, note=("ab" * (size // 4)) + str(run))] for run in range(3)]


def _chained(size: int) -> list[Any]:
    """Each row is most like one of the next list: the first list's first row is linked to the last one's last."""
    window = [{f"c{place}": f"w{start + place}" for place in range(9)} for start in range(size // 150 * 3)]
    return [window[run::3] for run in range(3)]


def _crossed(size: int) -> list[Any]:
    """Each row shares one part with each of many others."""
    edge = int((size / 18) ** 0.5)
    return [
        [{f"c{column}": f"v{(row + column * run) % edge}" for column in range(edge)} for row in range(edge)]
        for run in range(3)
    ]


def _wide(size: int) -> list[Any]:
    """Two rows, in which all columns count up."""
    return [[{f"c{column}": row for column in range(size // 24)} for row in range(2)] for run in range(3)]


def _graded(size: int) -> list[Any]:
    """Names that all might grade or explain the others."""
    marks = str.maketrans("01", "-.")
    names = [f"{('score', 'reason')[n % 2]}{f'{n:b}'.translate(marks)}" for n in range(size // 25)]
    return [{name: run + 0.5 for name in names} for run in range(3)]


def _nested(size: int) -> list[Any]:
    value: Any = []
    for depth in range(min(size // 12, 150)):
        value = [value, depth]
    return [[value] * max(1, size // 2000)] * 3


def _shuffled(size: int) -> list[Any]:
    texts = [f"text {place}" for place in range(size // 12)]
    return [texts, texts[::-1], texts[1::2] + texts[::2]]


STRUCTURES: dict[str, tuple[Any, Callable[[int], list[Any]]]] = {
    "floats": (list[float], _floats),
    "near floats": (list[float], _near),
    "rows": (list[Row], _rows),
    "misread rows": (list[Row], _misread),
    "equal rows": (list[Row], _alike),
    "unlike rows": (list[Row], _unlike),
    "rows of long text": (list[Row], _long_rows),
    "chained rows": (list[dict[str, Any]], _chained),
    "crossed rows": (list[dict[str, Any]], _crossed),
    "wide rows": (list[dict[str, Any]], _wide),
    "graded parts": (dict[str, Any], _graded),
    "nested lists": (Any, _nested),
    "texts in other orders": (list[str], _shuffled),
    "sets": (set[str], lambda size: [{f"text {place * run}" for place in range(size // 12)} for run in (1, 2, 3)]),
    "dicts": (dict[str, Any], lambda size: [{f"key {n}": [n, run] for n in range(size // 20)} for run in range(3)]),
    "texts": (list[str], lambda size: [[f"{'a' * 200}{n}{'b' * run}" for n in range(size // 206)] for run in range(3)]),
}
