"""Model folders of two channels and two stages, and a kill at any moment of a change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from u2net3d import files, store
from u2net3d.errors import U2Net3dError
from u2net3d.models.network import BankShape
from u2net3d.models.universal import UniversalNet
from u2net3d.spec import DomainSpec, ModelSpec, Plan, ZScoreNormalisation

MODEL = ModelSpec(base_channels=2, stages=2)


class Killed(BaseException):
    """The process ends here."""


def spec_of(name, channels=1, labels=("background", "organ")):
    plan = Plan(
        spacing_mm=(2.5, 1, 1),
        normalisation=(ZScoreNormalisation(),) * channels,
        patch_size=(8, 8, 8),
        batch_size=2,
        strides=((1, 1, 1), (2, 2, 2)),
        kernels=((1, 3, 3), (3, 3, 3)),
    )
    names = tuple(f"channel {i}" for i in range(channels))
    return DomainSpec(name=name, channels=names, labels=labels, plan=plan)


@pytest.fixture
def save_model():
    """save_model(folder, *names, seed=0): a model of these domains, weights drawn from the seed."""

    def save(folder, *names, seed=0):
        torch.manual_seed(seed)
        net = UniversalNet(MODEL.base_channels, MODEL.stages)
        specs = {name: spec_of(name) for name in names}
        for name, spec in specs.items():
            net.add_bank(name, BankShape.of(spec))
        card = {"validation_dice": {"organ": 0.9}}
        store.save_model(folder, net, MODEL, specs, dict.fromkeys(names, card))
        return folder

    return save


@pytest.fixture
def save_domain():
    """save_domain(folder, name, seed): a bank on the folder's trunk, drawn from the seed."""

    def save(folder, name, seed=1, data_sha256=None):
        net, _, _ = store.load(folder, [])
        torch.manual_seed(seed)
        spec = spec_of(name)
        net.add_bank(name, BankShape.of(spec))
        return store.save_domain(folder, net, spec, {}, data_sha256)

    return save


@pytest.fixture
def folder(tmp_path, save_model):
    """A model of liver and heart."""
    return save_model(tmp_path / "model", "liver", "heart")


def bytes_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def contents():
    """contents(folder): the bytes of every file by its place."""
    return bytes_of


@pytest.fixture
def changed():
    """changed(before, folder): places whose bytes differ from `before`, new and gone ones too."""

    def places(before, folder):
        after = bytes_of(folder)
        return {name for name in {*before, *after} if before.get(name) != after.get(name)}

    return places


@pytest.fixture
def loads():
    """loads(folder): the weights that the folder gives, trunk and every bank."""

    def weights(folder):
        net, _, specs = store.load(folder)
        tensors = {name: tensor.numpy().tobytes() for name, tensor in net.state_dict().items()}
        return specs, tensors

    return weights


@pytest.fixture
def refusal():
    """refusal(call, *args): the one line with which a call is refused."""

    def line(call, *args, **options):
        with pytest.raises(U2Net3dError) as caught:
            call(*args, **options)
        text = str(caught.value)
        assert "\n" not in text
        return text

    return line


@pytest.fixture
def killed_at(monkeypatch):
    """killed_at(n, call): runs call, ended before or after the n-th thing done on the disk.

    True where it was ended, False where it came to its own end.
    """

    def run(moment, call):
        left = [moment]

        def may_die():
            left[0] -= 1
            if left[0] < 0:
                raise Killed

        def mortal(real):
            def wrapped(*args, **options):
                may_die()
                result = real(*args, **options)
                may_die()
                return result

            return wrapped

        def torn(path, line, **options):
            may_die()
            left[0] -= 1
            if left[0] < 0:
                with path.open("ab") as handle:
                    handle.write(line.encode()[:20])
                raise Killed
            append_line(path, line, **options)
            may_die()

        append_line = files.append_line
        with monkeypatch.context() as patch:
            patch.setattr(files, "write_bytes", mortal(files.write_bytes))
            patch.setattr(files, "append_line", torn)
            patch.setattr(Path, "unlink", mortal(Path.unlink))
            patch.setattr(Path, "replace", mortal(Path.replace))
            try:
                call()
            except Killed:
                return True
        return False

    return run
