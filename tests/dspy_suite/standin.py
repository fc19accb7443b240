"""A pytest plugin for DSPy's own tests: where they make a predictor, a mixture is made of it.

    STANDIN=vote1|synth3 STANDIN_REPORT=rows.jsonl python -m pytest -p standin tests/predict ...

`vote1` is a vote of one proposer, `synth3` a synthesis of three; without STANDIN nothing is replaced. The report holds
one row a test: whether it passed, and how many mixtures it made. Needs no other plugin: coroutines are run here.
"""

import asyncio
import inspect
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import dspy
import pytest
from dspy.utils.dummies import DummyLM

from moa_dspy import Agent, MoA

MODES = {"vote1": (1, "voting"), "synth3": (3, "synthesis")}
NUMBER, STRATEGY = MODES.get(os.environ.get("STANDIN", ""), (0, ""))
SECONDS = 60
# What an aggregator is asked for beside the answer.
ASIDE = {"reasoning": "as they all say"}

made: list[MoA] = []
rows: list[dict[str, Any]] = []
scripted: ContextVar[Any] = ContextVar("scripted", default=None)


class StandIn(MoA):
    """A mixture of programs without LMs: they ask whatever LM a test gives."""

    def forward(self, *positional: Any, **inputs: Any) -> Any:
        scripted.set({"lock": threading.Lock()})
        return super().forward(*positional, **inputs)

    async def aforward(self, *positional: Any, **inputs: Any) -> Any:
        scripted.set({"lock": threading.Lock()})
        return await super().aforward(*positional, **inputs)


def replaced(real: Any) -> Any:
    """A class that makes a mixture when a test calls it, and is the real one to all others."""

    class Meta(type(real)):  # type: ignore[misc]
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            return mixture_of(real, args, kwargs) if is_called_by_a_test() else real(*args, **kwargs)

        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, real)

        def __subclasscheck__(cls, subclass: Any) -> bool:
            return issubclass(subclass, real)

    class Subclassed(type(real)):  # type: ignore[misc]
        """What a test derives from it is a class as ever."""

    def derive(cls: Any, /, **options: Any) -> None:
        cls.__class__ = Subclassed

    body = {"__module__": real.__module__, "__qualname__": real.__qualname__, "__init_subclass__": classmethod(derive)}
    return Meta(real.__name__, (real,), body)


def mixture_of(real: Any, args: Any, kwargs: Any) -> Any:
    agents = [Agent(program=real(*args, **kwargs), name=f"p{place}") for place in range(NUMBER)]
    made.append(StandIn(args[0] if args else kwargs["signature"], agents, strategy=STRATEGY))  # type: ignore[arg-type]
    return made[-1]


def is_called_by_a_test() -> bool:
    frame: Any = inspect.currentframe()
    while frame.f_globals.get("__name__") == __name__:
        frame = frame.f_back
    return "test_" in frame.f_globals.get("__name__", "") or frame.f_globals.get("__name__") in ("custom_module",)


class OneByOne:
    """The answers of a DummyLM: all who ask for one mixture's call get the same, as a test scripts one a call."""

    def __init__(self, answers: Any) -> None:
        self.answers = iter(answers)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        given = scripted.get()
        if given is None:
            return next(self.answers)
        with given["lock"]:
            if id(self) not in given:
                given[id(self)] = next(self.answers, None)
        if given[id(self)] is None:
            raise StopIteration
        return {**ASIDE, **given[id(self)]}


def script(lm: Any, answers: Any, *args: Any, **kwargs: Any) -> None:
    scripts(lm, answers, *args, **kwargs)
    if isinstance(answers, list):
        lm.answers = OneByOne(answers)
    elif isinstance(answers, dict):
        lm.answers = {asked: {**ASIDE, **answer} for asked, answer in answers.items()}


def with_litellm(make: Any) -> Any:
    return lambda lm, *args, **kwargs: make(lm, *args, **{"engine": "litellm", **kwargs})


# DSPy's tests mock litellm, which is not the default any more.
replace_init: Any = setattr
replace_init(dspy.LM, "__init__", with_litellm(dspy.LM.__init__))
for provider in ("OPENAI", "ANTHROPIC", "GEMINI"):
    os.environ.setdefault(f"{provider}_API_KEY", "none")
if NUMBER:
    dspy.Predict, dspy.ChainOfThought = replaced(dspy.Predict), replaced(dspy.ChainOfThought)
if NUMBER > 1:
    scripts = DummyLM.__init__
    replace_init(DummyLM, "__init__", script)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report: Any = yield
    if report.when == "call":
        error = str(call.excinfo.value)[:300] if call.excinfo else ""
        rows.append({"test": item.nodeid, "outcome": report.outcome, "made": len(made), "error": error})
    return report


def pytest_sessionfinish() -> None:
    # Not test by test: some of them let no file be opened.
    with open(os.environ["STANDIN_REPORT"], "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    def late(*_: Any) -> None:
        raise TimeoutError(f"The test took more than {SECONDS} s.")

    made.clear()
    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        return (yield)
    finally:
        signal.alarm(0)
