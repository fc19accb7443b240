"""What the commands write: results on stdout, the rest on stderr, and what becomes of an error."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import IO, TYPE_CHECKING, Any

import typer
from pydantic import ValidationError
from rich import progress as bars
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from moa_dspy.terminal import printable

if TYPE_CHECKING:
    from moa_dspy.usage import Usage

HOST = "127.0.0.1"
FAILED, BAD_INPUT, PENDING, INTERRUPTED = 1, 2, 3, 130
SECONDS_BETWEEN_LINES = 10.0  # of progress, where stderr is no terminal
_verbosity = {"level": 0}  # -1 quiet, 1 verbose


class Stopped(Exception):
    """A command that could not do all it should; what it did is on the disk.

    Args:
        message: What happened, and how to go on.
        status: The exit status.
    """

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


class Commands(TyperGroup):
    """The commands; an error in one is a message on stderr, an exit status and, under `--json`, JSON on stdout."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the arguments name."""
        logging.getLogger("moa_dspy").addHandler(_notes)
        as_json = "--json" in ctx.args
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            error: Exception = Stopped("Interrupted: what was under way is lost.", INTERRUPTED)
        except Exception as caught:
            error = caught
        secrets = sys.modules.get("moa_dspy.secrets")  # else nothing has read one
        if (status := _status_of(error)) is None:
            describe = getattr(error, "format_message", None)  # typer's own, of arguments that it cannot read
            if describe is not None and as_json:
                _print_error(error, describe())
            if secrets is not None:
                secrets.scrub(error)
            raise error
        message = _describe(error) if secrets is None else secrets.redact(_describe(error))
        complain(message)
        if as_json:
            _print_error((isinstance(error, Stopped) and error.__cause__) or error, message)
        raise typer.Exit(status)


def _status_of(error: Exception) -> int | None:
    """The exit status of an error that is told in a sentence; None of one that is typer's, or a mistake of ours."""
    if isinstance(error, Stopped):
        return error.status
    is_missing = isinstance(error, ImportError) and "pip install" in str(error)  # what ours say of an extra
    if is_missing or isinstance(error, (ValueError, TypeError, OSError)):
        return BAD_INPUT
    return FAILED if type(error).__module__.startswith("moa_dspy.") else None


def _describe(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    if isinstance(error, ValidationError):
        problems = [(".".join(map(str, problem["loc"])), problem["msg"]) for problem in error.errors()]
        return "\n".join(f"{place}: {text}" if place else text for place, text in problems)
    return str(error)


def _print_error(error: BaseException, message: str) -> None:
    print_json({"error": {"type": type(error).__name__, "message": message}})


@contextmanager
def progress(what: str) -> Iterator[Callable[..., None]]:
    """Show how far the work is, on stderr: a bar on a terminal, else a line every ten seconds.

    Examples:
        ```python
        with progress("asking") as update:
            update(3, 10, ", 1 failed")
        ```
    """
    here = console(stderr=True)
    columns = bars.MofNCompleteColumn(), bars.TimeElapsedColumn(), bars.TimeRemainingColumn(compact=True)
    is_off = not here.is_terminal or _verbosity["level"] < 0
    shape = bars.TextColumn("{task.description}"), bars.BarColumn(bar_width=None), *columns
    bar = bars.Progress(*shape, console=here, expand=True, transient=True, disable=is_off)
    task = bar.add_task(what, total=None)
    started = told = time.monotonic()

    def update(done: int, total: int, more: str = "") -> None:
        nonlocal told
        bar.update(task, completed=done, total=total, description=f"{what}{more}")
        if is_off and (now := time.monotonic()) - told >= SECONDS_BETWEEN_LINES:
            told = now
            note(f"{what}: {done:,} of {total:,}{more}, {now - started:.0f} s")

    with nullcontext() if is_off else bar:  # which would end a line that was not begun
        yield update


@contextmanager
def quietly() -> Iterator[None]:
    """Keep stdout for the results, and what DSPy and GEPA log for `-v`: what matters of it is told by us."""
    loggers = [logging.getLogger(name) for name in ("dspy", "gepa")]
    after = [logger.level for logger in loggers]
    with open(os.devnull, "w") as nowhere, redirect_stdout(sys.stderr if is_verbose() else nowhere):
        try:
            for logger in loggers:
                logger.setLevel(logging.INFO if is_verbose() else logging.CRITICAL)
            yield
        except KeyboardInterrupt:
            after = [logging.CRITICAL] * 2  # threads that nobody waits for any more would log how they end
            raise
        finally:
            for logger, level in zip(loggers, after, strict=True):
                logger.setLevel(level)


class _Console(Console):
    """Goes on in silence when nobody reads any more, as after `| head`: what it is said about is on the disk."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        silence(self.file)

    def render_str(self, text: str, **options: Any) -> Text:
        """Take whatever is no `Text` for foreign: `[/b]` is no markup, and an escape code is none."""
        return super().render_str(printable(text), **{**options, "markup": False, "emoji": False})


def console(stderr: bool = False) -> Console:
    """Where results go, or what is said beside them."""
    return _Console(stderr=stderr, highlight=False)


def silence(stream: IO[str]) -> None:
    """Let what is still to be written to a stream that nobody reads go nowhere, instead of failing at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def harmless(text: object, style: str = "", length: int | None = None) -> Text:
    """What a model or a file wrote, cut at this length: no markup, and nothing but printable characters."""
    clean = printable(text)
    return Text(f"{clean[:length].rstrip()} ..." if length is not None and len(clean) > length else clean, style)


def table(headings: Sequence[str], rows: Iterable[Sequence[str | Text]], right: int = 0) -> Table:
    """A table of foreign texts, of whose columns so many on the right hold numbers; empty headings show no head."""
    shown = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0), show_header=any(headings))
    for number, heading in enumerate(headings, start=right - len(headings)):
        shown.add_column(heading, justify="left" if number < 0 else "right", no_wrap=number >= 0, overflow="fold")
    for row in rows:
        shown.add_row(*(cell if isinstance(cell, Text) else harmless(cell) for cell in row))
    return shown


def cost_of(usage: Usage, models: Iterable[str | None]) -> str:
    """The cost in USD, without hiding what is not known of it."""
    if usage.unpriced_calls and all((model or "").startswith("simulated/") for model in models):
        return "none"
    if usage.cost_usd is None:
        return "unknown"
    return f"${usage.cost_usd:.4f}{f' + {usage.unpriced_calls} unpriced' if usage.unpriced_calls else ''}"


def check_port(port: int) -> None:
    """Refuse a port of this machine that somebody has."""
    with socket.socket() as probe:
        if probe.connect_ex((HOST, port)) == 0:
            raise Stopped(f"Port {port} is taken: something answers there already. Give another one with --port.")


def print_json(data: Any) -> None:
    """The results, and nothing else, on stdout; in ASCII, which gets through every pipe."""
    from moa_dspy.values import to_jsonable

    console().out(json.dumps(to_jsonable(data), indent=2, allow_nan=False))


def note(message: str, style: str = "yellow") -> None:
    """Say something beside the results, unless `-q` was given; in a log on one line, so that it can be searched for."""
    if _verbosity["level"] >= 0:
        _say(message, style)


def complain(message: str) -> None:
    """Say what went wrong."""
    _say(f"Error: {message}", "red")


def _say(message: str, style: str) -> None:
    here = console(stderr=True)
    here.print(harmless(message, style), soft_wrap=not here.is_terminal)


class _Notes(logging.Handler):
    """What the library warns of, said as the commands say things."""

    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


_notes = _Notes(logging.WARNING)


def set_verbosity(ctx: typer.Context, verbose: bool | None) -> None:
    """Take `-v` or `-q`, before the command or after it."""
    if verbose is not None or ctx.parent is None:
        _verbosity["level"] = {None: 0, True: 1, False: -1}[verbose]


def is_verbose() -> bool:
    """Whether `-v` was given."""
    return _verbosity["level"] > 0
