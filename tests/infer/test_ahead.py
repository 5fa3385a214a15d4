"""Reading, work and writing of several jobs overlap by one; ending early loses nothing."""

from __future__ import annotations

import threading

import pytest

from u2net3d.infer.ahead import Conveyor


class Log(list):
    """What was done in order; the names of threads that did it."""

    def __init__(self):
        super().__init__()
        self.places = set()

    def __call__(self, what, job):
        self.append(f"{what} {job}")
        self.places.add((what, threading.get_ident() == threading.main_thread().ident))


def conveyor(log, work=None):
    def read(job):
        log("read", job)
        return job * 2

    def worked(job, got):
        log("work", job)
        return (job, got) if work is None else work(job, got)

    def finish(one):
        log("finish", one[0])
        return one

    return Conveyor(read, worked, finish, lambda one: log("drop", one[0]))


def never():
    return False


def test_results_come_in_order_and_all_but_the_first_was_read_ahead():
    log = Log()
    found = list(conveyor(log).run(["a", "b", "c"], never))
    assert found == [("a", None), ("b", "bb"), ("c", "cc")]
    assert log.places == {("read", False), ("work", True), ("finish", False)}


def test_no_more_than_one_is_read_ahead_and_one_written_behind():
    log = Log()
    for job, _ in conveyor(log).run(list("abcdef"), never):
        read = [what[-1] for what in log if what.startswith("read")]
        assert len(read) <= "abcdef".index(job) + 2  # the one worked on, and the one after


def test_the_last_one_is_written_while_the_next_one_is_worked_on():
    written = threading.Event()

    def work(job, got):
        assert job == "a" or written.wait(20)  # would wait in vain, were it written after
        return job, got

    log = Log()
    belt = conveyor(log, work)
    belt._finish = lambda one: (written.set(), one)[1]
    assert [job for job, _ in belt.run(["a", "b"], never)] == ["a", "b"]


def test_one_alone_needs_no_thread():
    log = Log()
    assert list(conveyor(log).run(["a"], never)) == [("a", None)]
    assert log.places == {("work", True), ("finish", True)}


def test_what_cannot_be_read_ahead_is_for_who_works_on_it():
    def broken(_job):
        raise OSError("gone")

    log = Log()
    belt = conveyor(log)
    belt._read = broken
    assert list(belt.run(["a", "b"], never)) == [("a", None), ("b", None)]


def test_what_is_not_to_be_done_now_comes_back_in_its_place():
    log = Log()
    found = list(
        conveyor(log, lambda job, got: None if job == "b" else (job, got)).run("abc", never)
    )
    assert found == [("a", None), "b", ("c", "cc")]


def test_halted_finishes_what_was_begun_and_begins_no_more():
    log, answers = Log(), iter([False, False, True])
    found = list(conveyor(log).run(list("abcd"), lambda: next(answers)))
    assert [job for job, _ in found] == ["a", "b"]
    assert "work c" not in log


def test_who_leaves_early_drops_what_was_worked_on_and_leaves_nothing_half_written():
    log = Log()
    found = conveyor(log).run(list("abc"), never)
    assert next(found)[0] == "a"  # b is worked on by now
    found.close()
    assert "drop b" in log
    assert not {"finish b", "work c"} & set(log)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_a_stop_in_the_middle_waits_for_what_is_being_written(stop):
    def work(job, got):
        if job == "b":
            raise stop
        return job, got

    log = Log()
    with pytest.raises(stop):
        list(conveyor(log, work).run(list("abc"), never))
    assert "finish a" in log
