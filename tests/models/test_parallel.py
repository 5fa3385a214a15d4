"""Two processes that share a batch: they learn what one learns from the whole."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

SCRIPT = Path(__file__).with_name("halves.py")


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="no gloo")
def test_two_processes_learn_the_mean_of_their_halves_while_domains_take_turns(tmp_path):
    meeting, result = tmp_path / "meeting", tmp_path / "gradients.pt"
    command = [sys.executable, str(SCRIPT)]
    first, second = (
        subprocess.Popen([*command, str(rank), str(meeting), str(result)], stderr=subprocess.PIPE)
        for rank in (0, 1)
    )
    said = [process.communicate(timeout=600)[1].decode() for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), said
    halves = _halves()
    net, grown = halves.network(), torch.load(result)
    for domain in halves.DOMAINS:
        x = halves.batch(domain)
        one, other = (halves.learned(net, net, half, domain) for half in (x[:1], x[1:]))
        whole = halves.learned(net, net, x, domain)
        for name, gradient in grown[domain].items():
            if one[name] is None:  # of the other domain's bank
                assert gradient is None
                continue
            assert torch.equal(gradient, one[name] / 2 + other[name] / 2), name
            torch.testing.assert_close(gradient, whole[name], rtol=1e-4, atol=1e-6)


def _halves():
    spec = importlib.util.spec_from_file_location("halves", SCRIPT)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found
