"""The command line: `u2net3d VERB`. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Runs the command line and leaves with the exit code of the contract.

    A signal ends a verb where it stands (130, 143); one that has something to finish holds it back.
    """
    # A thread that waits soon sleeps instead of spinning on: that makes a step shorter beside other
    # work on the same cores. GNU's OpenMP reads it when it is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    from u2net3d.train.interrupt import stopping

    try:
        with stopping():
            from u2net3d.cli.app import run

            code = run(sys.argv[1:])
    except KeyboardInterrupt as stop:  # before or after the verb
        code = getattr(stop, "exit_code", 130)
    sys.exit(code)
