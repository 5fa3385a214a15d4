"""The exception family: every message says where, what, and the mend.

U2Net3dError            1  anything this package refuses, or that failed
├── UsageError          2  the command itself is wrong: an option, a name, a path
├── DataError           1  a volume or a data set cannot be used as it is
├── ModelError          1  a model folder, or a file in it, cannot be used
├── TrainingError       1  training could not go on
└── CasesFailed         3  some cases of a folder failed, the others are done

The number is the exit code of the command line.
"""

from __future__ import annotations

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
        return f"{self.where}: {self.what} — {self.mend}"


class UsageError(U2Net3dError):
    """The command is wrong: an option, a name or a path."""

    exit_code = 2


class DataError(U2Net3dError):
    """A volume or a data set cannot be used as it is."""


class ModelError(U2Net3dError):
    """A model folder, or a file in it, cannot be used."""


class TrainingError(U2Net3dError):
    """Training could not go on."""


class CasesFailed(U2Net3dError):
    """Some cases of a folder failed; the others are done."""

    exit_code = 3
