"""The main job on real volumes, where U2NET3D_TEST_DATA names a folder of MSD data sets."""

from __future__ import annotations

import math
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

import u2net3d
from u2net3d.io.dataset import find_dataset, list_domains, split
from u2net3d.models.network import BankShape
from u2net3d.models.universal import UniversalNet
from u2net3d.patches.loader import DomainLoader
from u2net3d.prep.cache import prepare_cases
from u2net3d.prep.plan import domain_spec
from u2net3d.spec import DEFAULT_PRESET, PRESETS, Budget, TrainSpec
from u2net3d.train import run as training
from u2net3d.train.loop import train
from u2net3d.train.roles import Learner, Run
from u2net3d.train.run import Request, train_model
from u2net3d.train.validate import judge

pytestmark = pytest.mark.real
CPU = torch.device("cpu")
STEPS = 100  # of both domains together; with batches of a quarter of the preset's they take seconds


class Listener:
    def __init__(self):
        self.losses = {}

    def stepped(self, _at, _share, domain, loss):
        self.losses[domain] = loss

    def validated(self, *_):
        pass

    def told(self, text):
        raise AssertionError(text)


def some(root, name, cases):
    """A data set of which only the first cases are used, so that a test takes seconds."""
    dataset = find_dataset(root, name)
    return replace(dataset, cases=dataset.cases[:cases])


@pytest.fixture(scope="module")
def trained(real_data, tmp_path_factory):
    """(model folder, data sets, result, Dice per domain of the untrained net)"""
    missing = {"hippocampus", "leftatrium"} - set(list_domains(real_data))
    if missing:
        pytest.skip(f"{real_data} holds no {' and no '.join(sorted(missing))}")
    datasets = (some(real_data, "hippocampus", 15), some(real_data, "leftatrium", 8))
    folder = tmp_path_factory.mktemp("real") / "model"
    spec = TrainSpec(steps=STEPS, validations=1, warmup_steps=4, learning_rate=1e-2)
    request = Request(folder, spec, CPU, None, False, False, "a test")
    untrained = {}
    with pytest.MonkeyPatch.context() as patch:
        fresh = training.fresh_net

        def judged(model, specs, seed):
            net = fresh(model, specs, seed)
            for data in datasets:
                held_out = split(data, spec.fold).validation
                score = judge(net, specs[data.domain], data, held_out, CPU)
                untrained[data.domain] = score.mean
            return net

        patch.setattr(training, "fresh_net", judged)
        quiet = (Listener(), lambda _: None, lambda *_: None)
        model = PRESETS[DEFAULT_PRESET].model_copy(update={"budget": Budget(voxels=120_000)})
        result, _ = train_model(datasets, model, request, *quiet)
    return folder, datasets, result, untrained


def test_every_data_set_there_takes_a_step_through_one_net(real_data, tmp_path):
    learners = []
    for name in list_domains(real_data):
        dataset = some(real_data, name, 4)
        cases = split(dataset, 0).training
        spec = domain_spec(dataset, cases, 6)
        loader = DomainLoader(spec, prepare_cases(dataset, cases, spec.plan, None), 0, 1 / 3)
        learners.append(Learner(spec, dataset, loader, ()))
    net = UniversalNet(4, max(learner.spec.plan.stages for learner in learners))
    for learner in learners:
        net.add_bank(learner.spec.name, BankShape.of(learner.spec))
    heard = Listener()
    budget = TrainSpec(steps=len(learners), validations=1)
    train(net, Run(budget, tuple(learners), tmp_path, "", CPU), heard, resume=False)
    assert set(heard.losses) == set(list_domains(real_data))
    assert all(math.isfinite(loss) for loss in heard.losses.values()), heard.losses
    assert all(weight.isfinite().all() for weight in net.parameters())


def test_a_short_training_beats_the_untrained_net(trained):
    _, _, result, untrained = trained
    for name, score in result.scores.items():
        assert score.mean > untrained[name] + 0.1, (name, score.mean, untrained)


def test_a_prediction_keeps_the_geometry_of_its_image(trained):
    folder, datasets, _, _ = trained
    model = u2net3d.load(folder, device="cpu")
    for dataset in datasets:
        path = dataset.cases[0].images[0]
        image, label = nib.load(path), model.predict(path, domain=dataset.domain)
        assert label.shape == image.shape[:3]
        np.testing.assert_array_equal(label.affine, image.affine)
        for code in ("qform_code", "sform_code"):
            assert label.header[code] == image.header[code]
        assert set(np.unique(label.dataobj)) <= set(range(len(dataset.labels)))
