"""A strategy as data: its name, or its name with the options of its constructor."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from moa_dspy.strategies import STRATEGIES, Strategy
from moa_dspy.strict import nearest, refuse_unknown, refused, sentence

__all__ = ["checked_strategy", "strategy_of"]


def checked_strategy(given: Any) -> Any:
    """What was given as a strategy, if one can be made of it.

    Raises:
        ValueError: If there is no such strategy, or its constructor does not take the options.
    """
    if not isinstance(given, (str, Mapping)):
        raise ValueError("a strategy is a name, or a mapping such as {name: selection, rotations: 3}.")
    name = given if isinstance(given, str) else given.get("name")
    if not isinstance(name, str) or name not in STRATEGIES:
        # What stands for a name here may be anything, so it is told only if it is a name.
        what = f"there is no strategy {name!r}" if isinstance(name, str) else "the strategy has no name"
        raise ValueError(f"{what}. {nearest(name, STRATEGIES)}")
    if isinstance(given, str):
        return given
    _check_options(name, {key: value for key, value in given.items() if key != "name"})
    return to_jsonable_python(given)


def strategy_of(given: str | Mapping[str, Any]) -> Strategy:
    """The strategy that a checked config names."""
    options = {} if isinstance(given, str) else {key: value for key, value in given.items() if key != "name"}
    return STRATEGIES[given if isinstance(given, str) else given["name"]](**options)


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    constructor = STRATEGIES[name].__init__
    known = [option for option in inspect.signature(constructor).parameters if option not in _NO_OPTIONS]
    refuse_unknown(options, ["name", *known])
    hints = get_type_hints(constructor)
    for option, value in options.items():
        try:
            TypeAdapter(hints.get(option, Any)).validate_python(value, strict=True)
        except ValidationError as error:
            problems = [((option, *problem["loc"]), sentence(problem["msg"])) for problem in error.errors()]
            raise refused(*problems) from None
    strategy_of({"name": name, **options})


_NO_OPTIONS = ("self", "args", "kwargs", "callbacks")
