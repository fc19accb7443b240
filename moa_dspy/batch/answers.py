"""The file that a batch writes: one answer a line, whole or not at all, whenever the process dies."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from filelock import FileLock, Timeout
from pydantic import ValidationError

from moa_dspy.batch.questions import Question, digest
from moa_dspy.batch.rows import AnswerRow

__all__ = ["AnswerFile", "read_answers"]


def read_answers(path: str | Path) -> list[AnswerRow]:
    """The answers in a file, the last one of each id; also while it is being written.

    Raises:
        ValueError: If it holds something else.
        OSError: If it cannot be read.
    """
    with open(path, "rb") as file:
        return list({str(row.id): row for row, _, _ in _rows(file, Path(path))}.values())


@dataclass(frozen=True)
class _Entry:
    """Where an answer stands in the file, and what it answers."""

    start: int
    size: int
    digest: str
    mixture: str
    answered: bool


class AnswerFile:
    """A file of answers, open to append: the last row of an id counts.

    Every row is one write, flushed to the disk. What a killed process left half written is dropped; its
    question is asked again. A lock beside the file keeps a second process out.

    Args:
        path: The file; made if it is not there.

    Raises:
        ValueError: If another process is writing it, it holds something else, or it cannot be made.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).resolve()
        if not self.path.parent.is_dir():
            raise ValueError(f"The directory {self.path.parent} does not exist: make it, or write elsewhere.")
        if self.path.exists() and not self.path.is_file():
            raise ValueError(f"{path} is no regular file, so a run could not be resumed. Write to a file.")
        self._lock = FileLock(self._beside("lock"))
        self._writing = threading.Lock()

    def __enter__(self) -> AnswerFile:
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise ValueError(
                f"Another process is writing {self.path}: the two would ask the same questions. Wait for it, stop it, "
                "or write to another file."
            ) from None
        try:
            self._beside("tmp").unlink(missing_ok=True)  # a kill while sorting left it
            self._file = open(self.path, "ab", buffering=0)
            self._load()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._writing:
            self._file.close()
        self._lock.release()

    def answers(self, question: Question) -> bool:
        """Whether the file holds the answer to this question, asked with these inputs."""
        entry = self._entries.get(question.key)
        return entry is not None and entry.answered and entry.digest == digest(question.given)

    @property
    def mixtures(self) -> list[str]:
        """Who gave the answers in the file."""
        return list(dict.fromkeys(entry.mixture for entry in self._entries.values() if entry.answered))

    def append(self, row: AnswerRow) -> None:
        """Write a row; when this returns it is on the disk.

        Raises:
            OSError: If it could not be written; nothing of it is in the file then.
            ValueError: If the file was closed.
        """
        line = row.line()
        with self._writing:
            start = self._file.seek(0, os.SEEK_END)
            try:
                _write(self._file, line)
            except OSError:
                self._file.truncate(start)
                raise
            self._enter(row, start, len(line))

    def sort(self, keys: Sequence[str]) -> int:
        """Put the rows into the order of these keys, one row each, the others after them; ends the writing.

        Returns:
            How many others there are.
        """
        known = [key for key in keys if key in self._entries]
        others = self._entries.keys() - set(known)
        entries = [self._entries[key] for key in [*known, *(key for key in self._entries if key in others)]]
        places = [0, *accumulate(entry.size for entry in entries)]
        with self._writing:
            if places != [*(entry.start for entry in entries), self._file.seek(0, os.SEEK_END)]:
                self._replace(entries)
        return len(others)

    def _replace(self, entries: Sequence[_Entry]) -> None:
        copy = self._beside("tmp")
        with open(copy, "wb") as file, open(self.path, "rb") as old:
            for entry in entries:
                old.seek(entry.start)
                file.write(old.read(entry.size))
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(self.path, copy)
        self._file.close()
        os.replace(copy, self.path)

    def _load(self) -> None:
        self._entries: dict[str, _Entry] = {}
        end, unended = 0, None
        with open(self.path, "rb") as file:
            for row, start, line in _rows(file, self.path):
                if line.endswith(b"\n"):
                    self._enter(row, start, len(line))
                    end = start + len(line)
                else:
                    unended = row
        self._file.truncate(end)
        if unended is not None:
            self.append(unended)

    def _enter(self, row: AnswerRow, start: int, size: int) -> None:
        # Taken out first: a question that was asked again stands where it was asked last.
        self._entries.pop(str(row.id), None)
        self._entries[str(row.id)] = _Entry(start, size, digest(row.inputs), row.mixture, row.error is None)

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(f".{self.path.name}.{suffix}")


def _write(file: Any, line: bytes) -> None:
    while line:
        line = line[file.write(line) :]
    os.fsync(file.fileno())


def _rows(file: BinaryIO, path: Path) -> Iterator[tuple[AnswerRow, int, bytes]]:
    """The rows, where each starts, and its line; without a last one that a kill cut short."""
    start = 0
    for number, line in enumerate(file, start=1):
        try:
            yield AnswerRow.model_validate_json(line), start, line
        except ValidationError:
            if line.endswith(b"\n") or not _is_beginning(line):
                raise ValueError(
                    f"Line {number} of {path} is no answer of a batch, so the file is left as it is. Write to another."
                ) from None
        start += len(line)


def _is_beginning(line: bytes) -> bool:
    """Whether it may be the beginning of a row: a file of something else must not be cut."""
    return line.startswith(_OPENING) or _OPENING.startswith(line)


_OPENING = b'{"id": '
