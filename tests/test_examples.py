"""Every example runs offline as it stands."""

from __future__ import annotations

import re
import runpy
import textwrap
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


# The tour tracks hundreds of calls; what it shows has tests of its own in tests/tracking.
SLOW = {"mlflow_tour"}


def _without_times(text: str) -> list[str]:
    return [re.sub(r"\d+(\.\d)? m?s$", "", line).rstrip() for line in text.strip().splitlines()]


@pytest.mark.parametrize(
    "path", [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in SLOW)) for path in EXAMPLES]
)
def test_it_prints_what_it_says(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(path.parent))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    names = runpy.run_path(str(path), run_name="__main__")
    out = capsys.readouterr().out
    assert path.stem == "models" or out.strip()
    shown = re.split(r"^    \$ .*\n", names["__doc__"], maxsplit=1, flags=re.MULTILINE)[1:]
    if shown and shown[0].strip():  # else what it prints is not the same twice
        assert _without_times(out) == _without_times(textwrap.dedent(shown[0]))
