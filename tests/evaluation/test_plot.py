import re
import sys
from pathlib import Path

import pytest
from support.comparisons import comparison

from moa_dspy.evaluation import Comparison, System, check_plot, save_plot
from moa_dspy.evaluation.scores import Kind

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


def drawn(made: Comparison, path: Path) -> list[str]:
    """The texts of the plot as an SVG."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", save_plot(made, path / "plot.svg").read_text(encoding="utf-8"))


def test_every_system_is_named_and_the_axes_have_units(tmp_path: Path) -> None:
    texts = drawn(comparison(SCORES, KINDS, COSTS), tmp_path)
    assert {name for name in SCORES if name != "oracle"} <= set(texts)
    assert {"Accuracy against USD", "USD per question", "accuracy, % of the questions", "$0.0002"} <= set(texts)
    assert "5 questions, metric exact; bars are 95% intervals" in texts
    assert "oracle: some proposer is right" in texts


@pytest.mark.parametrize(
    ("made", "title"),
    [
        pytest.param(comparison(SCORES, KINDS), "tokens per question, prompt and completion", id="no price"),
        pytest.param(comparison(SCORES, KINDS, {"bob": 0.1}), "tokens per question, prompt and completion", id="one"),
        pytest.param(comparison(SCORES, KINDS, cached=True), "calls per question", id="cached"),
        pytest.param(comparison({"a": [0.5, 0.25]}), "mean score", id="mean"),
        pytest.param(
            comparison({"a": [1, 0], "dead": [-1, -1]}),
            "2 questions, metric exact; bars are 95% intervals; never answered: dead",
            id="silent",
        ),
        pytest.param(
            comparison(SCORES, model="simulated/alice"), "SIMULATED models: accuracy against tokens", id="sim"
        ),
    ],
)
def test_it_says_what_it_shows(made: Comparison, title: str, tmp_path: Path) -> None:
    assert title in drawn(made, tmp_path)


def test_a_page_loads_nothing_and_has_the_table(tmp_path: Path) -> None:
    names = {**SCORES, "<b>$x$</b>": [1, 1, 1, 1, 1]}
    html = comparison(names, KINDS).plot(tmp_path / "plot.html").read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\"]+", html)) == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.search(r"<script|<link|<img|@import|url\((?!#)", html)
    assert "<b>" not in html and html.count("&lt;b&gt;$x$&lt;/b&gt;") == 2
    assert re.search(r"<pre>[^<]* bob +40\.0 +11\.8-76\.9 ", html)


@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_equal_comparisons_give_equal_files(tmp_path: Path, ending: str, magic: bytes) -> None:
    one, two = (save_plot(comparison(SCORES), tmp_path / f"{n}.{ending}").read_bytes() for n in "ab")
    assert one == two and one.startswith(magic)


def test_without_matplotlib_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'plot\.png needs matplotlib: pip install "moa-dspy\[plot\]"'):
        check_plot(tmp_path / "plot.png")


def test_what_could_not_be_written_is_found_out_early(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        check_plot(tmp_path / "nowhere" / "plot.png")
    with pytest.raises(ValueError, match=r"ends in \.html, \.svg, \.png, \.pdf"):
        check_plot(tmp_path / "plot.gif")


def test_nothing_answered_is_nothing_to_plot(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to plot"):
        save_plot(Comparison([System("a", "proposer")], [], 5, "exact"), tmp_path / "plot.png")
