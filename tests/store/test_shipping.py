"""The model that ships: in half precision without a loss, copied whole, and never changed."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import torch

from u2net3d import files, store
from u2net3d.errors import ModelError, UsageError
from u2net3d.store import domains, ledger, shipping, weights
from u2net3d.store.weights import HALF


def rounded(folder):
    """(network, model, specs) of a folder with all its numbers rounded to half precision."""
    net, model, specs = store.load(folder)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(weight.half())
    return net, model, specs


@pytest.fixture
def ships(tmp_path, folder, monkeypatch):
    """The model of liver and heart as one that ships, with a licence; works in a new folder."""
    place = tmp_path / "package" / "weights"
    store.save_model(place, *rounded(folder), {"liver": {"steps": 3}}, half=True)
    (place / "NOTICE").write_text("licences\n")
    monkeypatch.setattr(shipping, "SHIPPED", place)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return place


def test_files_of_half_precision_give_the_same_float32_numbers_and_trunk_id(folder, tmp_path):
    net, model, specs = rounded(folder)
    whole = store.save_model(tmp_path / "whole", net, model, specs, {})
    half = store.save_model(tmp_path / "half", net, model, specs, {}, half=True)
    assert half.trunk_id == whole.trunk_id
    assert half.trunk.sha256 != whole.trunk.sha256
    copy, _, _ = store.load(tmp_path / "half")
    for name, tensor in net.state_dict().items():
        assert copy.state_dict()[name].dtype == torch.float32
        assert torch.equal(copy.state_dict()[name], tensor)
    assert store.verify(tmp_path / "half") == []
    for file in ("trunk.safetensors", "domains/liver.safetensors"):
        tensors = sum(
            t.numel() for t in (copy.trunk if "trunk" in file else copy.bank("liver")).parameters()
        )
        saved = (tmp_path / "whole" / file).stat().st_size - (
            tmp_path / "half" / file
        ).stat().st_size
        assert saved > 1.5 * tensors  # two bytes a number, less what the headers differ by


def test_a_half_file_of_another_number_is_not_the_trunk_that_it_names(folder, tmp_path):
    net, model, _ = rounded(folder)
    manifest = store.save_model(tmp_path / "half", net, model, {}, {}, half=True)
    tensors = weights.state(net.trunk)
    next(iter(tensors.values())).view(-1)[0] += 1
    said = {"format": "u2net3d-trunk", "version": 1, "trunk_id": manifest.trunk_id}
    path = tmp_path / "half" / "trunk.safetensors"
    path.write_bytes(weights.encode({n: t.half() for n, t in tensors.items()}, said))
    with pytest.raises(ModelError, match="its weights are not trunk"):
        weights.read_trunk(path, files.sha256_file(path))


def test_numbers_that_half_precision_does_not_hold_are_refused(folder, tmp_path):
    net, model, specs = store.load(folder)
    with pytest.raises(ModelError, match="not whole in half precision"):
        store.save_model(tmp_path / "half", net, model, specs, {}, half=True)
    assert not (tmp_path / "half").exists()


def test_a_bank_of_half_precision_says_so_on_its_card(ships):
    said = store.read_domains(ships)["liver"].said
    assert said.card == {HALF: {}, "steps": 3}


def test_a_model_that_is_there_wins_over_the_one_that_ships(ships, monkeypatch):
    assert store.default_model() == store.shipped() == ships
    Path("model").mkdir()
    assert store.default_model() == Path("model")
    Path("model").rmdir()
    Path("model").symlink_to("nowhere")
    assert store.default_model() == Path("model")
    Path("model").unlink()
    monkeypatch.setattr(shipping, "SHIPPED", ships / "none")
    assert store.shipped() is None
    assert store.default_model() == Path("model")


def test_nothing_changes_the_model_that_ships(ships, tmp_path, contents, save_domain):
    exported = tmp_path / "liver.safetensors"
    shipping.copy_shipped(ships, Path("model"))
    domains.export(Path("model"), "liver", exported)
    before = contents(ships)
    net, model, specs = store.load(ships)
    for change in (
        lambda: domains.remove(ships, "liver"),
        lambda: domains.rename(ships, "liver", "other"),
        lambda: domains.rollback(ships, "liver"),
        lambda: domains.export(ships, "liver", exported),
        lambda: domains.import_file(ships, exported, "other"),
        lambda: save_domain(ships, "spleen"),
        lambda: store.save_model(ships, net, model, specs, {}),
        lambda: store.tidy(ships),
        lambda: store.save_model(ships / "fold0", net, model, specs, {}),
    ):
        with pytest.raises(UsageError, match="is never changed"):
            change()
    assert contents(ships) == before


def test_a_copy_is_whole_with_its_licences_and_can_be_changed(
    ships, tmp_path, contents, save_domain
):
    for path in ships.rglob("*"):  # as some installations leave it
        path.chmod(0o555 if path.is_dir() else 0o444)
    model = tmp_path / "here" / "model"
    shipping.copy_shipped(ships, model)
    assert contents(model) == contents(ships)
    assert (model / "NOTICE").is_file()
    assert all(path.stat().st_mode & stat.S_IWUSR for path in [model, *model.rglob("*")])
    save_domain(model, "spleen")
    assert store.verify(model) == []
    assert [line.event for line in ledger.read(model).lines] == ["train", "add"]
    assert store.trained_on(model) == ("heart", "liver")


def test_a_copy_goes_over_nothing(ships):
    Path("model").mkdir()
    (Path("model") / "mine").touch()
    with pytest.raises(UsageError, match="was made meanwhile"):
        shipping.copy_shipped(ships, Path("model"))
    assert [path.as_posix() for path in Path().rglob("*")] == ["model", "model/mine"]


def test_a_copy_that_is_cut_off_leaves_nothing(ships, monkeypatch):
    write, left = files.write_bytes, [2]

    def full(path, content):
        left[0] -= 1
        if left[0] < 0:
            raise OSError("the disk is full")
        write(path, content)

    monkeypatch.setattr(files, "write_bytes", full)
    with pytest.raises(OSError, match="the disk is full"):
        shipping.copy_shipped(ships, Path("model"))
    assert [*Path().iterdir()] == []


def test_the_ledger_says_what_a_trunk_and_a_file_were_trained_on(folder, save_domain):
    assert store.trained_on(folder) == ("heart", "liver")
    assert store.data_sha256(folder, "liver") is None
    save_domain(folder, "spleen", data_sha256="abc")
    assert store.data_sha256(folder, "spleen") == "abc"
    save_domain(folder, "spleen", seed=2, data_sha256="def")
    assert store.data_sha256(folder, "spleen") == "def"
    domains.rollback(folder, "spleen")
    assert store.data_sha256(folder, "spleen") == "abc"
    assert store.trained_on(folder) == ("heart", "liver")
    (folder / "ledger.jsonl").unlink()
    assert store.trained_on(folder) is None
