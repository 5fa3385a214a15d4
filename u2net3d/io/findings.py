"""What a check finds: lines about a data set, collected instead of raised."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from u2net3d.errors import DataError, one_line


@dataclass(frozen=True)
class Finding:
    """One line about a data set: a fault must be mended before training, a warning need not."""

    kind: Literal["fault", "warning"]
    where: str
    what: str
    mend: str

    def __str__(self) -> str:
        return one_line(f"{self.kind}: {self.where}: {self.what} — {self.mend}")


def fault(where: str | Path, what: str, mend: str) -> Finding:
    """A finding that must be mended."""
    return Finding("fault", str(where), what, mend)


def warning(where: str | Path, what: str, mend: str) -> Finding:
    """A finding that may stay."""
    return Finding("warning", str(where), what, mend)


def from_error(error: DataError) -> Finding:
    """The fault that a reader refused something for."""
    return fault(error.where, error.what, error.mend)


@contextmanager
def kept(findings: list[Finding]) -> Iterator[None]:
    """Adds the DataError that ends the block, if one does, to `findings`."""
    try:
        yield
    except DataError as error:
        findings.append(from_error(error))


def some(names: list[str]) -> str:
    """The first three names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
