"""Ctrl-C and SIGTERM: the step is finished, a checkpoint written; a second one stops at once."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

from u2net3d import cli
from u2net3d.errors import Stopped
from u2net3d.train import checkpoint, loop
from u2net3d.train.interrupt import held_back, stopping
from u2net3d.train.loop import train

BOTH = pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)


@pytest.fixture(autouse=True)
def as_in_a_terminal():
    """A shell starts background jobs with SIGINT ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    now = [signal.getsignal(number) for number in before]
    for number, handler in before.items():
        signal.signal(number, handler)
    assert now == [signal.default_int_handler, signal.SIG_DFL]  # nothing of ours is left


def send(number):
    os.kill(os.getpid(), number)


@pytest.fixture
def sent_in_step(monkeypatch):
    """sent_in_step(step, number, ...): the signals come in the middle of this step."""
    supervised = loop.supervised

    def at(step, *numbers):
        calls = []

        def spoilt(*arguments):
            calls.append(arguments)
            if len(calls) - 1 == step:
                for number in numbers:
                    send(number)
            return supervised(*arguments)

        monkeypatch.setattr(loop, "supervised", spoilt)

    return at


@BOTH
def test_what_is_held_back_is_done_first(number, code):
    done, told = [], []

    def work():
        with held_back(told.append):
            send(number)
            done.append("all of it")

    with pytest.raises(Stopped) as stop:
        work()
    assert done == ["all of it"]
    assert stop.value.exit_code == code
    assert told == ["stopping when this step is done; once more stops at once"]


def test_the_second_signal_stops_at_once():
    done = []

    def work():
        with held_back():
            send(signal.SIGINT)
            send(signal.SIGTERM)
            done.append("never")

    with pytest.raises(Stopped) as stop:
        work()
    assert done == []
    assert stop.value.number == signal.SIGTERM


@BOTH
def test_elsewhere_a_signal_stops_where_it_comes(number, code):
    done = []

    def work():
        with stopping():
            with held_back():
                done.append("first")
            send(number)
            done.append("never")

    with pytest.raises(Stopped):
        work()
    assert done == ["first"]


def test_signals_that_are_ignored_or_somebody_elses_stay_so():
    came = []
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    with stopping(), held_back():
        send(signal.SIGINT)
        send(signal.SIGTERM)
    assert came == [signal.SIGTERM]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_outside_the_main_thread_nothing_is_touched():
    errors = []

    def work():
        try:
            with stopping(), held_back():
                pass
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []


@BOTH
def test_a_signal_in_a_step_ends_the_run_after_it_with_a_checkpoint(
    make_run, watcher, no_pictures, sent_in_step, number, code
):
    net, run = make_run(steps=6)
    sent_in_step(2, number)
    with pytest.raises(Stopped) as stop:
        train(net, run, watcher(), resume=False)
    assert stop.value.exit_code == code
    line = "stopped at step 3 — the same command with --resume goes on from step 3"
    assert str(stop.value) == line
    assert checkpoint.load(run.folder, run.identity).step == 3


def test_a_second_signal_in_a_step_leaves_the_checkpoint_before_it(
    make_run, watcher, no_pictures, sent_in_step, monkeypatch, identical, weights_of
):
    whole, run = make_run(steps=6)
    train(whole, run, watcher(), resume=False)
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
    checkpoint.clear(run.folder)
    net, run = make_run(steps=6)
    sent_in_step(4, signal.SIGTERM, signal.SIGTERM)
    with pytest.raises(Stopped, match=r"stopped at once — .* goes on from step 4"):
        train(net, run, watcher(), resume=False)
    sent_in_step(99)
    net, run = make_run(steps=6)
    train(net, run, watcher(), resume=True)
    assert identical(weights_of(net), weights_of(whole))


def test_before_the_first_checkpoint_it_is_said_that_there_is_none(
    make_run, watcher, no_pictures, sent_in_step
):
    net, run = make_run(steps=6)
    sent_in_step(0, signal.SIGINT, signal.SIGINT)
    with pytest.raises(Stopped, match="at once — repeat the command: there was no"):
        train(net, run, watcher(), resume=False)


def test_a_signal_while_a_checkpoint_is_written_leaves_one(
    make_run, watcher, no_pictures, monkeypatch
):
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
    fsync, calls = os.fsync, []

    def spoilt(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:  # the file of the second checkpoint
            send(signal.SIGTERM)
        fsync(descriptor)

    monkeypatch.setattr("u2net3d.files.os.fsync", spoilt)
    net, run = make_run(steps=6)
    with pytest.raises(Stopped, match="goes on from step 2"):
        train(net, run, watcher(), resume=False)
    assert checkpoint.load(run.folder, run.identity).step == 2
    names = [path.name for path in (run.folder / checkpoint.FOLDER).iterdir()]
    assert sorted(names) == ["00000001.checkpoint", "00000002.checkpoint"]


@BOTH
def test_the_command_line_ends_with_the_code_and_one_line(
    monkeypatch, capsys, tmp_path, number, code
):
    monkeypatch.setattr("u2net3d.store.verify", lambda _: send(number))
    monkeypatch.setattr(sys, "argv", ["u2net3d", "verify", "--model", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("stopped")
    assert err.count("\n") == 1
