"""Freed memory, seen from outside: what the process holds."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import numpy as np
from u2net3d.infer.scratch import held_bytes
from u2net3d.ops.memory import hand_back_freed_memory, keep_freed_memory

if not keep_freed_memory():
    raise SystemExit(77)
before = held_bytes()
blocks = [np.ones(2**22) for _ in range(8)]
below = np.ones(2**10)
del blocks
kept = held_bytes() - before
hand_back_freed_memory()
print(kept >> 20, held_bytes() - before >> 20)
"""


def test_freed_memory_is_kept_until_it_is_handed_back():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False
    )
    if done.returncode == 77:
        pytest.skip("another C library than glibc")
    assert done.returncode == 0, done.stderr
    kept_mib, left_mib = map(int, done.stdout.split())
    assert kept_mib > 200
    assert left_mib < 64
