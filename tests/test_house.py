"""The house as CONTRIBUTING.md shows it: its rooms with their lines, and the way of one question through it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
ROOMS = re.findall(r"^\| (`[^|]+`) \| ([\d,]+) \|", GUIDE, flags=re.MULTILINE)


def files_of(room: str) -> list[Path]:
    """The files of a room: of folders all, of `moa_dspy/a.py` that one."""
    return [file for place in re.findall(r"`([^`]+)`", room) for file in sorted(ROOT.glob(place))]


@pytest.mark.parametrize(("room", "lines"), ROOMS)
def test_no_room_has_outgrown_its_row_by_a_third(room: str, lines: str) -> None:
    now = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files_of(room))
    assert 0 < now <= int(lines.replace(",", "")) * 4 / 3, f"{room} has {now} lines: change its row, and say why"


def test_every_file_stands_in_one_room() -> None:
    source = [*ROOT.glob("moa_dspy/**/*.py"), *ROOT.glob("signatures/*.py"), *ROOT.glob("optimizers/*.py")]
    assert sorted(file for room, _ in ROOMS if "tests" not in room for file in files_of(room)) == sorted(source)


def test_a_question_passes_through_files_that_are_there() -> None:
    way = re.findall(r"^\| \d+ \| `([^`]+)` \|", GUIDE, flags=re.MULTILINE)
    assert 10 <= len(way) <= 14 and all((ROOT / file).is_file() for file in way)
