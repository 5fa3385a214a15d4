"""OpenVINO answers as torch does, is believed only then, and needs no torch to start again."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from u2net3d.errors import UsageError
from u2net3d.infer import engines as engines_module
from u2net3d.infer import openvino_engine
from u2net3d.infer.engine import middle_tile, torch_engine
from u2net3d.infer.engines import Engines, choose_engine, difference, drawn_patch
from u2net3d.infer.predict import device_name, load
from u2net3d.models import FAMILIES
from u2net3d.models import network as a_network
from u2net3d.models.network import BankShape
from u2net3d.models.universal import UniversalNet
from u2net3d.spec import PRESETS, DomainSpec, ModelSpec, Plan, ZScoreNormalisation

needs_openvino = pytest.mark.skipif(
    openvino_engine.installed() is None, reason="needs openvino: pip install u2net3d[cpu]"
)
UNIVERSAL = [name for name, model in PRESETS.items() if model.family == "universal"]
WEIGHTS = ("0" * 64, "1" * 64)  # hashes of a trunk and of a domain file
CUBES = (((1, 1, 1), (2, 2, 2), (2, 2, 2)), ((3, 3, 3), (3, 3, 3), (3, 3, 3)))
FLAT = (((1, 1, 1), (1, 2, 2), (2, 2, 1)), ((1, 3, 3), (1, 3, 3), (3, 3, 3)))


def spec_of(strides, kernels, patch, channels=1, classes=3):
    plan = Plan(
        spacing_mm=(1, 1, 1),
        normalisation=(ZScoreNormalisation(),) * channels,
        patch_size=patch,
        batch_size=1,
        strides=strides,
        kernels=kernels,
    )
    return DomainSpec(
        name="liver",
        channels=tuple(f"channel {i}" for i in range(channels)),
        labels=tuple(f"label {i}" for i in range(classes)),
        plan=plan,
    )


def network(preset, spec, seed=0):
    """Every weight drawn, norms and biases too, so that none of them can be left out unseen."""
    torch.manual_seed(seed)
    net = UniversalNet.of(PRESETS[preset].model_copy(update={"stages": 3}))
    net.add_bank("liver", BankShape.of(spec))
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    return net.eval()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "engines"


@pytest.fixture
def made(cache):
    """made(net, spec): engines of a new process, as it were."""

    def make(net, spec, where=cache):
        found = Engines("openvino", "cpu", lambda: net, where)
        return found, found.name(spec, *WEIGHTS)

    return make


@needs_openvino
@pytest.mark.parametrize("preset", UNIVERSAL)
@pytest.mark.parametrize(("channels", "classes"), [(1, 2), (3, 7)])
@pytest.mark.parametrize(
    ("strides", "kernels", "patch"),
    [(*CUBES, (16, 16, 16)), (*CUBES, (13, 9, 11)), (*FLAT, (6, 16, 12)), (*FLAT, (5, 15, 9))],
)
def test_it_gives_the_logits_of_torch(preset, channels, classes, strides, kernels, patch, made):
    spec = spec_of(strides, kernels, patch, channels, classes)
    net = network(preset, spec)
    engines, name = made(net, spec, where=None)
    assert (name, engines.note(spec)) == ("openvino", None)
    x = np.random.default_rng(1).normal(size=(1, channels, *patch)).astype(np.float32)
    expected = torch_engine(net, "liver", "cpu")(x)
    found = engines.run(spec, *WEIGHTS, x)(x)
    assert found.shape == (1, classes, *patch)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * np.abs(expected).max())


@needs_openvino
def test_what_it_gave_is_not_written_over_by_the_next_patch(made):
    spec = spec_of(*CUBES, (8, 8, 8))
    engines, _ = made(network("base", spec), spec)
    x = drawn_patch(spec)
    run = engines.run(spec, *WEIGHTS, x)
    first = run(x)
    before = first.copy()
    run(-x)
    np.testing.assert_array_equal(first, before)


@needs_openvino
def test_each_of_several_threads_gets_its_own_answer(made):
    spec = spec_of(*CUBES, (24, 24, 24))
    engines, _ = made(network("base", spec), spec)
    rng = np.random.default_rng(0)
    patches = [rng.normal(size=(1, 1, 24, 24, 24)).astype(np.float32) for _ in range(4)]
    run = engines.run(spec, *WEIGHTS, patches[0])
    expected = [run(patch) for patch in patches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, patches * 8))
    for i, logits in enumerate(found):
        np.testing.assert_array_equal(logits, expected[i % 4])


@needs_openvino
def test_a_tile_of_one_value_proves_nothing_and_refuses_nothing(made, cache):
    spec = spec_of(*CUBES, (16, 16, 16))
    engines, _ = made(network("base", spec), spec)
    engines.run(spec, *WEIGHTS, np.zeros((1, 1, 16, 16, 16), np.float32))
    (meta,) = cache.glob("*/meta.json")
    said = json.loads(meta.read_text())
    assert (said["refused"], said["proven"]) == (None, False)
    engines.run(spec, *WEIGHTS, drawn_patch(spec))
    assert json.loads(meta.read_text())["proven"] is True


def test_the_tile_that_judges_is_one_with_contrast():
    image = np.zeros((1, 8, 8, 24), np.float32)
    image[..., -1] = 1
    assert middle_tile(image, spec_of(*CUBES, (8, 8, 8)).plan).max() == 1
    assert middle_tile(image[..., :-1], spec_of(*CUBES, (8, 8, 8)).plan).max() == 0


@needs_openvino
@pytest.mark.parametrize("where", ["silenced", "compiled"])
def test_an_openvino_that_does_not_work_leaves_it_to_torch(made, monkeypatch, where):
    def broken(*_):
        raise ImportError("libtbb.so.12: cannot open shared object file")

    monkeypatch.setattr(openvino_engine, where, broken)
    spec = spec_of(*CUBES, (8, 8, 8))
    engines, name = made(network("base", spec), spec)
    assert name == "torch"
    assert "libtbb.so.12" in engines.note(spec)


@needs_openvino
def test_the_second_start_takes_it_from_the_cache_without_the_network(made, cache):
    spec = spec_of(*CUBES, (8, 8, 8))
    engines, _ = made(network("base", spec), spec)
    x = drawn_patch(spec)
    expected = engines.run(spec, *WEIGHTS, x)(x)
    again = Engines("openvino", "cpu", lambda: pytest.fail("the network was loaded"), cache)
    np.testing.assert_array_equal(again.run(spec, *WEIGHTS, x)(x), expected)


@needs_openvino
@pytest.mark.parametrize("file", ["model.bin", "meta.json"])
@pytest.mark.parametrize("harm", ["torn", "altered", "gone"])
def test_a_damaged_entry_is_made_again(made, cache, file, harm):
    spec = spec_of(*CUBES, (8, 8, 8))
    net, x = network("base", spec), drawn_patch(spec)
    engines, _ = made(net, spec)
    expected = engines.run(spec, *WEIGHTS, x)(x)
    (path,) = cache.glob(f"*/{file}")
    content = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        middle = len(content) // 2
        altered = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes(content[:middle] if harm == "torn" else altered)
    again, name = made(net, spec)
    np.testing.assert_array_equal(again.run(spec, *WEIGHTS, x)(x), expected)
    assert name == "openvino"
    assert json.loads((path.parent / "meta.json").read_text())["proven"] is True
    assert [entry.name for entry in cache.iterdir()] == [path.parent.name]  # no half entry is left


@needs_openvino
def test_other_weights_and_other_patches_are_other_entries():
    spec, other = spec_of(*CUBES, (8, 8, 8)), spec_of(*CUBES, (8, 8, 16))
    keys = {
        openvino_engine.key_of("a", "b", spec), openvino_engine.key_of("x", "b", spec),
        openvino_engine.key_of("a", "x", spec), openvino_engine.key_of("a", "b", other),
    }  # fmt: skip
    assert len(keys) == 4


@needs_openvino
def test_without_a_cache_that_can_be_written_it_works_in_memory(made, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    spec = spec_of(*CUBES, (8, 8, 8))
    assert made(network("base", spec), spec, where=blocked / "engines")[1] == "openvino"


@needs_openvino
def test_a_network_that_answers_otherwise_is_refused_on_the_drawn_patch(made, monkeypatch):
    spec = spec_of(*CUBES, (8, 8, 8))
    net, other = network("base", spec), network("base", spec, seed=1)
    build = engines_module.build

    def wrong(trunk, bank, design, spec):
        return build(trunk, {n: w.numpy() for n, w in other.bank("liver").state_dict().items()},
                     design, spec)  # fmt: skip

    monkeypatch.setattr(engines_module, "build", wrong)
    engines, name = made(net, spec)
    assert name == "torch"
    assert engines.note(spec).startswith("torch answers, not openvino: on a drawn patch they agree")
    x = drawn_patch(spec)
    np.testing.assert_array_equal(
        engines.run(spec, *WEIGHTS, x)(x), torch_engine(net, "liver", "cpu")(x)
    )
    again, name = made(net, spec)  # what was refused stays refused, and is said again
    assert (name, again.note(spec)) == ("torch", engines.note(spec))


@needs_openvino
def test_one_that_fails_on_the_image_is_refused_from_then_on(made, monkeypatch):
    spec = spec_of(*CUBES, (8, 8, 8))
    net, x = network("base", spec), drawn_patch(spec)
    engines, name = made(net, spec)
    assert name == "openvino"
    made_of = engines._made["liver", None]
    wrong = engines_module.replace(made_of, run=lambda patch: -made_of.run(patch))
    engines._made["liver", None] = wrong
    np.testing.assert_array_equal(
        engines.run(spec, *WEIGHTS, x)(x), torch_engine(net, "liver", "cpu")(x)
    )
    assert "on an image they agree" in engines.note(spec)
    assert made(net, spec)[1] == "torch"


def test_a_difference_is_seen_in_labels_and_in_logits():
    a = np.zeros((1, 2, 1, 1, 20_000), np.float32)
    a[:, 0] = 1
    one, three = a.copy(), a.copy()
    one[0, 1, 0, 0, 0] = 1.001  # 1 voxel of 20,000: 99.995 %
    three[0, 1, 0, 0, :3] = 1.001  # 3 of them: 99.985 %
    assert difference("x", a, a) is None
    assert "1.0e+00" in difference("x", one, a)  # labels agree, the logit does not
    assert "99.985%" in difference("x", three, a)
    assert difference("x", a * np.float32(1.002), a) is None
    assert difference("x", a * np.float32(1.004), a) is not None


def test_the_middle_tile_is_mirrored_where_the_image_is_smaller():
    def tile(x, width, margin=0):
        plan = spec_of(*CUBES, (1, 1, width)).plan
        return middle_tile(x, plan.model_copy(update={"margin": (0, 0, margin)})).flatten().tolist()

    x = np.arange(5, dtype=np.float32).reshape(1, 1, 1, 5)
    assert tile(x, 3) == [1, 2, 3]
    assert tile(x[..., :2], 4) == [1, 0, 1, 0]
    assert tile(x, 3, margin=2) == [1, 0, 1, 2, 3, 4, 3]


def test_the_engine_is_chosen_by_what_is_installed_alone(monkeypatch):
    monkeypatch.setattr(openvino_engine, "installed", lambda: "1.0")
    chosen = [
        choose_engine(name, device) for name in ("auto", "torch") for device in ("cpu", "cuda")
    ]
    assert chosen == ["openvino", "torch", "torch", "torch"]
    monkeypatch.setattr(openvino_engine, "installed", lambda: None)
    assert choose_engine("auto", "cpu") == "torch"
    with pytest.raises(
        UsageError, match=r"openvino is not installed — run `pip install u2net3d\[cpu\]`"
    ):
        choose_engine("openvino", "cpu")
    with pytest.raises(UsageError, match="'onnx' is no engine"):
        choose_engine("onnx", "cpu")


def test_openvino_on_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(openvino_engine, "installed", lambda: "1.0")
    with pytest.raises(UsageError, match="add --device cpu"):
        choose_engine("openvino", "cuda")
    assert device_name("cpu") == "cpu"


PROGRAM = """
import socket, sys

def refuse(*_arguments, **_named):
    raise AssertionError("a connection was opened")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import u2net3d
model = u2net3d.load(sys.argv[1], device="cpu", engine="openvino")
label = model.predict(sys.argv[2], domain="liver")
import numpy as np
print(model.engine("liver"), int(np.asarray(label.dataobj).sum()))
there = {name for name, module in sys.modules.items() if module}
print("loaded:", *sorted({"torch", "openvino_telemetry"} & there))
"""


@needs_openvino
def test_a_start_with_a_full_cache_imports_no_torch_and_sends_nothing(
    folder, picture, write, tmp_path
):
    image = write(tmp_path / "a.nii.gz", picture())
    model = load(folder, device="cpu", engine="openvino")
    label = np.asarray(model.predict(image, domain="liver").dataobj)
    command = [sys.executable, "-c", PROGRAM, str(folder), str(image)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert said.stdout.split("\n")[:2] == [f"openvino {int(label.sum())}", "loaded:"]


SIGNALLED = """
import gc, os, signal, sys
import numpy as np
from u2net3d.infer import openvino_engine
ov = openvino_engine.silenced()
from openvino import opset13 as ops

def made():
    x = ops.parameter([1, 2, 8, 8, 8], np.float32)
    return openvino_engine.compiled(ov.Model([ops.relu(x)], [x], "relu"))

patch = np.zeros((1, 2, 8, 8, 8), np.float32)
signal.signal(signal.SIGINT, lambda *_: print("handled"))
first = made(); first.infer(patch)
second = made(); second.infer(patch)
del first; gc.collect()
os.kill(os.getpid(), signal.SIGINT)
del second; gc.collect()
os.kill(os.getpid(), signal.SIGINT)
"""


@needs_openvino
def test_a_signal_is_handled_in_whatever_order_networks_go():
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", SIGNALLED],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.split()) == (0, ["handled", "handled"])


@needs_openvino
def test_every_level_has_an_engine_and_a_place_in_the_cache_of_its_own(cache):
    spec = spec_of(*CUBES, (8, 8, 8))
    torch.manual_seed(0)
    net = a_network(ModelSpec(family="unetpp", base_channels=2, stages=3))
    net.add_bank("liver", BankShape.of(spec))
    net.eval()
    engines, x = Engines("openvino", "cpu", lambda: net, cache), drawn_patch(spec)
    for level in (None, 1, 2, "mean"):
        assert engines.name(spec, *WEIGHTS, level) == "openvino"
        expected = torch_engine(net, "liver", "cpu", level)(x)
        found = engines.run(spec, *WEIGHTS, x, level)(x)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert len([entry for entry in cache.iterdir() if entry.is_dir()]) == 4


@needs_openvino
def test_a_network_without_padding_is_traced_with_its_margin():
    spec = spec_of(*CUBES, (8, 8, 8))
    model = ModelSpec(family="unet", base_channels=2, stages=3, options={"padded": False})
    margin = FAMILIES["unet"].margin(model, spec.plan)
    spec = spec.model_copy(update={"plan": spec.plan.model_copy(update={"margin": margin})})
    net = a_network(model)
    net.add_bank("liver", BankShape.of(spec))
    engines = Engines("openvino", "cpu", net.eval, None)
    assert (engines.name(spec, *WEIGHTS), engines.note(spec)) == ("openvino", None)
