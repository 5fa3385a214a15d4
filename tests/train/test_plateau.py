"""When the learning rate is halved, with epochs of two steps and a window of three epochs."""

from __future__ import annotations

import pytest

from u2net3d.spec import TrainSpec
from u2net3d.train import plateau
from u2net3d.train.plateau import Plateau
from u2net3d.train.schedule import learning_rate


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(plateau, "EPOCH_STEPS", 2)
    monkeypatch.setattr(plateau, "WINDOW", 3)


def scales(epochs, stalled=None):
    """The scale after each epoch of these mean losses."""
    stalled, found = stalled or Plateau(), []
    for mean in epochs:
        stalled.after(mean - 0.25)
        stalled.after(mean + 0.25)
        found.append(stalled.scale)
    return found


def test_a_falling_loss_keeps_the_rate():
    assert scales([5, 4, 3, 2, 1]) == [1] * 5


def test_a_loss_that_stalls_halves_the_rate_once_the_window_was_full_before():
    # means of the last three: -, -, 1, 1: the first comparison is after the fourth epoch
    assert scales([1, 1, 1, 1, 1]) == [1, 1, 1, 0.5, 0.25]


def test_what_counts_is_the_mean_of_the_window():
    # means 3, 2.9999, 3.3333: a fall of 1e-4 is enough, a rise halves
    assert scales([4, 3, 2, 4 - 3.1e-4, 4]) == [1, 1, 1, 1, 0.5]
    assert scales([4, 3, 2, 4 - 2.9e-4]) == [1, 1, 1, 0.5]


def test_nothing_is_judged_within_an_epoch():
    stalled = Plateau()
    for _ in range(7):
        stalled.after(1.0)
    assert stalled.scale == 1
    stalled.after(1.0)
    assert stalled.scale == 0.5


def test_a_state_that_was_saved_goes_on_the_same():
    losses = [3, 2, 2, 2, 2, 1, 1, 2]
    whole = scales(losses)
    first = Plateau()
    begun = scales(losses[:4], first)
    first.after(2.5)  # in the middle of an epoch
    second = Plateau()
    second.restore(first.state())
    second.after(1.5)
    assert [*begun, second.scale, *scales(losses[5:], second)] == whole


def test_the_state_of_an_older_checkpoint_changes_nothing():
    stalled = Plateau()
    stalled.restore({})
    assert stalled.state() == Plateau().state()


def test_under_this_schedule_nothing_decays_with_the_budget():
    spec = TrainSpec(learning_rate=0.5, warmup_steps=0, schedule="plateau")
    assert [learning_rate(spec, 10, share) for share in (0.0, 0.5, 1.0)] == [0.5] * 3
