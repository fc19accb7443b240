"""DSPy's own tests with a mixture where they make a predictor: `pytest -m dspy_suite`, minutes.

The tests are those of DSPy 3.3.1, the last that were published. `DSPY_TESTS` names a checkout of that version; without
it they are taken from its source distribution, if that holds them, else cloned. They are kept in a cache folder,
`MOA_DSPY_CACHE` or the user's own, never in the repository.
"""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from .legitimate import reason_of

pytestmark = [pytest.mark.dspy_suite, pytest.mark.slow]

VERSION = "3.3.1"
FOLDERS = [
    "predict",
    "primitives",
    "teleprompt",
    "streaming",
    "adapters",
    "signatures",
    "callback",
    "utils",
    "evaluate",
]
# They want Deno.
LEFT_OUT = ["tests/primitives/test_python_interpreter.py", "tests/predict/test_rlm.py"]
CACHE = Path(os.environ.get("MOA_DSPY_CACHE") or Path.home() / ".cache" / "moa-dspy" / f"dspy-{VERSION}")
FETCH = {
    "sdist": [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", f"dspy=={VERSION}"],
    "clone": ["git", "clone", "-q", "--depth", "1", "-b", VERSION, "https://github.com/stanfordnlp/dspy", "clone"],
}


@pytest.fixture(scope="module")
def checkout() -> Path:
    """A folder with DSPy's tests."""
    if named := os.environ.get("DSPY_TESTS"):
        return Path(named)
    CACHE.mkdir(parents=True, exist_ok=True)
    for command in FETCH.values():
        if not (found := find_tests(CACHE)):
            subprocess.run(command, cwd=CACHE, check=False, capture_output=True, timeout=600)
            for archive in CACHE.glob("*.tar.gz"):
                with tarfile.open(archive) as packed:
                    packed.extractall(CACHE, filter="data")
            found = find_tests(CACHE)
        if found:
            return found
    pytest.skip(f"DSPy {VERSION} could not be had with its tests (sdist, clone): name a checkout in DSPY_TESTS.")


def find_tests(folder: Path) -> Path | None:
    return next((found.parents[2] for found in folder.glob("*/tests/predict/test_predict.py")), None)


def run(checkout: Path, mode: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Test -> how it went, with a stand-in of this mode."""
    report, here = folder / f"{mode}.jsonl", Path(__file__).parent
    paths = os.pathsep.join([str(here), str(checkout)])
    environment = {**os.environ, "STANDIN": mode, "STANDIN_REPORT": str(report), "PYTHONPATH": paths}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "standin", "-p", "no:cacheprovider"]
    ignored = [f"--ignore={file}" for file in LEFT_OUT]
    where = [f"tests/{name}" for name in FOLDERS]
    options = ["--rootdir", str(checkout), "--continue-on-collection-errors"]
    subprocess.run([*command, *options, *ignored, *where], cwd=checkout, env=environment, check=False, timeout=1800)
    rows = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
    return {row["test"]: row for row in rows}


@pytest.fixture(scope="module")
def baseline(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The tests that pass here without a mixture: the others want a network, or another version of DSPy."""
    rows = run(checkout, "none", tmp_path_factory.mktemp("baseline"))
    return {test for test, row in rows.items() if row["outcome"] == "passed"}


@pytest.mark.parametrize("mode", ["vote1", "synth3"])
def test_a_mixture_passes_where_a_predictor_does(
    mode: str, checkout: Path, baseline: set[str], tmp_path: Path, record_property: Any
) -> None:
    rows = {test: row for test, row in run(checkout, mode, tmp_path).items() if row["made"] and test in baseline}
    failed = {test: row["error"] for test, row in rows.items() if row["outcome"] != "passed"}
    faulty = {test: error for test, error in failed.items() if reason_of(test, mode) is None}
    passed = len(rows) - len(failed)
    table = {"run": len(rows), "passed": passed, "legitimate": len(failed) - len(faulty), "faulty": len(faulty)}
    print(mode, table)
    record_property("table", table)
    assert len(rows) > 150 and passed >= 0.95 * (passed + len(faulty)), faulty
