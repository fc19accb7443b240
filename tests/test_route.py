"""A route asks whom questions like this one are best put to, and is taken only where it wins."""

import json
import re
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest
from support.fake_lm import FakeLM
from support.mixtures import QA, every_way
from support.voters import voters

from moa_dspy import MoA, Route
from moa_dspy.dispatch import RouteTable
from moa_dspy.optimizers import CompileInterrupted, FitRoute

KINDS = ["sum", "word"] * 50
# Ada is good at sums and bo at words; cy is always wrong.
PANEL = {
    "ada": ["0" if kind == "sum" else f"a{n}" for n, kind in enumerate(KINDS)],
    "bo": ["0" if kind == "word" else f"b{n}" for n, kind in enumerate(KINDS)],
    "cy": [f"c{n}" for n in range(100)],
}
ROWS = [dspy.Example(question=f"q{n}", answer="0", kind=kind).with_inputs("question") for n, kind in enumerate(KINDS)]


def parity(texts: list[str]) -> Any:
    """Embeds even and odd questions apart."""
    return np.array([[1.0, 0.0] if int(text[1:]) % 2 else [0.0, 1.0] for text in texts])


BY: list[Any] = [{"column": "kind"}, {"embedder": parity}]


def fitted(rows: Any = ROWS, panel: Any = PANEL, **settings: Any) -> tuple[Any, Any, dict[str, FakeLM]]:
    moa, lms = voters(panel)
    optimizer = FitRoute("exact", **settings)
    routed: Any = optimizer.compile(moa, trainset=rows)
    return routed, optimizer.report, lms


@every_way
@pytest.mark.parametrize("settings", BY, ids=["column", "embedder"])
def test_each_kind_goes_to_who_is_good_at_it(ask: Any, settings: Any) -> None:
    route, report, lms = fitted(**settings)
    asked = {name: lm.calls for name, lm in lms.items()}
    kind: list[Any] = [{"kind": "sum"}, {"kind": "word"}] if "column" in settings else [{}, {}]
    answers = [ask(route, question=f"q{n}", **kind[n]) for n in range(2)]
    assert [(one.answer, one.metadata.route, one.metadata.usage.calls) for one in answers] == [
        ("0", "ada", 1),
        ("0", "bo", 1),
    ]
    assert {name: lm.calls - asked[name] for name, lm in lms.items()} == {"ada": 1, "bo": 1, "cy": 0}
    assert report.kept and report.routed == 1.0 and report.best[1] == 0.5 and report.shares["ada"] == 0.5
    assert json.loads(json.dumps(report.to_dict()))["reason"].endswith("they are kept.")


def test_an_unknown_kind_goes_to_the_best_for_all() -> None:
    route, _, _ = fitted(column="kind")
    assert route.choose(question="q", kind="verse") == route.table.options[0]
    with pytest.raises(ValueError, match="routed by 'kind', and it is not given"):
        route(question="q1")


def test_without_a_win_nothing_changes() -> None:
    same = {name: ["0", "0", "0", f"{name}"] * 25 for name in PANEL}
    kept, report, _ = fitted(panel=same, column="kind")
    assert isinstance(kept, MoA) and not report.kept and "no win that is more than chance" in report.reason


def test_few_rows_of_a_kind_count_for_little() -> None:
    table = RouteTable(["all", "ada"], ["x", "x", *("y" for _ in range(48))], [[0, 1]] * 2 + [[1, 0]] * 48)
    assert (table.choose("x"), table.choose("y")) == ("all", "all")


def test_it_is_saved_as_a_program(tmp_path: Path) -> None:
    route, _, _ = fitted(column="kind")
    route.save(tmp_path / "route.json")
    fresh = Route(route.options, RouteTable(route.table.options, ["?"], [[1.0] * 4]), column="kind")
    fresh.load(tmp_path / "route.json")
    assert fresh.choose(question="q", kind="word") == "bo" == route.deepcopy().choose(question="q", kind="word")
    with pytest.raises(ValueError, match="The file routes to"):
        RouteTable(["other"], ["?"], [[1.0]]).load_state(route.table.dump_state())


def test_what_makes_no_route() -> None:
    moa, _ = voters(PANEL)
    cases: list[tuple[Any, Any, str]] = [
        ([row.without("kind") for row in ROWS], {"column": "kind"}, "100 of 100 examples have no 'kind'"),
        (ROWS[::2], {"column": "kind"}, "All examples have the same 'kind'"),
    ]
    for rows, settings, problem in cases:
        with pytest.raises(ValueError, match=re.escape(problem)):
            FitRoute(**settings).compile(moa, trainset=rows)
    with pytest.raises(CompileInterrupted, match="too few to learn routes") as refused:
        FitRoute(column="kind").compile(moa, trainset=ROWS[:8])
    assert len(refused.value.recording or []) == 8
    for wrong in (FitRoute, lambda: Route({}, RouteTable(["a"], [], []))):
        with pytest.raises(ValueError, match="give column= or embedder="):
            wrong()
    with pytest.raises(ValueError, match="The table knows a, and there are b"):
        Route({"b": MoA(QA, ["simulated/bob"], strategy="voting")}, RouteTable(["a"], [], []), column="kind")
