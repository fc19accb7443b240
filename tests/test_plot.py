import re
import sys
from itertools import combinations
from pathlib import Path

import pytest
from support.comparisons import comparison

from moa_dspy.evaluation.comparison import Comparison
from moa_dspy.evaluation.records import Kind, System
from moa_dspy.plot import check_plot, save_plot
from moa_dspy.plot.axis import axis
from moa_dspy.plot.chart import PLOT, chart
from moa_dspy.plot.drawing import Box, Dot, Drawing, Label, Line
from moa_dspy.plot.html import page
from moa_dspy.plot.labels import place, spread

KINDS: dict[str, Kind] = {"vote": "vote", "synthesis": "strategy", "fusion": "strategy", "oracle": "oracle"}
SCORES = {
    "a_rather_long_name": [1, 0, 1, 0, 1],
    "bob": [0, 1, 1, 0, 0],
    "vote": [1, 1, 0, 0, 1],
    "synthesis": [1, 1, 1, 0, 1],
    "fusion": [1, 1, 1, 0, 0],
    "oracle": [1, 1, 1, 1, 1],
}
COSTS = {"a_rather_long_name": 0.0002, "bob": 0.0002, "vote": 0.0004, "synthesis": 0.002, "fusion": 0.002}


def texts(drawing: Drawing) -> list[str]:
    return [part.text for part in drawing.parts if isinstance(part, Label)]


def test_every_system_has_a_point_an_interval_and_a_name() -> None:
    drawing = chart(comparison(SCORES, KINDS))
    dots = [part for part in drawing.parts if isinstance(part, Dot) and part.hint]
    assert [dot.hint.partition(":")[0] for dot in dots] == ["a_rather_long_name", "bob", "vote", "synthesis", "fusion"]
    assert set(SCORES) - {"oracle"} <= set(texts(drawing))
    for dot in dots:
        bars = [p for p in drawing.parts if isinstance(p, Line) and p.x1 == p.x2 == dot.x and p.width == 1.4]
        assert len(bars) == 1 and bars[0].y2 < dot.y < bars[0].y1


def test_the_axes_have_units() -> None:
    assert {"accuracy, % of the questions", "tokens per question, prompt and completion (log scale)"} <= set(
        texts(chart(comparison(SCORES, KINDS)))
    )
    assert {"USD per question (log scale)", "$0.0005"} <= set(texts(chart(comparison(SCORES, KINDS, COSTS))))
    assert "mean score" in texts(chart(comparison({"a": [0.5, 0.25]})))


def test_one_price_that_is_not_known_makes_it_tokens() -> None:
    some = {name: cost for name, cost in COSTS.items() if name != "bob"}
    assert not any("USD" in text for text in texts(chart(comparison(SCORES, KINDS, some))))


def test_what_the_cache_answered_is_counted_in_calls() -> None:
    made = comparison(SCORES, KINDS, cached=True)
    assert "calls per question (log scale)" in texts(chart(made))


def test_who_never_answered_is_named() -> None:
    drawing = chart(comparison({"a": [1, 0], "dead": [-1, -1]}))
    assert [part.hint.partition(":")[0] for part in drawing.parts if isinstance(part, Dot) and part.hint] == ["a"]
    assert any(text.endswith("never answered: dead") for text in texts(drawing))


def test_simulated_models_are_called_so() -> None:
    made = comparison(SCORES, KINDS)
    simulated = Comparison([System("a", "proposer", ("simulated/alice",))], made.records, 5, "exact")
    assert (made.is_simulated, simulated.is_simulated) == (False, True)
    simulated = comparison(SCORES, KINDS, model="simulated/alice")
    assert chart(simulated).title == "SIMULATED models: accuracy against tokens" == texts(chart(simulated))[0]


def test_names_cover_neither_each_other_nor_points() -> None:
    points = [(200.0 + 15 * number, 300.0 + 7 * (number % 3)) for number in range(8)]
    bars = [Box(x - 6, y - 90, x + 6, y + 90) for x, y in points]
    names = ["short", "a_very_long_model_name", "mid_size_name", "gpt_5"] * 2
    boxes = place(points, names, 12.0, PLOT, bars)
    assert sum(one.overlap(other) for one, other in combinations(boxes, 2)) == 0
    assert sum(box.overlap(bar) for box in boxes for bar in bars) == 0
    assert all(PLOT.holds(box) for box in boxes)


def test_points_of_equal_cost_stand_side_by_side() -> None:
    assert spread([100.0, 100.0, 100.0, 300.0], 10.0) == [90.0, 100.0, 110.0, 300.0]
    assert spread([100.0, 104.0, 119.0], 10.0) == pytest.approx([97.0, 107.0, 119.0])
    assert spread([100.0, 104.0, 113.0], 10.0) == pytest.approx([95.667, 105.667, 115.667], abs=1e-3)


@pytest.mark.parametrize(
    ("low", "high", "is_log", "ticks"),
    [
        (0.55, 1.03, False, [0.6, 0.7, 0.8, 0.9, 1.0]),
        (-0.03, 1.03, False, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (160, 1900, True, [200, 300, 500, 700, 1000]),
        (0.00011, 0.9, True, [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, is_log: bool, ticks: list[float]) -> None:
    assert axis("x", low, high, 0, 1, str, is_log).ticks == ticks


def test_a_page_loads_nothing(tmp_path: Path) -> None:
    path = save_plot(comparison(SCORES, KINDS), tmp_path / "plot.html")
    html = path.read_text(encoding="utf-8")
    assert re.findall(r"https?://[^\"]+", html) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"<script|<link|<img|@import|url\(", html)


def test_names_are_no_markup() -> None:
    html = page(Drawing("a <b> & c", 10, 10, [Label(1, 1, "<script>")]))
    assert "<script>" not in html and "<title>a &lt;b&gt; &amp; c</title>" in html


@pytest.mark.parametrize(("ending", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_matplotlib_writes_images(tmp_path: Path, ending: str, magic: bytes) -> None:
    pytest.importorskip("matplotlib")
    assert save_plot(comparison(SCORES, KINDS), tmp_path / f"plot{ending}").read_bytes().startswith(magic)


def test_without_matplotlib_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "moa_dspy.plot.image", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "moa-dspy\[plot\]"'):
        check_plot(tmp_path / "plot.png")
    check_plot(tmp_path / "plot.html")


def test_what_could_not_be_written_is_found_out_early(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        check_plot(tmp_path / "nowhere" / "plot.png")
    with pytest.raises(ValueError, match=r"ends in \.html, \.png, \.svg, \.pdf"):
        check_plot(tmp_path / "plot.gif")


def test_nothing_measured_is_nothing_to_plot() -> None:
    with pytest.raises(ValueError, match="nothing to plot"):
        chart(Comparison([System("a", "proposer")], [], 5, "exact"))
