"""What is settled before a verb runs."""

from __future__ import annotations

import os

import pytest

from u2net3d import cli


@pytest.fixture
def main(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["u2net3d", "--help"])

    def typed() -> str:
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert left.value.code == 0
        return capsys.readouterr().out

    return typed


def test_threads_that_wait_sleep(main, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "")  # so that it is put back behind the test
    monkeypatch.delenv("OMP_WAIT_POLICY")
    assert "train" in main()
    assert os.environ["OMP_WAIT_POLICY"] == "passive"


def test_who_chose_otherwise_is_obeyed(main, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    main()
    assert os.environ["OMP_WAIT_POLICY"] == "active"
