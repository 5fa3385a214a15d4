"""Weights are data: what is not exactly a whole weight file of ours is refused by name."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile

import pytest
import torch
from safetensors.torch import save

from u2net3d import store
from u2net3d.errors import ModelError
from u2net3d.models import units
from u2net3d.models.universal import UniversalNet
from u2net3d.store import domains
from u2net3d.store.weights import read_domain, read_said, state


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def parts(content):
    """Header and tensor bytes of a safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header, body):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def with_header(change):
    def make(content, _):
        header, body = parts(content)
        change(header)
        return joined(header, body)

    return make


def with_said(**said):
    def change(header):
        before = json.loads(header["__metadata__"]["u2net3d"])
        header["__metadata__"]["u2net3d"] = json.dumps({**before, **said})

    return with_header(change)


def with_tensors(change, metadata=True):
    """The same file with other tensors, and hashes that fit them: made on purpose."""

    def make(content, folder):
        said, tensors = read_domain(folder / "domains/liver.safetensors")
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        tensors = change(tensors) or tensors
        return said.encoded(tensors)

    return make


def torch_checkpoint(_, folder):
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, buffer)
    return buffer.getvalue()


def legacy_checkpoint(_, folder):
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def zipped(content, _):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("liver.safetensors", content)
    return buffer.getvalue()


def overlapping(header):
    one, two = [name for name in header if name.startswith("encoder")][:2]
    header[two]["data_offsets"] = header[one]["data_offsets"]


def beyond_the_end(header):
    last = max((n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"])
    header[last]["data_offsets"][1] += 4


def other_shape(header):
    header["stem.weight"]["shape"][0] += 1


def huge_shape(header):
    header["stem.weight"]["shape"] = [2**40, 2**40]


def negative_shape(header):
    header["stem.weight"]["shape"][0] = -2


def unknown_type(header):
    header["stem.weight"]["dtype"] = "PICKLE"


def integers(header):
    header["stem.weight"]["dtype"] = "I32"


def gap(content, _):
    header, body = parts(content)
    return joined(header, body + b"\0" * 8)


def twice(content, _):
    header, body = parts(content)
    text = json.dumps(header)
    text = text[:-1] + ', "__metadata__": ' + json.dumps(header["__metadata__"]) + "}"
    return struct.pack("<Q", len(text)) + text.encode() + body


def fill(value):
    def change(tensors):
        tensors["stem.weight"][0] = value

    return change


def to(dtype):
    return lambda tensors: {name: tensor.to(dtype) for name, tensor in tensors.items()}


BAD = {
    "empty": (lambda *_: b"", "no domain file"),
    "a pickle": (lambda _, folder: pickle.dumps(Trap(folder / "sprung")), "is a pickle"),
    "a pickle of protocol 0": (
        lambda _, folder: pickle.dumps(Trap(folder / "sprung"), protocol=0),
        "no domain file",
    ),
    "a torch checkpoint": (torch_checkpoint, "is a zip archive"),
    "an old torch checkpoint": (legacy_checkpoint, "is a pickle"),
    "a zip": (zipped, "is a zip archive"),
    "a gzip": (lambda content, _: b"\x1f\x8b\x08\0" + content, "is a gzip archive"),
    "cut short in the header": (lambda content, _: content[:100], "no domain file"),
    "cut short in the weights": (lambda content, _: content[:-10], "does not fit its bytes"),
    "without its last byte": (lambda content, _: content[:-1], "does not fit its bytes"),
    "a byte too much": (lambda content, _: content + b"\0", "does not fit its bytes"),
    "a gap at the end": (gap, "does not fit its bytes"),
    "a huge header": (lambda content, _: struct.pack("<Q", 2**62) + content[8:], "no domain file"),
    "no header": (lambda content, _: struct.pack("<Q", 0) + content[8:], "no domain file"),
    "a deep header": (
        lambda *_: struct.pack("<Q", 200_000) + b"[" * 200_000,
        "no domain file",
    ),
    "a header that is no JSON": (lambda content, _: content[:8] + b"!" + content[9:], "no domain"),
    "metadata twice": (twice, "no domain file"),
    "no metadata": (lambda *_: save({"a": torch.zeros(2)}), "no domain file"),
    "foreign metadata": (lambda *_: save({"a": torch.zeros(2)}, {"a": "b"}), "no domain file"),
    "overlapping tensors": (with_header(overlapping), "does not fit its bytes"),
    "tensors beyond the end": (with_header(beyond_the_end), "does not fit its bytes"),
    "a shape that lies": (with_header(other_shape), "does not fit its bytes"),
    "a shape that overflows": (with_header(huge_shape), "does not fit its bytes"),
    "a negative shape": (with_header(negative_shape), "does not fit its bytes"),
    "an unknown type": (with_header(unknown_type), "does not fit its bytes"),
    "integers": (with_header(integers), "int32, not float32"),
    "double precision": (with_tensors(to(torch.float64)), "float64, not float32"),
    "half precision unsaid": (with_tensors(to(torch.float16)), "float16, not float32"),
    "NaN weights": (with_tensors(fill(float("nan"))), "no finite numbers"),
    "infinite weights": (with_tensors(fill(float("inf"))), "no finite numbers"),
    "another version": (with_said(version=2), "u2net3d-domain 2, known is u2net3d-domain 1"),
    "another format": (with_said(format="u2net3d-trunk"), "no domain file"),
    "an unknown field": (with_said(command="rm"), "no domain file"),
    "another name than hashed": (with_said(weights=1), "content is not what was saved"),
    "a wrong hash": (with_said(content_id="0" * 64), "content is not what was saved"),
    "a foreign trunk": (with_said(trunk_id="0" * 64), "was trained on trunk 000000000000"),
    "a missing tensor": (
        with_tensors(lambda t: {n: v for n, v in t.items() if n != "stem.weight"}),
        "not those of its plan",
    ),
    "a tensor too many": (
        with_tensors(lambda t: {**t, "extra": torch.zeros(1)}),
        "not those of its plan",
    ),
}


@pytest.fixture
def bad(folder, tmp_path):
    """bad(kind): the file, with the name of a domain that is not in the model."""

    def make(kind):
        content = (folder / "domains/liver.safetensors").read_bytes()
        path = tmp_path / "liver.safetensors"
        path.write_bytes(BAD[kind][0](content, folder))
        domains.remove(folder, "liver")
        return path

    return make


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_refused_by_name_on_import_and_nothing_changes(
    kind, bad, folder, contents, refusal
):
    path = bad(kind)
    before = contents(folder)
    line = refusal(domains.import_file, folder, path)
    assert line.startswith(f"{path}: ")
    assert BAD[kind][1] in line
    assert contents(folder) == before
    assert not (folder / "sprung").exists()


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_put_in_by_hand_is_refused_by_name_on_loading(kind, bad, folder, refusal):
    path = folder / "domains/liver.safetensors"
    bad(kind).replace(path)
    line = refusal(store.load, folder)
    assert line.startswith(f"{path}: ")
    assert BAD[kind][1] in line
    assert not (folder / "sprung").exists()


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_trunk_is_refused_by_name(kind, folder, refusal):
    path = folder / "trunk.safetensors"
    made = BAD[kind][0]((folder / "domains/liver.safetensors").read_bytes(), folder)
    path.write_bytes(made)
    line = refusal(store.load, folder)
    assert line.startswith(f"{path}: ")
    assert store.verify(folder) == ["trunk.safetensors: its bytes are not those that were saved"]


def test_a_trunk_whose_hash_was_written_into_the_manifest_is_still_not_that_trunk(
    folder, tmp_path, save_model, refusal
):
    other = save_model(tmp_path / "other", "liver", seed=8)
    trunk = (other / "trunk.safetensors").read_bytes()
    (folder / "trunk.safetensors").write_bytes(trunk)
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    content["trunk"]["sha256"] = store.read_manifest(other).trunk.sha256
    path.write_text(json.dumps(content))
    ids = [store.read_manifest(model).trunk_id[:12] for model in (folder, other)]
    line = refusal(store.load, folder)
    assert all(identity in line for identity in ids)
    assert store.verify(folder) == [f"trunk.safetensors: its weights are not trunk {ids[0]}"]


def test_a_plan_deeper_than_the_trunk_is_refused_by_name(folder, tmp_path, refusal):
    said, tensors = read_domain(folder / "domains/liver.safetensors")
    plan = said.domain.plan
    deeper = {"strides": (*plan.strides, (2, 2, 2)), "kernels": (*plan.kernels, (3, 3, 3))}
    spec = said.domain.model_copy(update={"plan": plan.model_copy(update=deeper), "name": "deep"})
    path = tmp_path / "deep.safetensors"
    path.write_bytes(said.model_copy(update={"domain": spec}).encoded(tensors))
    assert "asks for 3 stages, the trunk has 2" in refusal(domains.import_file, folder, path)


def test_a_plan_that_its_tensors_do_not_fill_is_refused_before_a_bank_of_its_size_is_made(
    folder, tmp_path, refusal, monkeypatch
):
    said, tensors = read_domain(folder / "domains/liver.safetensors")
    channels = tuple(f"channel {n}" for n in range(100_000))
    spec = said.domain.model_copy(update={"channels": channels, "name": "wide"})
    path = tmp_path / "wide.safetensors"
    path.write_bytes(said.model_copy(update={"domain": spec}).encoded(tensors))
    devices = []
    monkeypatch.setattr(units, "he_normal_", lambda weight, _: devices.append(weight.device.type))
    net = UniversalNet(2, 2)
    devices.clear()
    assert "not those of its plan" in refusal(store.add_bank, net, path, *read_domain(path))
    assert set(devices) == {"meta"}
    assert "not those of its plan" in refusal(domains.import_file, folder, path)


@pytest.mark.parametrize("name", ["../escape", "Liver", "", "a/b", "all"])
def test_a_file_cannot_choose_where_it_is_written(name, folder, tmp_path, contents, refusal):
    said, tensors = read_domain(folder / "domains/liver.safetensors")
    spec = said.domain.model_copy(update={"name": name})
    path = tmp_path / "sent.safetensors"
    path.write_bytes(said.model_copy(update={"domain": spec}).encoded(tensors))
    before = contents(tmp_path)
    assert "names its domain badly" in refusal(domains.import_file, folder, path)
    assert contents(tmp_path) == before


def test_every_byte_flipped_is_refused_or_changes_nothing(folder, tmp_path):
    """A file may say the same in other bytes (a space in its header); never anything else."""
    source = folder / "domains/liver.safetensors"
    content, path = source.read_bytes(), tmp_path / "flipped.safetensors"
    header = struct.unpack("<Q", content[:8])[0] + 8
    places = [*range(400), *range(400, header, 61), *range(header, len(content), 211)]
    said, tensors = read_domain(source)
    accepted = 0
    for at in places:
        flipped = bytearray(content)
        flipped[at] ^= 1 << (at % 8)
        path.write_bytes(flipped)
        try:
            again, weights = read_domain(path)
        except ModelError:
            continue
        accepted += 1
        assert again == said
        assert weights.keys() == tensors.keys()
        assert all(torch.equal(weights[name], tensors[name]) for name in tensors)
    assert accepted < len(places) / 20


def test_every_truncation_is_refused(folder, tmp_path):
    content, path = (folder / "domains/liver.safetensors").read_bytes(), tmp_path / "cut"
    for size in [*range(64), *range(64, len(content), 199), len(content) - 1]:
        path.write_bytes(content[:size])
        with pytest.raises(ModelError, match="cut"):
            read_domain(path)


def test_the_header_alone_says_what_a_file_is(folder, monkeypatch):
    import safetensors.torch

    monkeypatch.setattr(safetensors.torch, "load", None)
    said = read_said(folder / "domains/liver.safetensors")
    assert said.domain.name == "liver"


def test_a_state_is_float32_on_the_cpu_and_detached():
    layer = torch.nn.Linear(2, 2).half()
    assert all(t.dtype == torch.float32 and not t.requires_grad for t in state(layer).values())


@pytest.mark.parametrize("said", [["spleen"], "organ", 5, [["organ"]], None])
def test_a_card_that_cleans_up_what_its_domain_does_not_have_is_refused(
    said, folder, tmp_path, contents, refusal
):
    sent, tensors = read_domain(folder / "domains/liver.safetensors")
    spec = sent.domain.model_copy(update={"name": "sent"})
    made = {"domain": spec, "card": {"largest_component": said}}
    path = tmp_path / "sent.safetensors"
    path.write_bytes(sent.model_copy(update=made).encoded(tensors))
    before = contents(folder)
    line = refusal(domains.import_file, folder, path)
    assert line.startswith(f"{path}: ")
    assert "largest_component" in line
    assert contents(folder) == before


@pytest.mark.parametrize("said", [[1, 2], 5, [1, 2, 0], [1, 2, "3"], [1, 2, True], None])
def test_a_card_with_a_size_that_is_none_is_refused(said, folder, tmp_path, refusal):
    sent, tensors = read_domain(folder / "domains/liver.safetensors")
    path = tmp_path / "sent.safetensors"
    made = sent.model_copy(update={"card": {"largest_image_mm": said}})
    path.write_bytes(made.encoded(tensors))
    assert "largest_image_mm" in refusal(domains.import_file, folder, path)


def test_a_domain_that_is_mirrored_into_labels_it_does_not_have_is_refused(
    folder, tmp_path, refusal
):
    sent, tensors = read_domain(folder / "domains/liver.safetensors")
    for wrong in ({"axes": (0, 3)}, {"swap_axis": 2, "swap": ((1, 7),)}):
        mirroring = sent.domain.mirroring.model_copy(update=wrong)
        spec = sent.domain.model_copy(update={"name": "sent", "mirroring": mirroring})
        path = tmp_path / "sent.safetensors"
        path.write_bytes(sent.model_copy(update={"domain": spec}).encoded(tensors))
        assert "no domain file" in refusal(domains.import_file, folder, path)
