"""The exception family: every message says where, what, and the mend.

U2Net3dError            1  anything this package refuses, or that failed
├── UsageError          2  the command itself is wrong: an option, a name, a path
├── DataError           1  a volume or a data set cannot be used as it is
├── ModelError          1  a model folder, or a file in it, cannot be used
├── TrainingError       1  training could not go on
├── DiskError           1  a file could not be written: no room, or a failing disk
└── CasesFailed         3  some cases of a folder failed, the others are done

The number is the exit code of the command line. `Stopped` (130, 143) is no error: a signal came.
"""

from __future__ import annotations

import signal
from os import PathLike
from typing import ClassVar


class U2Net3dError(Exception):
    """One line for a person: ``<where>: <what> — <mend>``.

    where: the file, option or domain at fault; what: what is wrong with it; mend: what to do.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, where: str | PathLike[str], what: str, mend: str) -> None:
        self.where, self.what, self.mend = str(where), what, mend
        super().__init__(self.where, what, mend)

    def __str__(self) -> str:
        return one_line(f"{self.where}: {self.what} — {self.mend}")


class UsageError(U2Net3dError):
    """The command is wrong: an option, a name or a path."""

    exit_code = 2


class DataError(U2Net3dError):
    """A volume or a data set cannot be used as it is."""


class ModelError(U2Net3dError):
    """A model folder, or a file in it, cannot be used."""


class TrainingError(U2Net3dError):
    """Training could not go on."""


class DiskError(U2Net3dError):
    """A file could not be written.

    What stood in its place before still does.
    """


class CasesFailed(U2Net3dError):
    """Some cases of a folder failed; the others are done."""

    exit_code = 3


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM asked for the end.

    number: the signal; text: the one line for a person, how to go on.
    """

    def __init__(
        self,
        number: int = signal.SIGINT,
        text: str = "stopped — repeat the command; training that has a checkpoint takes --resume",
    ) -> None:
        self.number, self.text = number, text
        super().__init__(number, text)

    def __str__(self) -> str:
        return self.text

    @property
    def exit_code(self) -> int:
        """130 for Ctrl-C, 143 for SIGTERM, as shells have it."""
        return 128 + self.number


def one_line(text: str) -> str:
    """`text` on one line: names of files may hold line breaks and the codes of terminals too."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out; torch says so in a RuntimeError, in words."""
    text = str(error)
    in_words = "can't allocate memory" in text or "out of memory" in text.lower()
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and in_words)
