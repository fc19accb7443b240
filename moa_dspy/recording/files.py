"""The file of a recording: one row a line, whole or not at all, whenever a process dies, also while others write it."""

from __future__ import annotations

import io
import logging
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import ValidationError

from moa_dspy.recording.rows import FORMAT, Row
from moa_dspy.values import hash_of

try:
    import fcntl
except ImportError:  # Windows: nothing keeps two processes from asking the same questions there
    fcntl = None  # type: ignore[assignment]

__all__ = ["RecordingFile", "is_recording", "read_rows"]

logger = logging.getLogger(__name__)

_OPENING = b'{"recording": '


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a recording's file, the last one of each id; also while it is being written.

    A line that a killed process left half written is left out with a warning.

    Raises:
        ValueError: If it holds something else, or a newer format; naming the line.
        OSError: If it cannot be read.
    """
    with open(path, "rb") as file:
        return list({str(row.id): row for row in _rows(file, Path(path))}.values())


def is_recording(path: str | Path) -> bool:
    """Whether a file starts as a recording does; false if there is none."""
    if not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(_OPENING)) == _OPENING


class RecordingFile:
    """A recording's file, open to append: the last row of an id counts.

    Every row is one write, flushed to the disk. Several processes may append to one file: each question that
    one of them is asking is claimed by a lock on the file itself, which ends with the process, so that no other
    asks it meanwhile; no file beside it is needed.

    Args:
        path: The file; made if it is not there.

    Raises:
        ValueError: If it holds something else, or cannot be made.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).resolve()
        if not self.path.parent.is_dir():
            raise ValueError(f"The directory {self.path.parent} does not exist: make it, or write elsewhere.")
        if self.path.exists() and not self.path.is_file():
            raise ValueError(f"{path} is no regular file, so a recording could not be resumed. Write to a file.")
        self.rows: dict[str, Row] = {}
        self._ours: set[str] = set()
        self._writing = threading.Lock()

    def __enter__(self) -> RecordingFile:
        self._file = open(self.path, "a+b", buffering=0)  # closed by __exit__
        try:
            if fcntl is not None:
                fcntl.flock(self._file, fcntl.LOCK_SH)
                while not self._is_in_place():  # another process put its rows into order while we waited
                    self._file.close()
                    self._file = open(self.path, "a+b", buffering=0)
                    fcntl.flock(self._file, fcntl.LOCK_SH)
            self._read = self._written = 0  # bytes that were read, and bytes that we wrote since
            self.refresh()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._writing:
            self._file.close()

    def refresh(self) -> None:
        """Read what other processes have appended."""
        with self._writing:
            if os.fstat(self._file.fileno()).st_size == self._read + self._written:
                return
            self._file.seek(self._read)
            content = self._file.read()
            # Another process may be in the middle of the last line: it is read again when it is whole.
            whole = content[: content.rfind(b"\n") + 1]
            for row in _rows(io.BytesIO(whole if self._read else content), self.path, self._read):
                if str(row.id) not in self._ours:
                    self._enter(row)
            self._read, self._written = self._read + len(whole), 0

    def claim(self, key: str) -> bool:
        """Whether the question of this key is ours to ask: no other process is asking it, or has answered it since."""
        if fcntl is None:
            return True
        try:
            # A byte far beyond the end stands for the question: on POSIX, any range of a file can be locked.
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _CLAIMS + int(hash_of(key, 12), 16))
        except OSError:
            return False
        return True

    def append(self, row: Row) -> None:
        """Write a row; when this returns it is on the disk.

        Raises:
            OSError: If it could not be written, or the file was replaced by another one meanwhile.
            ValueError: If the file was closed.
        """
        line = row.line()
        with self._writing:
            self._check_in_place()
            end = self._file.seek(0, os.SEEK_END)
            if end and not self._ends_a_line(end):
                line = b"\n" + line  # what a killed process left unfinished becomes a line of its own
            _write(self._file, line)
            self._written += len(line)
            self._ours.add(str(row.id))
            self._enter(row)

    def sort(self, keys: Sequence[str]) -> int:
        """Put the rows into the order of these keys, one row each, the others after them; ends the writing.

        Where another process is writing too, the file stays as it is; readers take the last row of each id anyway.

        Returns:
            How many other rows there are.
        """
        known = [key for key in keys if key in self.rows]
        others = [key for key in self.rows if key not in set(known)]
        if self._is_alone():
            ordered = b"".join(self.rows[key].line() for key in [*known, *others])
            with self._writing:
                self._file.seek(0)
                if self._file.read() != ordered:
                    self._replace(ordered)
        return len(others)

    def _replace(self, content: bytes) -> None:
        self._check_in_place()
        copy, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
        try:
            with os.fdopen(copy, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, os.stat(self.path).st_mode & 0o777)
            os.replace(name, self.path)
        except BaseException:
            os.unlink(name)
            raise

    def _enter(self, row: Row) -> None:
        self.rows.pop(str(row.id), None)  # a question that was asked again stands where it was asked last
        self.rows[str(row.id)] = row

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return False

    def _check_in_place(self) -> None:
        if not self._is_in_place():
            raise OSError(f"{self.path} was removed or replaced while it was written: what came after is not in it.")
        if os.fstat(self._file.fileno()).st_size < self._read:
            raise OSError(f"{self.path} was cut while it was written: rows that were in it are gone.")

    def _ends_a_line(self, end: int) -> bool:
        self._file.seek(end - 1)
        return self._file.read(1) == b"\n"

    def _is_alone(self) -> bool:
        if fcntl is None:
            return True
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


_CLAIMS = 1 << 61


def _write(file: Any, line: bytes) -> None:
    while line:
        line = line[file.write(line) :]
    os.fsync(file.fileno())


def _rows(file: Any, path: Path, start: int = 0) -> Iterator[Row]:
    """The rows from here on; blank lines and what a kill cut short are passed over."""
    known = start > 0
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = Row.model_validate_json(line)
        except ValidationError as error:
            is_start = line.startswith(_OPENING) or _OPENING.startswith(line.rstrip(b"\n"))
            if not is_start or (line.endswith(b"\n") and not known):
                reason = error.errors(include_input=False)[0]
                raise ValueError(
                    f"Line {number} of {path} is no row of a recording ({_where(reason)}), so the file is left as it "
                    "is. Give the file of a recording, or another name to write to."
                ) from None
            logger.warning("Line %d of %s was cut short by a kill, and is left out.", number, path)
            continue
        if row.recording > FORMAT:
            raise ValueError(
                f"{path} is a recording of format {row.recording}, and this version reads format {FORMAT}. Update "
                "moa-dspy to read it."
            )
        known = True
        yield row


def _where(reason: Any) -> str:
    path = ".".join(map(str, reason["loc"]))
    return f"{path}: {reason['msg']}" if path else str(reason["msg"])
