"""Losses that are no numbers or far too high move nothing; after three the run goes back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from u2net3d.errors import TrainingError
from u2net3d.prep.cache import PreparedCase
from u2net3d.train import guard as guarding
from u2net3d.train import loop
from u2net3d.train.guard import LEARNT_AFTER, Guard
from u2net3d.train.history import History
from u2net3d.train.loop import train

NAN = math.nan


@pytest.fixture
def guard():
    """guard(*domains) over one weight, which stands at 0."""

    def make(*domains):
        net = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(net.weight)
        optimiser = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
        made = Guard(net, optimiser, domains or ("liver",))
        made.net = net
        return made

    return make


def walk(guard, domain, *losses):
    """Takes the losses in as a run does; each that counts adds 1 to the weight."""
    verdicts = []
    for loss in losses:
        step = getattr(guard, "walked", 0)
        guard.walked = step + 1
        guard.before(step)
        moved = guard.is_acceptable(domain, loss)
        if moved:
            with torch.no_grad():
                guard.net.weight += 1
        verdicts.append(guard.after(domain, loss, moved))
    return verdicts


def test_three_bad_steps_in_a_row_of_one_domain_lead_back(guard):
    one = guard()
    assert walk(one, "liver", NAN, math.inf, 0.5, NAN, NAN) == ["bad", "bad", "good", "bad", "bad"]
    assert walk(one, "liver", -math.inf) == ["return"]
    two = guard("liver", "heart")
    verdicts = [walk(two, *turn)[0] for turn in 3 * [("liver", NAN), ("heart", 0.5)]]
    assert verdicts == ["bad", "good", "bad", "good", "return", "good"]


def test_a_loss_far_above_its_level_is_bad_once_the_level_is_known(guard):
    one = guard()
    around = [0.4, 0.6] * (LEARNT_AFTER // 2)  # mean 0.5, mean deviation 0.1
    assert set(walk(one, "liver", *around[1:])) == {"good"}
    assert one.is_acceptable("liver", 50.0)  # 19 steps: nothing is known yet
    walk(one, "liver", around[0])
    assert one.is_acceptable("liver", 2.2)
    assert not one.is_acceptable("liver", 3.0)
    assert one.is_acceptable("liver", -50.0)  # lower is better, however far
    two = guard("liver", "heart")
    walk(two, "liver", *around)
    assert two.is_acceptable("heart", 50.0)  # a level is its domain's alone


def test_a_bad_loss_does_not_raise_the_level(guard):
    one = guard()
    walk(one, "liver", *[0.4, 0.6] * LEARNT_AFTER)
    for _ in range(2):
        walk(one, "liver", 90.0, 90.0, 0.5)
    assert not one.is_acceptable("liver", 3.0)


def test_the_run_goes_back_to_a_state_that_every_domain_found_good(guard, monkeypatch):
    monkeypatch.setattr(guarding, "COPY_EVERY", 4)
    one = guard("liver", "heart")
    for domain in ("liver", "heart") * 3:  # weights 0 to 6; copies at steps 0 and 4, both proved
        walk(one, domain, 0.5)
    assert one.go_back() == 4
    assert one.net.weight.item() == 4
    assert one.scale == 0.5
    two = guard("liver", "heart")
    for domain in ("liver", "heart", "liver", "heart", "liver"):
        walk(two, domain, 0.5)
    walk(two, "heart", NAN)  # heart had not yet proved the copy of step 4
    assert two.go_back() == 0
    assert two.net.weight.item() == 0


def test_going_back_twice_leads_to_the_same_state_at_a_quarter_of_the_rate(guard):
    one = guard()
    walk(one, "liver", 0.5)
    for scale in (0.5, 0.25):
        one.go_back()
        assert (one.net.weight.item(), one.scale) == (0, scale)
        walk(one, "liver", 0.5, 0.5)  # moves the weight in place: the copy must not go with it


def test_a_guard_that_was_saved_decides_as_one_that_was_not(guard, tmp_path):
    losses = [*[0.4, 0.6] * LEARNT_AFTER, 9.0, 9.0]
    one, two = guard(), guard()
    walk(one, "liver", *losses)
    walk(two, "liver", *losses)
    torch.save(two.state(), tmp_path / "state")
    three = guard()
    three.walked = two.walked
    three.restore(torch.load(tmp_path / "state", weights_only=True))
    for more in (0.5, 9.0, 9.0, 9.0):
        assert walk(three, "liver", more) == walk(one, "liver", more)
    assert three.go_back() == one.go_back()
    assert three.state()["levels"] == one.state()["levels"]


@pytest.fixture
def failing(monkeypatch):
    """failing(step, ...): at these calls from now on the loss is not a number."""
    supervised = loop.supervised

    def at(*steps, value=NAN):
        calls = []

        def spoilt(*arguments):
            loss = supervised(*arguments)
            calls.append(loss)
            return loss * value if len(calls) - 1 in steps else loss

        monkeypatch.setattr(loop, "supervised", spoilt)

    return at


def rows_of(run, kind):
    return [row for row in History(run.folder).rows() if row["kind"] == kind]


def test_a_skipped_step_moves_nothing_and_is_said(
    make_run, watcher, weights_of, no_pictures, failing
):
    net, run = make_run({"liver": 2}, steps=4)
    failing(2)
    heard = watcher(net=net)
    train(net, run, heard, resume=False)
    assert len(heard.losses) == 3
    assert len(heard.lines) == 1
    assert heard.lines[0].startswith("step 2 skipped: loss or gradient of liver was nan (case")
    assert [(row["step"], row["loss"]) for row in rows_of(run, "skipped")] == [(2, None)]
    assert [row["step"] for row in rows_of(run, "train")] == [0, 1, 3]


def test_a_step_whose_gradient_is_no_number_moves_nothing(
    make_run, watcher, weights_of, no_pictures, monkeypatch
):
    net, run = make_run({"liver": 2}, steps=1)
    before = weights_of(net)
    real = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(loop.nn.utils, "clip_grad_norm_", lambda *a: real(*a) * math.inf)
    with pytest.raises(TrainingError, match="no step of liver could be learnt from"):
        train(net, run, watcher(), resume=False)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights_of(net).items())


def test_after_three_the_last_good_state_is_restored_and_the_rate_halved(
    make_run, watcher, no_pictures, failing
):
    net, run = make_run({"liver": 2}, steps=9, warmup_steps=0, decay_power=1e-9)
    failing(4, 5, 6)
    heard = watcher(net=net)
    train(net, run, heard, resume=False)
    assert "weights and optimiser of step 0 restored, learning rate now × 0.5" in heard.lines[-1]
    assert [(row["step"], row["to_step"], row["scale"]) for row in rows_of(run, "returned")] == [
        (6, 0, 0.5)
    ]
    rates = [row["learning_rate"] for row in rows_of(run, "train")]
    assert rates[:4] == pytest.approx([run.spec.learning_rate] * 4)
    assert rates[4:] == pytest.approx([run.spec.learning_rate / 2] * 2)


def test_an_exploding_run_comes_to_rest_and_learns_on(
    make_run, watcher, no_pictures, failing, monkeypatch
):
    monkeypatch.setattr(guarding, "LEARNT_AFTER", 4)
    net, run = make_run({"liver": 2}, steps=9)
    failing(5, 6, 7, value=1e6)
    heard = watcher()
    train(net, run, heard, resume=False)
    assert len(heard.losses) == 6
    assert max(heard.losses) < 5
    assert [row["step"] for row in rows_of(run, "returned")] == [7]


def test_a_run_that_cannot_be_saved_ends_with_the_cases_and_the_mend(
    make_run, watcher, no_pictures
):
    label = np.zeros((8, 8, 8), np.int16)
    broken = PreparedCase("broken", np.full((1, 8, 8, 8), NAN, np.float32), label, {})
    net, run = make_run({"liver": 2}, cases=[broken], steps=99)
    heard = watcher()
    with pytest.raises(TrainingError) as error:
        train(net, run, heard, resume=False)
    said = str(error.value)
    assert "loss or gradient of liver was nan (broken) at step 14, after 4 returns" in said
    assert "another --seed" in said
    assert "\n" not in said
    assert all(weight.isfinite().all() for weight in net.parameters())


def test_exact_resume_holds_through_skipped_steps_and_a_return(
    make_run, watcher, weights_of, no_pictures, failing, identical
):
    bad = (1, 3, 4, 5)
    failing(*bad)
    whole, run = make_run({"liver": 2}, steps=8)
    train(whole, run, watcher(), resume=False)
    for stop in (3, 7):  # between two bad steps; after the return
        net, run = make_run({"liver": 2}, steps=8)
        failing(*bad)
        with pytest.raises(KeyboardInterrupt):
            train(net, run, watcher(stop_after=stop), resume=False)
        net, run = make_run({"liver": 2}, steps=8)
        failing(*(step - stop for step in bad))
        train(net, run, watcher(), resume=True)
        assert identical(weights_of(net), weights_of(whole)), stop
