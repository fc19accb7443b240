"""The soak and the kills of `bench/soak.py`, for a few seconds."""

from pathlib import Path

import pytest
from bench.soak import kill, soak


@pytest.mark.parametrize("is_async", [False, True])
def test_nothing_is_lost_or_leaks_while_a_fifth_of_the_calls_fails(tmp_path: Path, is_async: bool) -> None:
    found = soak(200, 16, is_async, tmp_path)
    first, *_, last = found["held"][1:]
    ours, theirs = zip(found["calls"], found["tokens"], strict=True)
    assert (found["lost"], ours) == (0, theirs) and found["failed calls"] > 15
    assert last["tasks"] == 0 and last["sockets"] <= first["sockets"] + 32 and last["threads"] <= first["threads"] + 32


def test_a_run_that_is_killed_again_and_again_ends_complete(tmp_path: Path) -> None:
    found = kill(2, 40, tmp_path)
    assert found["complete"] and found["asked though kept"] == 0 and found["left beside"] == []
    assert found["asked in all"][0] <= 80 + 2 * 2 * 8
