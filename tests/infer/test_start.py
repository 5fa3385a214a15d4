"""A case is begun quickly: nothing is imported that it does not need (counted in modules)."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from u2net3d import store
from u2net3d.models.network import BankShape
from u2net3d.models.universal import UniversalNet
from u2net3d.spec import PRESETS

PROGRAM = """
import sys
from u2net3d.cli.app import run

watch, *arguments = sys.argv[1:]
code = run(arguments)
print("loaded:", *sorted(set(watch.split()) & set(sys.modules)))
sys.exit(code)
"""
COMPILERS = "torch._dynamo torch._inductor sympy"
OTHERS = "monai nnunetv2 SimpleITK matplotlib rich"


def loaded(*arguments, watch, code=0):
    """Which modules of `watch` a command imports that ends with this code."""
    command = [sys.executable, "-c", PROGRAM, watch, *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
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


def test_a_wrong_word_is_said_before_torch_is_loaded(folder, tmp_path, picture, write):
    image = write(tmp_path / "a.nii.gz", picture())
    for changed in (("--domain", "kidney"), ("-i", tmp_path / "gone.nii.gz")):
        said = {"-i": image, "-o": tmp_path / "b.nii.gz", "--domain": "liver", "--model": folder}
        words = [word for pair in {**said, changed[0]: changed[1]}.items() for word in pair]
        assert loaded("predict", *words, watch="torch", code=2) == []
