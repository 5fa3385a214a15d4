"""Checkpoints of the official code: read as data, and they answer as there.

official.safetensors holds, for each adapter, the state dict of the official module (base 2, four
stages, num_pool_per_axis [1, 3, 3], two domains of 1 and 2 channels, 2 and 3 classes; random
weights that float16 holds exactly) and the logits of that module in float64, in `eval()`, of the
image that `image_of` draws. Made once by running models/u2net3d.py of
github.com/huangmozhilv/u2net_torch (commit c655840) with torch 2.13; the one change was a tuple for
nn.Upsample, which takes no list any more. It holds numbers alone, nothing of the code.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from u2net3d import store
from u2net3d.spec import DomainSpec, Plan, ZScoreNormalisation
from u2net3d.store.official import as_network, import_reference, read_official
from u2net3d.store.official_domains import official_domain

FIXTURE = Path(__file__).parents[1] / "models" / "official.safetensors"
ADAPTERS = ("separable", "series", "parallel")
STRIDES = ((1, 1, 1), (2, 2, 2), (1, 2, 2), (1, 2, 2))


def domain(name, channels, classes):
    plan = Plan(
        spacing_mm=(1, 1, 1),
        normalisation=(ZScoreNormalisation(),) * channels,
        patch_size=(4, 8, 8),
        batch_size=2,
        strides=STRIDES,
        kernels=((3, 3, 3),) * 4,
    )
    labels = ("background", *(f"label {k}" for k in range(1, classes)))
    names = tuple(f"channel {c}" for c in range(channels))
    return DomainSpec(name=name, channels=names, labels=labels, plan=plan)


SPECS = (domain("heart", 1, 2), domain("prostate", 2, 3))


def image_of(place):
    drawn = np.random.default_rng(place).standard_normal((1, place + 1, 4, 8, 8))
    return torch.from_numpy(drawn)


@pytest.fixture(scope="module")
def official():
    """official(adapter): the state dict and, of each domain, the logits."""
    held = load_file(FIXTURE)

    def of(adapter):
        own = {k.partition("/")[2]: v for k, v in held.items() if k.startswith(f"{adapter}/")}
        logits = [own.pop(f"logits.{place}") for place in (0, 1)]
        return {name: tensor.float() for name, tensor in own.items()}, logits

    return of


@pytest.fixture
def saved(tmp_path):
    """saved(content): a checkpoint file of it."""

    def save(content):
        torch.save(content, tmp_path / "official.pth")
        return tmp_path / "official.pth"

    return save


def largest_difference(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_it_answers_as_the_official_module(adapter, official, saved):
    state, logits = official(adapter)
    net = as_network(read_official(saved(state)), SPECS)
    for place, (spec, expected) in enumerate(zip(SPECS, logits, strict=True)):
        image = image_of(place)
        with torch.no_grad():
            single = net.float()(image.float(), spec.name)[0]
            double = net.double()(image, spec.name)[0]
        assert largest_difference(double, expected) <= 1e-9
        assert largest_difference(single, expected) <= 1e-4


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_model_folder_answers_so_too(adapter, official, saved, tmp_path):
    state, logits = official(adapter)
    manifest = import_reference(read_official(saved(state)), SPECS, tmp_path / "model")
    net, model, specs = store.load(tmp_path / "model")
    assert manifest.model.preset == model.preset == f"reference-{adapter}"
    assert (model.base_channels, model.stages) == (2, 4)
    assert specs == {spec.name: spec for spec in SPECS}
    assert store.verify(tmp_path / "model") == []
    with torch.no_grad():
        answer = net(image_of(1).float(), "prostate")[0]
    assert largest_difference(answer, logits[1]) <= 1e-4


def test_a_net_without_adapters_becomes_a_shared_one(official, saved):
    state, _ = official("parallel")
    plain = {name: tensor for name, tensor in state.items() if ".adapOps." not in name}
    found = read_official(saved(plain))
    assert found.adapter == "shared"
    assert as_network(found, SPECS).model.preset == "reference-shared"


def test_a_net_without_adapters_of_one_domain_is_an_independent_one(official, saved):
    state, _ = official("parallel")
    plain = {name: tensor for name, tensor in state.items() if ".adapOps." not in name}
    second = (".op.1.", "in_tr_list.1.", "out_tr_list.1.", "dSupers.0.1.", "dSupers.1.1.")
    alone = {name: tensor for name, tensor in plain.items() if not any(s in name for s in second)}
    shared, found = as_network(read_official(saved(plain)), SPECS), read_official(saved(alone))
    assert found.adapter == "independent"
    net = as_network(found, SPECS[:1])
    assert not list(net.trunk.parameters())
    image = image_of(0).float()
    with torch.no_grad():
        assert torch.equal(net(image, "heart")[0], shared(image, "heart")[0])


def test_a_state_dict_is_found_inside_of_what_was_saved_with_it(official, saved):
    state, _ = official("separable")
    parallel = {f"module.{name}": tensor for name, tensor in state.items()}
    content = {"epoch": 5, "model_state_dict": parallel, "trLoss_queue": [0.5]}
    found = read_official(saved(content))
    assert found.domains == ((1, 2), (2, 3))
    as_network(found, SPECS)


class Hostile:
    def __reduce__(self):
        return (Path("touched").touch, ())


def test_objects_are_refused_and_nothing_is_run(saved, refusal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refusal(read_official, saved({"model": Hostile()}))
    assert "nothing in it was run" in line
    assert not Path("touched").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "holds no state dict, or an empty one"),
        ([torch.ones(2)], "holds no state dict, or an empty one"),
        ({"a": 1.0}, "'a' is of type float"),
        ({"w": torch.ones(2).long()}, "'w' holds torch.int64"),
    ],
)
def test_what_is_no_state_dict_is_refused_for_what_it_is(content, said, saved, refusal):
    line = refusal(read_official, saved(content))
    assert said in line
    assert "save the `model_state_dict`" in line


def test_another_network_is_refused(saved, refusal):
    assert "another network" in refusal(read_official, saved({"weight": torch.ones(2)}))


def test_weights_that_are_no_numbers_are_refused(official, saved, refusal):
    state, _ = official("separable")
    state["out_tr_list.0.conv1.bias"].fill_(float("nan"))
    assert "'out_tr_list.0.conv1.bias' holds values that are no finite" in refusal(
        read_official, saved(state)
    )


def test_every_tensor_has_its_place(official, saved, refusal):
    state, _ = official("separable")
    kept = state.pop("up_blocks.1.op2.op.1.weight")
    line = refusal(as_network, read_official(saved(state)), SPECS)
    assert "up_blocks.1.op2.op.1.weight is missing" in line
    more = {**state, "up_blocks.1.op2.op.1.weight": kept, "up_blocks.1.op3.weight": kept}
    line = refusal(as_network, read_official(saved(more)), SPECS)
    assert "up_blocks.1.op3.weight has no place" in line


def test_domains_must_be_those_of_the_checkpoint(official, saved, refusal):
    found = read_official(saved(official("separable")[0]))
    assert "1 are named, the checkpoint holds 2" in refusal(as_network, found, SPECS[:1])
    line = refusal(as_network, found, SPECS[::-1])
    assert "prostate has 2 channels, 3 labels and 4 stages" in line
    assert "the checkpoint has 1, 2 and 4" in line


def test_the_domains_of_the_official_code_are_known():
    heart = official_domain("Task02_Heart", 6)
    # 80 x 192 x 128 voxels of 1.37 x 1.25 x 1.25 mm, in 128 voxels each
    assert heart.plan.spacing_mm == pytest.approx((0.85625, 1.875, 1.25))
    assert heart.plan.patch_size == (128, 128, 128)
    assert heart.plan.stages == 6
    sizes = [
        (len(spec.channels), len(spec.labels))
        for spec in (official_domain(name, 6) for name in ("liver", "hippocampus", "prostate"))
    ]
    assert sizes == [(1, 2), (1, 3), (2, 3)]


def test_an_independent_network_keeps_its_own_patch_spacing_and_halvings():
    prostate = official_domain("prostate", 6, independent=True)
    assert prostate.plan.patch_size == (20, 192, 192)
    assert prostate.plan.spacing_mm == (3.6, 0.625, 0.625)
    assert prostate.plan.strides == ((1, 1, 1), *[(2, 2, 2)] * 2, *[(1, 2, 2)] * 3)
    hippocampus = official_domain("hippocampus", 4, independent=True)
    assert hippocampus.plan.patch_size == (40, 56, 40)
    assert hippocampus.plan.strides == ((1, 1, 1), *[(2, 2, 2)] * 3)


def test_a_depth_that_no_independent_network_has_means_a_cube():
    hippocampus = official_domain("hippocampus", 6, independent=True)
    assert hippocampus.plan.patch_size == (128, 128, 128)


def test_another_domain_is_refused_by_name(refusal):
    assert "'kidney'" in refusal(official_domain, "kidney", 6)
