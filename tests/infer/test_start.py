"""A case is begun quickly: nothing is imported that it does not need (counted in modules)."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from u2net3d import store
from u2net3d.infer.openvino_engine import installed
from u2net3d.models import network
from u2net3d.models.network import BankShape
from u2net3d.models.universal import UniversalNet
from u2net3d.spec import PRESETS

PROGRAM = """
import sys
from u2net3d.cli import main

watch, *sys.argv[1:] = sys.argv[1:]
try:
    main()
except SystemExit as stop:
    code = stop.code
print("loaded:", *sorted({name for name in watch.split() if sys.modules.get(name)}))
sys.exit(code)
"""
COMPILERS = "torch._dynamo torch._inductor sympy"
OTHERS = "monai nnunetv2 SimpleITK matplotlib rich"


def loaded(*arguments, watch, code=0, cache=None):
    """Which modules of `watch` a command imports that ends with this code.

    cache: the folder of caches; None for the user's own.
    """
    command = [sys.executable, "-c", PROGRAM, watch, *map(str, arguments)]
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)} if cache else None
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == code, ran.stderr
    return ran.stdout.rpartition("loaded:")[2].split()


@pytest.fixture(scope="module")
def preset_model(tmp_path_factory, model):
    """A model of the default preset, whose heads give several voxels at once."""
    folder, design = tmp_path_factory.mktemp("preset"), PRESETS["base"]
    spec = design.model_copy(update={"base_channels": 2, "stages": 2})
    torch.manual_seed(0)
    net = UniversalNet.of(spec)
    net.add_bank("liver", BankShape.of(model.spec("liver")))
    store.save_model(folder, net, spec, {"liver": model.spec("liver")}, {})
    return folder


def test_a_prediction_loads_no_compiler_and_nothing_that_it_does_not_use(
    preset_model, tmp_path, picture, write
):
    image = write(tmp_path / "a.nii.gz", picture())
    words = ("predict", "-i", image, "-o", tmp_path / "b.nii.gz", "--domain", "liver")
    found = loaded(*words, "--model", preset_model, watch=f"torch {COMPILERS} {OTHERS}")
    assert found == ["torch"]


@pytest.mark.skipif(installed() is None, reason="openvino is not installed")
def test_a_prediction_by_openvino_with_a_full_cache_loads_no_torch(
    preset_model, tmp_path, picture, write
):
    image = write(tmp_path / "a.nii.gz", picture())  # oblique: its voxels are resampled
    words = ("predict", "-i", image, "--domain", "liver", "--model", preset_model)
    words += ("--device", "cpu", "--engine", "openvino")
    cache, others = (
        tmp_path / "cache",
        "scipy.ndimage safetensors openvino.tools.ovc openvino_telemetry",
    )
    watch = f"torch openvino {others} {COMPILERS} {OTHERS}"
    first = loaded(*words, "-o", tmp_path / "b.nii.gz", watch="torch", cache=cache)
    again = loaded(*words, "-o", tmp_path / "c.nii.gz", watch=watch, cache=cache)
    assert (first, again) == (["torch"], ["openvino"])
    assert (tmp_path / "b.nii.gz").read_bytes() == (tmp_path / "c.nii.gz").read_bytes()
    for name in "bc":
        said = json.loads((tmp_path / f"{name}.json").read_text())
        assert (said["engine"], set(said["versions"])) == ("openvino", {"u2net3d", "openvino"})


@pytest.mark.skipif(installed() is None, reason="openvino is not installed")
def test_the_command_line_traces_other_families_for_openvino_and_reports_nothing(
    model, tmp_path, picture, write
):
    image, spec = write(tmp_path / "a.nii.gz", picture()), PRESETS["unet"]
    spec = spec.model_copy(update={"base_channels": 2, "stages": 2})
    torch.manual_seed(0)
    net = network(spec)
    net.add_bank("liver", BankShape.of(model.spec("liver")))
    store.save_model(tmp_path / "model", net, spec, {"liver": model.spec("liver")}, {})
    words = ("predict", "-i", image, "-o", tmp_path / "b.nii.gz", "--domain", "liver")
    words += ("--model", tmp_path / "model", "--device", "cpu", "--engine", "openvino")
    watch, cache = "openvino.tools.ovc openvino_telemetry", tmp_path / "cache"
    assert loaded(*words, watch=watch, cache=cache) == ["openvino.tools.ovc"]
    assert json.loads((tmp_path / "b.json").read_text())["engine"] == "openvino"


def test_a_wrong_word_is_said_before_torch_is_loaded(folder, tmp_path, picture, write):
    image = write(tmp_path / "a.nii.gz", picture())
    for changed in (("--domain", "kidney"), ("-i", tmp_path / "gone.nii.gz")):
        said = {"-i": image, "-o": tmp_path / "b.nii.gz", "--domain": "liver", "--model": folder}
        words = [word for pair in {**said, changed[0]: changed[1]}.items() for word in pair]
        assert loaded("predict", *words, watch="torch", code=2) == []
