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


@pytest.fixture(autouse=True)
def _unset(monkeypatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # so that it is put back behind the test
        monkeypatch.delenv(name)


def test_threads_that_wait_soon_sleep(main):
    assert "train" in main()
    assert os.environ["GOMP_SPINCOUNT"] == "20000"


def test_who_chose_otherwise_is_obeyed(main, monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    main()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    main()
    assert "GOMP_SPINCOUNT" not in os.environ
