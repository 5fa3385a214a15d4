"""Changes of the training for one run: what they change, and that it is over with the run."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from u2net3d.losses import dice_ce
from u2net3d.patches import augment
from u2net3d.spec import DomainSpec, Plan, ZScoreNormalisation
from u2net3d.train import loop


class Loader:
    """Batches of a domain, without images."""

    def __init__(self, name, cases):
        self.spec, self.cases = SimpleNamespace(name=name), range(cases)

    def batch(self, step):
        return SimpleNamespace(domain=self.spec.name, number=step)


def test_by_size_three_cases_have_three_turns_for_one_of_a_single_case():
    from recipe_trials import by_size

    with by_size():
        batches = list(loop.round_robin([Loader("a", 3), Loader("b", 1)], 0, 8))
    order = [f"{batch.domain}{batch.number}" for batch in batches]
    assert order == ["a0", "a1", "b0", "a2", "a3", "a4", "b1", "a5"]


def test_by_loss_domains_take_turns_until_every_one_was_heard_and_then_the_worse_has_more(
    monkeypatch,
):
    from recipe_trials import by_loss

    losses = {"a": -0.9, "b": -0.7}  # 0.1 and 0.3 above the least
    monkeypatch.setattr(loop, "_learn", lambda _net, _by, batch: (losses[batch.domain], True))
    order = []
    with by_loss():
        for batch in loop.round_robin([Loader("a", 5), Loader("b", 5)], 0, 8):
            order.append(batch.domain)
            assert loop._learn(None, None, batch) == (losses[batch.domain], True)
    assert order[:2] == ["a", "b"]
    assert sorted(order[2:6]) == ["a", "b", "b", "b"]


def test_without_deep_supervision_the_coarse_levels_do_not_count():
    from recipe_trials import finest_level_alone

    torch.manual_seed(0)
    target = torch.randint(2, (1, 4, 4, 4))
    outputs = [torch.randn(1, 2, n, n, n) for n in (4, 2)]
    with finest_level_alone():
        found = loop.supervised(dice_ce, outputs, target, 0.5)
    assert found.item() == dice_ce(outputs[0], target, 0.5).item()
    assert loop.supervised(dice_ce, outputs, target, 0.5).item() != found.item()


@pytest.mark.parametrize("factor", [0, 2])
def test_patches_are_changed_so_many_times_as_often_and_reflected_as_before(factor):
    from recipe_trials import augmented

    plan = Plan(
        spacing_mm=(1, 1, 1),
        normalisation=(ZScoreNormalisation(),),
        patch_size=(8, 10, 12),
        batch_size=3,
        strides=((1, 1, 1), (2, 2, 2)),
        kernels=((3, 3, 3), (3, 3, 3)),
    )
    spec = DomainSpec(name="a", channels=("t1",), labels=("background", "left"), plan=plan)

    def shares():
        rng = np.random.default_rng(0)
        drawn = [augment.draw(rng, spec) for _ in range(4000)]
        turned = np.mean([any(each.spatial.turn_rad) for each in drawn])
        return turned, np.mean([0 in each.mirror for each in drawn])

    with augmented(factor)():
        assert shares() == pytest.approx((factor * 0.2, 0.5), abs=0.03)
    assert shares() == pytest.approx((0.2, 0.5), abs=0.03)


def test_what_a_step_costs_counts_the_larger_set_more_often_by_size(monkeypatch):
    import compare_recipes as module

    cases = {"a": 3, "b": 1}
    monkeypatch.setattr(module, "split", lambda a, _: SimpleNamespace(training=range(cases[a])))
    monkeypatch.setattr(module, "planned_of", lambda *_: [1.0, 2.0])  # what a step of each takes
    monkeypatch.setattr(module, "_one_step", lambda spec, _: spec)
    found = module.step_seconds(["a", "b"], ["learning rate 2e-2", "2e-2 by size"])
    assert found == {"learning rate 2e-2": 1.5, "2e-2 by size": 1.25}


def test_a_table_holds_one_budget_and_a_mean_over_its_seeds(capsys):
    import compare_recipes as module

    def row(seed, budget_s, dice):
        said = {"step_s": 0.5, "steps": 4, "weights": 9, "labels": {}}
        return module.Row(
            domain="a", variant="base", seed=seed, budget_s=budget_s, dice=dice, **said
        )

    module.report([row(1, 600, 0.5), row(0, 600, 0.75), row(0, 100, 0.25)])
    said = capsys.readouterr().out
    assert "0.625 (0: 0.750, 1: 0.500)" in said
    assert "0.250 (0: 0.250)" in said
    assert said.index("100 s of processor") < said.index("0.250 (") < said.index("600 s of")
