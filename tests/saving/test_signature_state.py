"""Signatures as they stand in files: the same prompts come back, and nothing is evaluated."""

import datetime
import decimal
import enum
import ipaddress
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, Optional, TypeVar

import dspy
import pytest
from annotated_types import Gt
from dspy.utils.constants import IS_TYPE_UNDEFINED
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, RootModel, StringConstraints, field_validator
from typing_extensions import TypedDict

from moa_dspy.saving.saved_format import SavedSignature, SavedType
from moa_dspy.saving.signature_state import read_signature, signature_state
from moa_dspy.saving.type_reading import TypeReader
from moa_dspy.saving.type_writing import TypeWriter


class Color(enum.Enum):
    """Hues."""

    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Unit(str, enum.Enum):
    KG = "kg"


class Item(BaseModel):
    """Something for sale."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="as on the label", min_length=1, examples=["tea"])
    price: Annotated[decimal.Decimal, Field(gt=0)] = decimal.Decimal("1.5")
    tags: set[str] = Field(default_factory=set)
    color: Color = Color.RED
    parts: "list[Item]" = []
    since: datetime.date | None = None
    stock: int = Field(default=3, alias="inStock", json_schema_extra={"unit": "boxes"})


class Left(BaseModel):
    right: "Right | None" = None


class Right(BaseModel):
    lefts: dict[str, list[Left]] = Field(default_factory=dict)


class Checked(BaseModel):
    number: int

    @field_validator("number")
    @classmethod
    def even(cls, number: int) -> int:
        if number % 2:
            raise ValueError("odd")
        return number


class Numbers(RootModel[list[int]]):
    pass


Content = TypeVar("Content")


class Page(BaseModel, Generic[Content]):
    items: list[Content]


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


@dataclass
class Point:
    x: int


class Row(TypedDict):
    x: int


TYPES: dict[str, Any] = {
    "str": str,
    "bool": bool,
    "int": int,
    "float": float,
    "bytes": bytes,
    "list": list,
    "Any": Any,
    "list[str]": list[str],
    "list[int] ": list[int],  # the spelling of typing's own
    "dict[str, list[float]]": dict[str, list[float]],
    "tuple[int, ...]": tuple[int, ...],
    "tuple[str, int]": tuple[str, int],
    "set[int]": set[int],
    "str | None": Optional[str],  # noqa: UP045
    "int | str | None": int | str | None,
    "Sequence[str]": Sequence[str],
    "Mapping[str, int]": Mapping[str, int],
    "Literal['a', \"it's\", -1, True, None]": Literal["a", "it's", -1, True, None],
    "Literal[Color.RED]": Literal[Color.RED],
    "date": datetime.date,
    "datetime": datetime.datetime,
    "Decimal": decimal.Decimal,
    "UUID": uuid.UUID,
    "Color": Color,
    "Level": Level,
    "Unit": Unit,
    "Item": Item,
    "list[Item] | None": list[Item] | None,
    "Left": Left,
    "Numbers": Numbers,
    "Page_Item": Page[Item],
    "list[Annotated[Cat | Dog, Field(discriminator='kind')]]": list[Annotated[Cat | Dog, Field(discriminator="kind")]],
    "list[Annotated[str, StringConstraints(strip_whitespace=True, max_length=3)]]": list[
        Annotated[str, StringConstraints(strip_whitespace=True, max_length=3)]
    ],
    "dict[str, Annotated[int, Gt(gt=0), Field(le=9, description='few')]]": dict[
        str, Annotated[int, Gt(0), Field(le=9, description="few")]
    ],
    "dspy.Image": dspy.Image,
    "list[dspy.Audio]": list[dspy.Audio],
    "dspy.History": dspy.History,
    "dspy.Code['java']": dspy.Code["java"],
}


def again(signature: type[dspy.Signature], **options: Any) -> tuple[type[dspy.Signature], list[str]]:
    """The signature by way of a file."""
    text = json.dumps(signature_state(signature).state())
    return read_signature(SavedSignature.model_validate_json(text), **options)


def prompts(signature: type[dspy.Signature]) -> list[str]:
    """All that an adapter tells of a signature."""
    return [
        part(signature)
        for adapter in (dspy.ChatAdapter(), dspy.JSONAdapter())
        for part in (adapter.format_field_description, adapter.format_field_structure, adapter.format_task_description)
    ]


def task(**fields: Any) -> Any:
    make: Any = dspy.Signature
    return make({"question": (str, dspy.InputField()), **fields}, "Answer.", signature_name="Task")


@pytest.mark.parametrize(("text", "annotation"), TYPES.items(), ids=TYPES)
def test_every_type_comes_back(text: str, annotation: Any) -> None:
    signature = task(answer=(annotation, dspy.OutputField()))
    saved = signature_state(signature)
    back, lacks = again(signature)
    assert [field.type for field in saved.outputs] == [text.strip()]
    assert (prompts(back), lacks) == (prompts(signature), [])
    assert signature_state(back) == saved


@pytest.mark.parametrize(
    "field",
    [
        dspy.OutputField(desc="in one word"),
        dspy.OutputField(ge=0, le=9),
        dspy.OutputField(le=9, ge=0),
        dspy.OutputField(default=3),
        dspy.OutputField(default=None),
        dspy.OutputField(description="in one word", title="The answer", examples=[1]),
        dspy.OutputField(multiple_of=2, strict=True),
    ],
    ids=["desc", "ge le", "le ge", "default", "None by default", "pydantic's words", "strict"],
)
def test_what_a_field_says_comes_back(field: Any) -> None:
    signature = task(answer=(int, field))
    back: Any = again(signature)[0]
    ours, theirs = back.fields["answer"], signature.fields["answer"]
    assert prompts(back) == prompts(signature)
    assert (ours.json_schema_extra, ours.default) == (theirs.json_schema_extra, theirs.default)
    assert sorted(map(repr, ours.metadata)) == sorted(map(repr, theirs.metadata))
    assert (ours.title, ours.description, ours.examples) == (theirs.title, theirs.description, theirs.examples)


def test_what_was_added_to_a_field_comes_back() -> None:
    signature = task(answer=(int, dspy.OutputField())).with_updated_fields("answer", hint="own", prefix="A:")
    assert again(signature)[0].fields["answer"].json_schema_extra == signature.fields["answer"].json_schema_extra


def test_defaults_are_typed_again() -> None:
    signature = task(
        color=(Color, dspy.OutputField(default=Color.BLUE)),
        item=(Item, dspy.OutputField(default=Item(name="tea"))),
        day=(datetime.date, dspy.OutputField(default=datetime.date(2024, 2, 29))),
        tags=(list[str], dspy.OutputField(default_factory=list)),
        most=(float, dspy.OutputField(default=float("inf"))),
    )
    back: Any = again(signature, custom_types={"Color": Color, "Item": Item})[0]
    given = {name: field.get_default(call_default_factory=True) for name, field in back.output_fields.items()}
    assert given == {"color": Color.BLUE, "item": Item(name="tea"), "day": datetime.date(2024, 2, 29), "tags": []} | {
        "most": float("inf")
    }


def test_the_class_comes_back() -> None:
    class Triage(dspy.Signature):
        """Sort a report.

        By who reads it.
        """

        report = dspy.InputField(desc="as it came in")
        urgent: bool = dspy.OutputField()

    back = again(Triage)[0]
    assert (back.__name__, back.instructions) == ("Triage", "Sort a report.\n\nBy who reads it.")
    assert {name: field.json_schema_extra for name, field in back.fields.items()} == {
        name: field.json_schema_extra for name, field in Triage.fields.items()
    }


def untyped(signature: Any) -> list[str]:
    """The inputs that were given no type: DSPy does not check them."""
    fields = signature.input_fields.items()
    return [name for name, field in fields if field.json_schema_extra.get(IS_TYPE_UNDEFINED)]


@pytest.mark.parametrize("text", ["question, n: int -> answer: list[str], sure: bool", "a: str -> b"])
def test_a_string_signature_is_the_same_to_dspy(text: str) -> None:
    make: Any = dspy.Signature
    assert again(make(text))[0].fields.keys() == make(text).fields.keys()
    assert prompts(again(make(text))[0]) == prompts(make(text))
    assert untyped(again(make(text))[0]) == untyped(make(text))


def test_rebuilt_classes_work() -> None:
    back = again(task(item=(Item, dspy.OutputField())))[0]
    item: Any = back.fields["item"].annotation
    made = item.model_validate({"name": "tea", "inStock": 1, "color": "blue", "parts": [{"name": "leaf"}]})
    assert (made.price, made.color.name, type(made.parts[0]) is item) == (decimal.Decimal("1.5"), "BLUE", True)
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        item.model_validate({"name": "tea", "colour": "blue"})
    with pytest.raises(ValueError, match="at least 1 character"):
        item.model_validate({"name": ""})


def test_classes_of_one_name_are_told_apart() -> None:
    class Item(BaseModel):
        weight: float

    signature = task(old=(globals()["Item"], dspy.OutputField()), new=(Item, dspy.OutputField()))
    saved = signature_state(signature)
    assert ([field.type for field in saved.outputs], saved.types["Item_2"].name) == (["Item", "Item_2"], "Item")
    assert prompts(again(signature)[0]) == prompts(signature)


def test_a_class_named_as_a_known_type_is_not_taken_for_it() -> None:
    class date(BaseModel):
        year: int

    signature = task(day=(date, dspy.OutputField()))
    assert signature_state(signature).outputs[0].type == "date_2"
    assert prompts(again(signature)[0]) == prompts(signature)


class TestWhatAFileCannotHold:
    @pytest.mark.parametrize(
        ("annotation", "lacks"),
        [
            (Checked, ["Checked: even()"]),
            (list[Annotated[int, BeforeValidator(abs)]], ["answer: abs()"]),
        ],
        ids=["validator of a model", "validator of a type"],
    )
    def test_is_said(self, annotation: Any, lacks: list[str]) -> None:
        assert again(task(answer=(annotation, dspy.OutputField())))[1] == lacks

    def test_is_said_of_defaults(self) -> None:
        signature = task(answer=(str, dspy.OutputField(default_factory=lambda: "x")))
        assert again(signature)[1] == ["answer: default_factory"]

    def test_is_still_said_when_saved_again(self) -> None:
        back = again(task(answer=(Checked, dspy.OutputField())))[0]
        assert again(back)[1] == ["Checked: even()"]

    def test_is_not_said_of_the_users_own_class(self) -> None:
        signature = task(answer=(list[Checked], dspy.OutputField()))
        back, lacks = again(signature, custom_types={"Checked": Checked})
        assert (back.fields["answer"].annotation, lacks) == (list[Checked], [])

    @pytest.mark.parametrize("cls", [Point, Row])
    def test_is_refused_if_it_is_a_whole_class(self, cls: Any) -> None:
        signature = task(answer=(cls, dspy.OutputField()))
        with pytest.raises(
            ValueError, match=rf"{cls.__name__} \(.*test_signature_state:{cls.__name__}\).*custom_types"
        ):
            again(signature)
        assert again(signature, custom_types={cls.__name__: cls})[0].fields["answer"].annotation is cls

    def test_is_imported_only_if_that_is_allowed(self) -> None:
        signature = task(answer=(ipaddress.IPv4Address, dspy.OutputField()))
        with pytest.raises(ValueError, match=r"ipaddress:IPv4Address"):
            again(signature)
        assert again(signature, allow_import=True)[0].fields["answer"].annotation is ipaddress.IPv4Address

    def test_says_nothing_of_the_other_classes(self) -> None:
        signature = task(row=(Row, dspy.OutputField()), left=(Left, dspy.OutputField()))
        assert [cls.lacks for cls in signature_state(signature).types.values()] == [[], [], []]

    def test_a_custom_type_that_is_not_named_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"names no type 'Itme'.*It names: Color, Item"):
            again(task(answer=(Item, dspy.OutputField())), custom_types={"Itme": Item})


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "str.__class__",
        "dspy.settings",
        "Literal[open('x')]",
        "Annotated[str, Field(default_factory=print)]",
        "Annotated[str, print('x')]",
        "Annotated[str, Field(pattern=open('x'))]",
        "dspy.Code[print('x')]",
        "(lambda: 1)()",
        "Missing",
        "Item.model_fields",
        "list[",
        "list[" * 3000,
        "'str'",
        "",
    ],
    ids=lambda text: text[:30],
)
def test_no_text_is_evaluated(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="cannot be read from the file"):
        TypeReader(types_of(Item)).annotation(text)
    assert capsys.readouterr().out == ""


def types_of(cls: type) -> dict[str, SavedType]:
    writer = TypeWriter()
    writer.text(cls)
    return writer.types


@pytest.mark.parametrize("constraints", [{"gt": "x"}, {"multiple_of": "x"}, {"discriminator": "x"}], ids=str)
def test_constraints_that_do_not_fit_are_refused(constraints: dict[str, Any]) -> None:
    saved = signature_state(task(answer=(int, dspy.OutputField())))
    field = saved.outputs[0].model_copy(update={"constraints": constraints})
    with pytest.raises(ValueError, match="cannot be made from the file"):
        read_signature(saved.model_copy(update={"outputs": [field]}))


@pytest.mark.parametrize("name", ["__base__", "_private", "no name"])
def test_a_field_cannot_be_an_option_of_pydantics(name: str) -> None:
    evil = SavedType.model_validate({"class": "m:Evil", "fields": [{"name": name, "type": "int"}]})
    with pytest.raises(ValueError, match=f"'{name}' cannot name a field"):
        TypeReader({"Evil": evil}).annotation("Evil")
