"""What the commands write: results on stdout, the rest on stderr, and what becomes of an error."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import IO, TYPE_CHECKING, Any, NoReturn

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
        as_json = "--json" in ctx.args
        logging.getLogger("moa_dspy").addHandler(_Notes.one)
        try:
            return super().invoke(ctx)
        except (ValueError, TypeError, OSError) as error:
            _end(error, BAD_INPUT, as_json)
        except ImportError as error:
            if "pip install" not in str(error):  # what ours say of an extra that is missing
                raise
            _end(error, BAD_INPUT, as_json)
        except Stopped as stop:
            _end(stop, stop.status, as_json)
        except KeyboardInterrupt:
            _end(Stopped("Interrupted: what was under way is lost."), INTERRUPTED, as_json)
        except Exception as error:
            describe = getattr(error, "format_message", None)  # typer's own, of arguments that it cannot read
            if describe is not None and as_json:
                _print_error(error, describe())
            if (secrets := sys.modules.get("moa_dspy.secrets")) is not None:
                secrets.scrub(error)
            if not type(error).__module__.startswith("moa_dspy."):
                raise
            _end(error, FAILED, as_json)


class Progress:
    """How far the work is, on stderr: a bar on a terminal, else a line every ten seconds.

    Args:
        what: What is done.

    Examples:
        ```python
        with Progress("asking") as update:
            update(3, 10)
        ```
    """

    def __init__(self, what: str) -> None:
        here = console(stderr=True)
        columns = bars.MofNCompleteColumn(), bars.TimeElapsedColumn(), bars.TimeRemainingColumn(compact=True)
        self.what = what
        self.bar = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(bar_width=None),
            *columns,
            console=here,
            expand=True,
            transient=True,
            disable=not here.is_terminal or _verbosity["level"] < 0,
        )

    def __enter__(self) -> Progress:
        self.task = self.bar.add_task(self.what, total=None)
        self.bar.start()
        self.started = self.told = time.monotonic()
        return self

    def __exit__(self, *error: object) -> None:
        if not self.bar.disable:
            self.bar.stop()  # which would end a line that was not begun

    def __call__(self, done: int, total: int, more: str = "") -> None:
        """Tell how much is done, of how much, and what else there is to say."""
        self.bar.update(self.task, completed=done, total=total, description=f"{self.what}{more}")
        now = time.monotonic()
        if self.bar.disable and now - self.told >= SECONDS_BETWEEN_LINES:
            self.told = now
            note(f"{self.what}: {done:,} of {total:,}{more}, {now - self.started:.0f} s")


class _Notes(logging.Handler):
    """What the library warns of, said as the commands say things."""

    one: logging.Handler

    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


_Notes.one = _Notes(logging.WARNING)


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
    """What a model or a file wrote, for the terminal: no markup, and nothing but printable characters.

    Args:
        text: The text, or what has one.
        style: Of rich.
        length: Where to cut it.
    """
    clean = printable(text)
    is_long = length is not None and len(clean) > length
    return Text(f"{clean[:length].rstrip()} ..." if is_long else clean, style)


def table(headings: Sequence[str], rows: Iterable[Sequence[str | Text]], right: int = 0) -> Table:
    """A table of foreign texts.

    Args:
        headings: Of the columns; none of any length shows no head.
        rows: The cells.
        right: How many of the last columns hold numbers.
    """
    shown = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0), show_header=any(headings))
    for number, heading in enumerate(headings):
        is_number = number >= len(headings) - right
        shown.add_column(heading, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
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
    """Say something beside the results."""
    if _verbosity["level"] >= 0:
        _say(message, style)


def complain(message: str) -> None:
    """Say what went wrong."""
    _say(f"Error: {message}", "red")


def set_verbosity(ctx: typer.Context, verbose: bool | None) -> None:
    """Take `-v` or `-q`, before the command or after it."""
    if verbose is not None or ctx.parent is None:
        _verbosity["level"] = {None: 0, True: 1, False: -1}[verbose]


def is_verbose() -> bool:
    """Whether `-v` was given."""
    return _verbosity["level"] > 0


@contextmanager
def quietly() -> Iterator[None]:
    """Keep stdout for the results, and what DSPy and GEPA log for `-v`: what matters of it is told by us."""
    loggers = [logging.getLogger(name) for name in ("dspy", "gepa")]
    levels = [logger.level for logger in loggers]
    is_stopped = False
    with open(os.devnull, "w") as nowhere, redirect_stdout(sys.stderr if is_verbose() else nowhere):
        try:
            for logger in loggers:
                logger.setLevel(logging.INFO if is_verbose() else logging.CRITICAL)
            yield
        except KeyboardInterrupt:
            is_stopped = True  # and quiet: threads that nobody waits for any more would log how they end
            raise
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(logging.CRITICAL if is_stopped else level)


def _say(message: str, style: str) -> None:
    here = console(stderr=True)
    # In a log a message stays on its lines, so that it can be searched for.
    here.print(harmless(message, style), soft_wrap=not here.is_terminal)


def _end(error: Exception, status: int, as_json: bool) -> NoReturn:
    message = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        message = f"{error.filename}: {error.strerror}."
    elif isinstance(error, ValidationError):
        problems = [(".".join(map(str, problem["loc"])), problem["msg"]) for problem in error.errors()]
        message = "\n".join(f"{place}: {text}" if place else text for place, text in problems)
    if (secrets := sys.modules.get("moa_dspy.secrets")) is not None:  # else nothing has read one
        message = secrets.redact(message)
    complain(message)
    if as_json:
        _print_error(error.__cause__ if isinstance(error, Stopped) and error.__cause__ else error, message)
    raise typer.Exit(status) from None


def _print_error(error: BaseException, message: str) -> None:
    print_json({"error": {"type": type(error).__name__, "message": message}})
