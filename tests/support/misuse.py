"""Make sure that a fake used in a way its test did not foresee fails the test."""

from collections.abc import Iterator

import pytest

misuses: list[str] = []
"""Every misuse in the current test: the code under test may well swallow the error itself."""


class FakeMisuse(AssertionError):
    """A fake was used in a way its test did not foresee. DSPy passes it on as LMUnexpectedError and does not retry."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        misuses.append(message)


@pytest.fixture(autouse=True)
def strict_fakes() -> Iterator[None]:
    """Fail the test in which a fake was misused; a test that means it says `misuses.clear()`."""
    misuses.clear()
    yield
    assert not misuses, "; ".join(misuses)
