"""What the commands share: where they print, and how they refuse."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

__all__ = ["BAD_INPUT", "FAILED", "INTERRUPTED", "clean", "complain", "note", "quiet_stdout", "refusing", "words"]

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


@contextmanager
def refusing() -> Iterator[None]:
    """Turn what is wrong with the input into one message and exit status 2."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        complain(words(error))
        raise typer.Exit(BAD_INPUT) from None


@contextmanager
def quiet_stdout() -> Iterator[None]:
    """Keep stdout for the answer: what libraries print meanwhile goes to stderr."""
    with redirect_stdout(sys.stderr):
        yield


def complain(message: str) -> None:
    """Say what went wrong."""
    _print(f"Error: {message}", "red")


def note(message: str) -> None:
    """Say something beside the answer."""
    _print(message, "yellow")


def words(error: Exception) -> str:
    """What an error says, without the wrapping of its type."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    if not isinstance(error, ValidationError):
        return str(error)
    problems = [(".".join(map(str, problem["loc"])), problem["msg"]) for problem in error.errors()]
    return "\n".join(f"{place}: {message}" if place else message for place, message in problems)


def clean(text: str) -> str:
    """The text without what would move the cursor or recolour the terminal: models write anything."""
    text = text.replace("\r\n", "\n").encode(errors="replace").decode()
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "�", text)


def _print(message: str, style: str) -> None:
    console = Console(stderr=True)
    # In a log a message stays on its lines, so that it can be searched for.
    console.print(Text(clean(message), style=style), soft_wrap=not console.is_terminal)
