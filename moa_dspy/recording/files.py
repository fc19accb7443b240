"""The file of a recording: one row a line, whole or not at all, whenever a process dies, also while others write it.

There is no line beside the rows: each begins with the format and with who was asked (the fingerprints of task, models,
settings and prompts), so that the first one says what the file is, and pandas and jq find nothing but rows.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from moa_dspy.files import drafting, require_file
from moa_dspy.recording.rows import FORMAT, Row
from moa_dspy.values import hash_of

try:
    import fcntl
except ImportError:  # Windows: nothing keeps two processes from asking the same questions there
    fcntl = None  # type: ignore[assignment]

__all__ = ["RecordingFile", "is_recording", "read_rows"]

logger = logging.getLogger(__name__)

_OPENING = b'{"recording": '
_HEADER = re.compile(_OPENING + rb'\d+, "mixture": "[^"]*", ')
_CLAIMS = 1 << 61


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a recording's file, the last one of each id; also while it is being written.

    A line that a killed process left half written is left out with a warning.

    Raises:
        ValueError: If it holds something else, or a newer format; naming the line.
        OSError: If it cannot be read.
    """
    require_file(Path(path))
    return list({row.key: row for row in _parse(Path(path).read_bytes(), path)}.values())


def is_recording(path: str | Path) -> bool:
    """Whether a file starts as a recording does; false if there is none."""
    if not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(_OPENING)) == _OPENING


class RecordingFile:
    """The rows of a recording while it is made: the last row of an id counts.

    Every row is one write, flushed to the disk. Several writers may append to one file: each question that one of
    them is asking is claimed by a lock on the file itself, which ends with the process, so that no other asks it
    meanwhile. Before each write the file is looked at: if it is no longer what it was, or cannot be written, `failure`
    says so, nothing more is written to it, and at the end what is not in it goes into a file beside it.

    Args:
        path: The file; made if it is not there. None keeps the rows in memory.

    Raises:
        ValueError: If it holds something else, or cannot be made.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.path: Any = path
        if path is not None:
            self.path = Path(path).resolve()
            if not self.path.parent.is_dir():
                raise ValueError(f"The directory {self.path.parent} does not exist: make it, or write elsewhere.")
            if self.path.exists() and not self.path.is_file():
                raise ValueError(f"{path} is no regular file, so a recording could not be resumed. Write to a file.")
        self.rows: dict[str, Row] = {}
        self.failure: Exception | None = None
        self._file: Any = None
        self._writing = threading.Lock()
        self._unwritten: list[Row] = []
        self._read = 0  # bytes whose rows are known
        self._end = 0  # bytes that were there when we looked last

    def __enter__(self) -> RecordingFile:
        if self.path is not None:
            self._file = _open(self.path)
            try:
                self._look()
            except BaseException:
                self._file.close()
                raise
        return self

    def __exit__(self, *error: object) -> None:
        with self._writing:
            if self._file is not None:
                self._file.close()

    def refresh(self) -> None:
        """Read what other processes have added."""
        with self._writing:
            self._attempt(self._look)

    def claim(self, key: str) -> bool:
        """Whether the question of this key is ours to ask: nobody else is asking it."""
        return self._file is None or _claim(self._file, _CLAIMS + int(hash_of(key, 12), 16))

    def append(self, *rows: Row) -> None:
        """Keep rows; when this returns they are on the disk, or `failure` says why they are not."""
        with self._writing:
            self._enter(rows)
            if self._file is not None:
                self._unwritten.extend(rows)
                self._attempt(self._write)

    def finish(self, keys: Sequence[str]) -> int:
        """Put the rows into the order of these keys, the others after them; ends the writing.

        Where another process is writing too, the file stays as it is; readers take the last row of each id anyway.

        Returns:
            How many others there are.
        """
        with self._writing:
            self._attempt(lambda: self._sort(keys))
            if self.failure is not None:
                self.failure = OSError(f"{self.failure} {self._rescue()}")
            self.rows = _in_order(self.rows, keys)
            return len(self.rows.keys() - set(keys))

    def _attempt(self, work: Callable[[], None]) -> None:
        if self.failure is None and self._file is not None:
            try:
                work()
            except (OSError, ValueError) as error:
                self.failure = error

    def _enter(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self.rows.pop(row.key, None)  # a question that was asked again stands where it was asked last
            self.rows[row.key] = row

    def _look(self) -> None:
        """Check that the file is what it was, and read what was added."""
        size = _size_in_place(self.path, self._file)
        if size < self._end:
            raise OSError(f"{self.path} was cut short while it was written, by {self._end - size} bytes.")
        self._end = size
        if size > self._read:
            self._file.seek(self._read)
            content = self._file.read(size - self._read)
            # Another process may be in the middle of the last line: it is read again when it is whole.
            whole = content[: content.rfind(b"\n") + 1]
            self._enter([*_parse(whole if self._read else content, self.path, self._read == 0)])
            self._read += len(whole)

    def _write(self) -> None:
        """Write what is not written yet."""
        if not self._unwritten:
            return
        self._look()
        self._enter(self._unwritten)  # over what others may have written of these questions
        lines = b"".join(row.line() for row in self._unwritten)
        if self._end:
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":
                lines = b"\n" + lines  # what a killed process left unfinished becomes a line of its own
        left = lines
        while left:
            left = left[self._file.write(left) :]
        os.fsync(self._file.fileno())
        self._end = self._file.tell()
        if self._end == self._read + len(lines):  # else others have written too, which is still to be read
            self._read = self._end
        self._unwritten.clear()

    def _sort(self, keys: Sequence[str]) -> None:
        self._look()
        if not _lock(self._file):
            return
        self._file.seek(0)
        there = self._file.read()
        rows = {row.key: row for row in _parse(there, self.path)}  # also as somebody has edited them
        if lost := self.rows.keys() - rows.keys():
            raise OSError(f"{len(lost)} rows were taken out of {self.path} while it was written.")
        content = b"".join(row.line() for row in _in_order(rows, keys).values())
        state = os.fstat(self._file.fileno())
        if content != there and state.st_nlink == 1:
            for left in self.path.parent.glob(f".moa-*/{self.path.name}"):  # by a run that was killed here
                shutil.rmtree(left.parent, ignore_errors=True)
            try:
                with drafting(self.path) as draft:
                    draft.write_bytes(content)
                    draft.chmod(state.st_mode & 0o777)
            except OSError as error:
                logger.warning("%s is whole, but stays in the order in which the answers came: %s", self.path, error)

    def _rescue(self) -> str:
        """Keep what is not in the file: in it after all, beside it, or wherever there is room; says where."""
        with suppress(OSError, ValueError):
            self._look()
            self._write()
        written = set(self.path.read_bytes().splitlines(keepends=True)) if self.path.is_file() else set()
        lost = [line for line in (row.line() for row in self.rows.values()) if line not in written]
        if not lost:
            return f"What came is in {self.path}."
        for folder in (self.path.parent, Path(tempfile.gettempdir())):
            beside = folder / f"{self.path.stem}-rescued-{os.getpid()}-{time.time_ns()}.jsonl"
            with suppress(OSError), drafting(beside) as draft:
                draft.write_bytes(b"".join(lost))
            if beside.exists():
                return f"What is not in it, {len(lost)} answers, is in {beside}: append that to go on from there."
        return f"{len(lost)} answers could be written nowhere: they are on the error, as `recording`."


def _in_order(rows: dict[str, Row], keys: Sequence[str]) -> dict[str, Row]:
    return {key: rows[key] for key in keys if key in rows} | rows


def _open(path: Path) -> Any:
    """A file to append to, with the lock that says that somebody writes it."""
    while True:
        file = open(path, "a+b", buffering=0)  # noqa: SIM115
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_SH)  # waits for another process that puts its rows into order
        try:
            _size_in_place(path, file)
            return file
        except OSError:
            file.close()


def _lock(file: Any) -> bool:
    """Whether no other process writes this file; from now on none does."""
    with suppress(OSError):
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _claim(file: Any, place: int) -> bool:
    """Lock a byte far beyond the end, which stands for a question."""
    with suppress(OSError):
        if fcntl is not None and hasattr(fcntl, "F_OFD_SETLK"):
            # The lock of this open file: POSIX's own would let in other threads, and end as soon as any of them
            # closes the same file.
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0))
        elif fcntl is not None:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        return True
    return False


def _size_in_place(path: Path, file: Any) -> int:
    """The size of an open file, if its path still leads to it."""
    mine = os.fstat(file.fileno())
    if not path.exists() or not os.path.samestat(path.stat(), mine):
        raise OSError(f"{path} was removed or replaced while it was written.")
    return mine.st_size


def _parse(content: bytes, path: Any, from_start: bool = True) -> Iterator[Row]:
    """The rows of lines; blank lines and what a kill cut short are passed over."""
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = Row.model_validate_json(line)
        except ValidationError as error:
            problem = error.errors(include_input=False)[0]
            # Ours is what begins as a row does and ends too early; the first line must also say whose it is.
            is_ours = line.startswith(_OPENING) or _OPENING.startswith(line)
            if number == 1 and from_start:
                is_ours = _HEADER.match(line) is not None
            if is_ours and "EOF" in problem["msg"]:
                logger.warning("Line %d of %s was cut short by a kill, and is left out.", number, path)
                continue
            if not from_start:
                raise ValueError(f"{path} was changed while it was written: what was added is no row.") from None
            where = "".join(f"{place}: " for place in problem["loc"])
            raise ValueError(
                f"Line {number} of {path} is no row of a recording ({where}{problem['msg']}), so the file is left as "
                "it is. Give the file of a recording, or another name to write to."
            ) from None
        if row.recording > FORMAT:
            raise ValueError(
                f"{path} is a recording of format {row.recording}, and this version reads format {FORMAT}. Update "
                "moa-dspy to read it."
            )
        yield row
