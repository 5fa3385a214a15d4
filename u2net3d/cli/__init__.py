"""The command line: `u2net3d VERB`. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import gc
import os
import sys
from typing import Any

_OBJECTS = 50_000  # made before they are looked through for what is no longer in use


def main() -> None:
    """Runs the command line and leaves with the exit code of the contract.

    A signal ends a verb where it stands (130, 143); one that has something to finish holds it back.
    """
    # A thread that waits soon sleeps instead of spinning on: that makes a step shorter beside other
    # work on the same cores. GNU's OpenMP reads it when it is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    _start_lightly()
    from u2net3d.train.interrupt import stopping

    try:
        with stopping():
            from u2net3d.cli.app import run

            code = run(sys.argv[1:])
    except KeyboardInterrupt as stop:  # before or after the verb
        code = getattr(stop, "exit_code", 130)
    sys.exit(code)


def _start_lightly() -> None:
    """Leaves out of this process what others would have imported, or done, while it starts.

    That is a search for plugins of pydantic (the environment may say otherwise), OpenVINO's
    converter of foreign models, and looking through new objects every few hundred imports.
    """
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    modules: dict[str, Any] = sys.modules
    modules.setdefault("openvino.tools.ovc", None)  # as if not installed, until `converter` asks
    gc.set_threshold(_OBJECTS)
