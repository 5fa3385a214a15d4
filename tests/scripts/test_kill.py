"""scripts/kill-test: no kill -9 loses a checkpoint, a model or a label."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KILLS = 20


@pytest.mark.kills
def test_twenty_kills_at_random_moments_lose_nothing():
    command = [sys.executable, "scripts/kill_test.py", "--kills", str(KILLS)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = dict(re.findall(r"^([\w -]+): (\d+)$", done.stdout, re.MULTILINE))
    assert int(counts["kills"]) >= KILLS
    for job in ("train", "add-domain", "predict"):
        assert int(counts[f"{job} finished"]) >= 1  # compared with a run that was never killed
