"""The file of a recording: one row a line, whole or not at all, whenever a process dies, also while others write it."""

from __future__ import annotations

import io
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from moa_dspy.files import drafting
from moa_dspy.recording.rows import FORMAT, Row
from moa_dspy.values import hash_of

try:
    import fcntl
except ImportError:  # Windows: nothing keeps two processes from asking the same questions there
    fcntl = None  # type: ignore[assignment]

__all__ = ["RecordingFile", "is_recording", "read_rows"]

logger = logging.getLogger(__name__)

_OPENING = b'{"recording": '
_CLAIMS = 1 << 61


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a recording's file, the last one of each id; also while it is being written.

    A line that a killed process left half written is left out with a warning.

    Raises:
        ValueError: If it holds something else, or a newer format; naming the line.
        OSError: If it cannot be read.
    """
    with open(path, "rb") as file:
        return list({str(row.id): row for row in _parse(file, Path(path))}.values())


def is_recording(path: str | Path) -> bool:
    """Whether a file starts as a recording does; false if there is none."""
    if not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(_OPENING)) == _OPENING


class RecordingFile:
    """The rows of a recording while it is made: the last row of an id counts.

    Every row is one write, flushed to the disk. Several processes may append to one file: each question that
    one of them is asking is claimed by a lock on the file itself, which ends with the process, so that no other
    asks it meanwhile; no file beside it is needed.

    Args:
        path: The file; made if it is not there. None keeps the rows in memory alone.

    Raises:
        ValueError: If it holds something else, or cannot be made.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.path = None if path is None else Path(path).resolve()
        if self.path is not None and not self.path.parent.is_dir():
            raise ValueError(f"The directory {self.path.parent} does not exist: make it, or write elsewhere.")
        if self.path is not None and self.path.exists() and not self.path.is_file():
            raise ValueError(f"{path} is no regular file, so a recording could not be resumed. Write to a file.")
        self.rows: dict[str, Row] = {}
        self._file: Any = None
        self._writing = threading.Lock()
        self._read = 0  # bytes whose rows are known

    def __enter__(self) -> RecordingFile:
        if self.path is not None:
            self._file = _open(self.path)
            try:
                self.refresh()
            except BaseException:
                self._file.close()
                raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            with self._writing:
                self._file.close()

    def refresh(self) -> None:
        """Read what other processes have added."""
        if self._file is None:
            return
        with self._writing:
            if os.fstat(self._file.fileno()).st_size <= self._read:
                return
            self._file.seek(self._read)
            content = self._file.read()
            # Another process may be in the middle of the last line: it is read again when it is whole.
            whole = content[: content.rfind(b"\n") + 1]
            for row in _parse(io.BytesIO(whole if self._read else content), self.path):
                self._enter(row)
            self._read += len(whole)

    def claim(self, key: str) -> bool:
        """Whether the question of this key is ours to ask: no other process is asking it."""
        if self._file is None or fcntl is None:
            return True
        try:
            # A byte far beyond the end stands for the question: on POSIX, any range of a file can be locked.
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _CLAIMS + int(hash_of(key, 12), 16))
        except OSError:
            return False
        return True

    def append(self, row: Row) -> None:
        """Keep a row; when this returns it is on the disk.

        Raises:
            OSError: If it could not be written, or the file was replaced by another one meanwhile.
            ValueError: If the file was closed.
        """
        if self._file is None:
            return self._enter(row)
        line = row.line()
        with self._writing:
            _check_in_place(self.path, self._file)
            if self._file.seek(0, os.SEEK_END):
                self._file.seek(-1, os.SEEK_END)
                if self._file.read(1) != b"\n":
                    line = b"\n" + line  # what a killed process left unfinished becomes a line of its own
            left = line
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
            self._enter(row)
            if self._file.tell() == self._read + len(line):  # else others have written too, which is still to be read
                self._read += len(line)

    def sort(self, keys: Sequence[str]) -> int:
        """Put the rows into the order of these keys, the others after them; ends the writing.

        Where another process is writing too, the file stays as it is; readers take the last row of each id anyway.

        Returns:
            How many others there are.
        """
        wanted = {key: self.rows[key] for key in keys if key in self.rows}
        others = {key: row for key, row in self.rows.items() if key not in wanted}
        self.rows = wanted | others
        if self._file is not None and _lock(self._file):
            content = b"".join(row.line() for row in self.rows.values())
            with self._writing:
                self._file.seek(0)
                if self._file.read() != content:
                    _check_in_place(self.path, self._file)
                    _replace(self.path, content)
        return len(others)

    def _enter(self, row: Row) -> None:
        self.rows.pop(str(row.id), None)  # a question that was asked again stands where it was asked last
        self.rows[str(row.id)] = row


def _open(path: Path) -> Any:
    """A file to append to, with the lock that says that somebody writes it."""
    while True:
        file = open(path, "a+b", buffering=0)  # noqa: SIM115
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_SH)  # waits for another process that puts its rows into order
        if _is_in_place(path, file):
            return file
        file.close()


def _lock(file: Any) -> bool:
    """Whether no other process writes this file; from now on none does."""
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_in_place(path: Path, file: Any) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _check_in_place(path: Any, file: Any) -> None:
    if not _is_in_place(path, file):
        raise OSError(f"{path} was removed or replaced while it was written: what came after is not in it.")


def _replace(path: Any, content: bytes) -> None:
    with drafting(path) as draft:
        with open(draft, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(draft, os.stat(path).st_mode & 0o777)
        os.replace(draft, path)


def _parse(file: Any, path: Any) -> Iterator[Row]:
    """The rows of lines; blank lines and what a kill cut short are passed over."""
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = Row.model_validate_json(line)
        except ValidationError as error:
            problem = error.errors(include_input=False)[0]
            is_start = line.startswith(_OPENING) or _OPENING.startswith(line.rstrip(b"\n"))
            if is_start and problem["type"] == "json_invalid":
                logger.warning("Line %d of %s was cut short by a kill, and is left out.", number, path)
                continue
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
