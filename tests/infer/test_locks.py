"""One run at a time at a case; nobody's lock stays, nobody living loses one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest

from u2net3d.errors import DataError, DiskError
from u2net3d.infer import locks
from u2net3d.infer.locks import Holder, Watch


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out" / ".case.lock"


def leave(path, **changes):
    """A lock of somebody who differs from this process in `changes`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(replace(Holder.of_this_process(), **changes))))


def test_a_lock_is_held_by_one_and_is_gone_afterwards(path):
    with Watch().acquire(path) as lock:
        assert not lock.inherited
        assert Watch().acquire(path) is None
        lock.require_held()
    assert list(path.parent.iterdir()) == []
    Watch().acquire(path).release()


def test_a_lock_is_released_when_the_work_fails(path):
    with pytest.raises(KeyboardInterrupt), Watch().acquire(path):
        raise KeyboardInterrupt
    assert not path.exists()


def test_a_dead_process_is_followed_at_once(path, dead_lock):
    dead_lock(path)
    with Watch().acquire(path) as lock:
        assert lock.inherited
        lock.require_held()
        assert Watch().acquire(path) is None
    assert list(path.parent.iterdir()) == []


def test_a_number_given_out_again_is_another_process(path):
    leave(path, started="1")  # this very number, but another time of start
    assert Watch().acquire(path).inherited


def test_a_killed_process_that_nobody_waited_for_is_dead(path):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    started = locks._started(process.pid)
    assert started
    leave(path, pid=process.pid, started=started)
    assert Watch().acquire(path) is None
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert Watch().acquire(path).inherited  # a zombie: its parent has not asked about it
    process.wait()


def test_another_machine_or_container_lives_while_its_heart_beats(path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(locks.time, "monotonic", lambda: now[0])
    for changes in ({"boot": "another"}, {"namespace": "pid:[1]"}):
        leave(path, **changes, pid=2**22 + 1)  # no such process here, which says nothing
        watch = Watch()
        for beat in range(5):
            assert watch.acquire(path) is None
            os.utime(path, (beat, beat))  # its clock is its own
            now[0] += locks.LEASE_S / 2
        assert watch.acquire(path) is None
        now[0] += locks.LEASE_S + 1
        with watch.acquire(path) as lock:
            assert lock.inherited


def test_an_empty_lock_is_somebodys_for_as_long_as_a_lease(path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(locks.time, "monotonic", lambda: now[0])
    for content in (b"", b"\xff", b"[1]", b'{"token": "../../x", "pid": 1}'):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        watch = Watch()
        assert watch.acquire(path) is None
        now[0] += locks.LEASE_S + 1
        watch.acquire(path).release()
        assert list(path.parent.iterdir()) == []


def test_the_heart_beats_while_a_lock_is_held(path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.01)
    with Watch().acquire(path):
        os.utime(path, (0, 0))
        for _ in range(500):
            if path.stat().st_mtime > 0:
                break
            time.sleep(0.01)
        assert path.stat().st_mtime > 0


def test_who_was_taken_for_dead_finds_out_and_leaves_the_new_lock_alone(path):
    lock = Watch().acquire(path)
    leave(path, token="0" * 16)
    with pytest.raises(DataError, match="another run took this case over"):
        lock.require_held()
    lock.release()
    assert path.exists()


def test_of_many_that_see_one_dead_holder_one_follows(path, dead_lock):
    for _ in range(10):
        dead_lock(path)
        barrier, taken = threading.Barrier(8), []

        def take(barrier=barrier, taken=taken):
            barrier.wait()
            taken.append(Watch().acquire(path))

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (lock,) = [lock for lock in taken if lock]
        lock.release()
        assert list(path.parent.iterdir()) == []


def test_who_comes_late_to_a_dead_holder_leaves_the_new_one_alone(path, dead_lock, monkeypatch):
    dead_lock(path)
    plain, first = Watch._is_dead, []

    def slow(self, at, content):  # between seeing the dead one and taking over, another did
        known = plain(self, at, content)
        if not first:
            first.append(None)
            first[0] = Watch().acquire(path)
        return known

    monkeypatch.setattr(Watch, "_is_dead", slow)
    assert Watch().acquire(path) is None
    first[0].require_held()
    first[0].release()
    assert list(path.parent.iterdir()) == []


def test_what_died_while_it_took_over_is_swept(path, dead_lock):
    dead = dead_lock(path)
    dead_lock(path.with_name(f"{path.name}.{dead.token}"))  # died at the gate
    dead_lock(path.with_name(f"{path.name}.{'0' * 16}"))  # died behind an older one
    Watch().acquire(path).release()
    assert list(path.parent.iterdir()) == []


def test_a_place_without_locks_is_said_so(path, monkeypatch):
    path.mkdir(parents=True)
    with pytest.raises(DataError, match="is a folder"):
        Watch().acquire(path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    other = path.with_name(".other.lock")
    with pytest.raises(DiskError, match="No space left"):
        Watch().acquire(other)
    assert not other.exists()
