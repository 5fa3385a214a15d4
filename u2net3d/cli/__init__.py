"""The command line: `u2net3d VERB`. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line and leaves with the exit code of the contract."""
    from u2net3d.cli.app import run

    sys.exit(run(sys.argv[1:]))
