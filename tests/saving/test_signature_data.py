"""Signatures as data: written, read back, and the same prompts of both."""

import enum
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal, Optional

import dspy
import pytest
from pydantic import AfterValidator, BaseModel, Field, PositiveInt, StringConstraints, conlist, constr

from moa_dspy.signature_data import describe_signature, read_signature, read_type, type_text

make: Any = dspy.Signature  # which makes classes, and not what a type checker expects of a class


class Mood(enum.Enum):
    GLAD = "glad"


class Item(BaseModel):
    price: int


class Rate(dspy.Signature):
    """Rate the review."""

    review: str = dspy.InputField(desc="as it came in")
    pages: int = dspy.InputField(default=1, ge=1)
    stars: Annotated[int, Field(ge=-1, le=5)] = dspy.OutputField()
    tags: list[PositiveInt] = dspy.OutputField(desc="in order", max_length=3)
    name: Optional[constr(min_length=1)] = dspy.OutputField()  # type: ignore[valid-type]  # noqa: UP045
    lang: Literal["en", "de"] | None = dspy.OutputField(default="en")
    key: str = dspy.OutputField(pattern="^a")


TYPES: list[tuple[Any, str]] = [
    (int, "int"),
    (list[str] | None, "list[str] | None"),
    (dict[str, list[int | float]], "dict[str, list[int | float]]"),
    (tuple[int, ...], "tuple[int, ...]"),
    (Literal["a", -1, True], "Literal['a', -1, True]"),
    (Sequence[date], "Sequence[date]"),
    (Annotated[Decimal, Field(gt=0, max_digits=4)], "Annotated[Decimal, Field(gt=0, max_digits=4)]"),
    (list[PositiveInt] | None, "list[Annotated[int, Gt(gt=0)]] | None"),
    (
        dict[str, Annotated[str, StringConstraints(pattern="^[a-z]'", to_lower=True)]],
        'dict[str, Annotated[str, StringConstraints(to_lower=True, pattern="^[a-z]\'")]]',
    ),
    (conlist(int, min_length=2, max_length=2), "Annotated[list[int], Len(min_length=2, max_length=2)]"),
    (dspy.Image | None, "dspy.Image | None"),
    (dspy.Code["java"], "dspy.Code['java']"),
    (Any, "Any"),
]


@pytest.mark.parametrize(("annotation", "text"), TYPES, ids=[text for _, text in TYPES])
def test_a_type_is_written_as_python_does_and_read_back(annotation: Any, text: str) -> None:
    assert type_text(annotation) == text == type_text(read_type(text))


@pytest.mark.parametrize("text", ["Optional[int]", "Union[int, None]", "typing.Optional[int]"])
def test_a_type_may_be_written_otherwise(text: str) -> None:
    assert read_type(text) == Optional[int]  # noqa: UP045


@pytest.mark.parametrize(
    "text",
    [
        *("", "list[int", "3", "int or str", "list[int](3)", "[" * 999, "int[str]", "Literal[x]"),
        *("list['x']", "Literal[list['x']]", "Annotated[int, 'x']"),  # a text inside a type is evaluated later
    ],
)
def test_what_is_no_type_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read_type(text)


@pytest.mark.parametrize("signature", [Rate, make("question, n: int -> answer, score: Optional[float]")])
def test_a_signature_comes_back_with_the_same_prompt(signature: Any) -> None:
    data = describe_signature(signature)
    back = read_signature(data)
    inputs = {name: 1 for name in signature.input_fields}
    adapter = dspy.ChatAdapter()
    assert adapter.format(back, [], inputs) == adapter.format(signature, [], inputs)
    assert describe_signature(back) == data
    assert [str(field.metadata) for field in back.fields.values()] == [
        str(f.metadata) for f in signature.fields.values()
    ]


def test_what_is_usual_is_not_written() -> None:
    assert describe_signature(make("question, n: int -> answer: float", "Do it.")) == {
        "name": "StringSignature",
        "instructions": "Do it.",
        "inputs": {"question": {}, "n": "int"},
        "outputs": {"answer": "float"},
    }


class TestClassesOfOnesOwn:
    DATA = describe_signature(
        make({"note": (str, dspy.InputField()), "items": (list[Item], dspy.OutputField())}, "x").append(
            "mood", dspy.OutputField(), type_=Literal[Mood.GLAD]
        )
    )

    def test_stand_there_by_name(self) -> None:
        assert self.DATA["outputs"] == {"items": "list[Item]", "mood": "Literal[Mood.GLAD]"}

    def test_are_given_by_whoever_reads(self) -> None:
        back: Any = read_signature(self.DATA, {"Item": Item, "Mood": Mood})
        assert [field.annotation for field in back.output_fields.values()] == [list[Item], Literal[Mood.GLAD]]

    def test_are_asked_for_all_at_once(self) -> None:
        with pytest.raises(ValueError, match=r"\(Item, Mood\).*custom_types=\{'Item': Item, 'Mood': Mood\}\."):
            read_signature(self.DATA)

    @pytest.mark.parametrize(
        "annotation",
        [Annotated[int, AfterValidator(abs)], list[Annotated[str, AfterValidator(str.strip)]], Annotated[int, "told"]],
    )
    def test_and_so_is_what_cannot_be_written(self, annotation: Any) -> None:
        signature: Any = make({"q": (str, dspy.InputField()), "a": (annotation, dspy.OutputField())}, "x")
        with pytest.raises(ValueError, match="pass the signature itself as signature="):
            read_signature(describe_signature(signature))

    @pytest.mark.parametrize("text", ["q -> a: os.path", "q -> a: evil.Evil", "q: evil -> a", "q -> a: list[evil.X]"])
    def test_are_never_imported(self, text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
        (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(ValueError, match="pass the signature itself"):
            read_signature(text)


@pytest.mark.parametrize("name", ["base", "self", "completions", "key", "token"])
def test_fields_may_be_called_as_dspy_allows(name: str) -> None:
    assert list(read_signature({"inputs": {name: "str"}, "outputs": {"a": "str"}}).fields) == [name, "a"]
