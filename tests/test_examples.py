"""Every example runs offline as it stands."""

from __future__ import annotations

import contextlib
import io
import json
import re
import runpy
import shutil
import textwrap
from pathlib import Path

import pytest
from support.mlflow_store import template as template
from support.mlflow_store import untracked as untracked

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


# The tour tracks hundreds of calls; what it shows has tests of its own in tests/tracking.
SLOW = {"mlflow_tour"}


def _without_times(text: str) -> list[str]:
    return [" ".join(re.sub(r"─+|\d+(\.\d)? m?s$", "", line).split()) for line in text.strip().splitlines()]


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
    shown = re.split(r"^ *\$ .*\n", names["__doc__"], maxsplit=1, flags=re.MULTILINE)[1:]
    if shown and shown[0].strip():  # else what it prints is not the same twice
        assert _without_times(out) == _without_times(textwrap.dedent(shown[0]))


def test_the_notebook_runs_and_prints_what_it_shows(
    template: Path, tmp_path: Path, untracked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(template, "mlflow.db")
    book = json.loads((ROOT / "examples" / "whole_way.ipynb").read_text(encoding="utf-8"))
    names: dict[str, object] = {}
    for cell in (cell for cell in book["cells"] if cell["cell_type"] == "code"):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile("".join(cell["source"]), "whole_way", "exec"), names)
        shown = "".join(text for output in cell["outputs"] for text in output.get("text", ()))
        assert _without_times(out.getvalue()) == _without_times(shown)
