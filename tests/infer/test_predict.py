"""A model in memory: whatever way an image comes, its label lies as it lies."""

from __future__ import annotations

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import apply_orientation, inv_ornt_aff

import u2net3d
from u2net3d.errors import DataError, ModelError, UsageError
from u2net3d.infer.predict import Model, Options, choose_device, load
from u2net3d.volume import Volume

CPU = torch.device("cpu")
OBLIQUE = np.array(
    [[1.2, 0.1, 0.0, -40.0], [-0.1, 1.3, 0.2, 12.0], [0.0, -0.2, 2.0, 5.0], [0, 0, 0, 1.0]]
)


def voxels(label):
    return np.asarray(label.dataobj)


def test_every_way_to_give_an_image_gives_the_same_label(model, tmp_path, picture, write):
    array = picture()
    path = write(tmp_path / "scan.nii.gz", array)
    labels = [
        model.predict(path, domain="liver"),
        model.predict(str(path), domain="Liver"),
        model.predict([path], domain="liver"),
        model.predict(nib.load(path), domain="liver"),
        model.predict(array, affine=OBLIQUE, domain="liver"),
        model.predict(array[None], affine=OBLIQUE, domain="liver"),
    ]
    first = voxels(labels[0])
    assert first.shape == array.shape
    assert first.dtype == np.uint8
    assert len(np.unique(first)) > 1
    assert all(np.array_equal(voxels(label), first) for label in labels)


def test_channels_come_in_one_file_in_several_or_as_an_array(model, tmp_path, picture, write):
    one, two = picture(seed=1), picture(seed=2)
    paths = [write(tmp_path / f"{i}.nii.gz", array) for i, array in enumerate((one, two))]
    together = write(tmp_path / "both.nii.gz", np.stack([one, two], axis=-1))
    first = voxels(model.predict(paths, domain="prostate"))
    assert np.array_equal(voxels(model.predict(together, domain="prostate")), first)
    stacked = model.predict(np.stack([one, two]), affine=OBLIQUE, domain="prostate")
    assert np.array_equal(voxels(stacked), first)
    turned = voxels(model.predict(paths[::-1], domain="prostate"))
    assert not np.array_equal(turned, first)


@pytest.mark.parametrize("axes", list(permutations(range(3))))
def test_any_orientation_gives_the_same_answer_in_its_own(model, axes, picture):
    array = picture()
    expected = voxels(model.predict(array, affine=OBLIQUE, domain="liver"))
    for flips in product((1, -1), repeat=3):
        turn = np.array(list(zip(axes, flips, strict=True)))
        stored = apply_orientation(array, turn)
        affine = OBLIQUE @ inv_ornt_aff(turn, array.shape)
        label = model.predict(nib.Nifti1Image(stored, affine), domain="liver")
        assert label.shape == stored.shape
        np.testing.assert_allclose(label.affine, affine, atol=1e-4)
        assert np.array_equal(voxels(label), apply_orientation(expected, turn))


@pytest.mark.parametrize(("qform", "sform"), [(1, 0), (0, 2), (1, 2), (3, 4)])
def test_the_label_has_the_images_shape_affine_and_form_codes(
    folder, tmp_path, qform, sform, picture
):
    affine = np.diag([-1.5, 1.5, 3.0, 1.0])
    affine[:3, 3] = 30, -20, 7
    image = nib.Nifti1Image(picture(), affine)
    image.set_qform(affine, qform)
    image.set_sform(affine, sform)
    nib.save(image, tmp_path / "scan.nii.gz")
    model = load(folder, domains=["liver"], device="cpu")
    label = model.predict(tmp_path / "scan.nii.gz", domain="liver")
    nib.save(label, tmp_path / "label.nii.gz")
    source, label = nib.load(tmp_path / "scan.nii.gz"), nib.load(tmp_path / "label.nii.gz")
    assert label.shape == source.shape
    np.testing.assert_array_equal(label.affine, source.affine)
    for code in ("qform_code", "sform_code"):
        assert label.header[code] == source.header[code]
    np.testing.assert_array_equal(label.get_qform(), source.get_qform())
    np.testing.assert_array_equal(label.header["pixdim"][:4], source.header["pixdim"][:4])


@pytest.mark.parametrize("shape", [(3, 4, 2), (60, 9, 33)])
def test_volumes_smaller_and_much_larger_than_the_patch(model, shape, picture):
    label = model.predict(picture(shape), affine=np.eye(4), domain="liver")
    assert label.shape == shape
    assert voxels(label).max() <= 2


def test_outside_of_what_was_scanned_is_background(model, picture):
    array = np.zeros((20, 20, 20), np.float32)
    array[4:15, 5:16, 6:17] = picture((11, 11, 11))
    label = voxels(model.predict(array, affine=np.eye(4), domain="liver"))
    assert label[4:15, 5:16, 6:17].any()
    label[4:15, 5:16, 6:17] = 0
    assert not label.any()


def test_the_same_image_twice_gives_the_same_bits(model, picture):
    first, second = (
        voxels(model.predict(picture(), affine=OBLIQUE, domain="liver", overlap=0.6, tta=True))
        for _ in range(2)
    )
    assert np.array_equal(first, second)


def test_a_model_says_what_it_can_do_and_prints_nothing(folder, capfd, picture):
    model = u2net3d.load(str(folder), device="cpu")
    assert isinstance(model, Model)
    assert set(model.domains) == {"liver", "prostate"}
    assert model.labels("Liver") == ("label 0", "label 1", "label 2")
    model.predict(picture(), affine=np.eye(4), domain="liver")
    assert capfd.readouterr() == ("", "")


def test_what_a_model_cannot_do_is_said_in_a_line(folder, model, tmp_path, picture):
    array = picture()
    with pytest.raises(UsageError, match=r"'livre' .* did you mean liver\?"):
        model.predict(array, affine=np.eye(4), domain="livre")
    with pytest.raises(UsageError, match="prostate"):
        load(folder, domains=["liver"]).predict(array, affine=np.eye(4), domain="prostate")
    with pytest.raises(UsageError, match="does not say where its voxels lie"):
        model.predict(array, domain="liver")
    with pytest.raises(DataError, match="has 1 channel, expected 2"):
        model.predict(array, affine=np.eye(4), domain="prostate")
    with pytest.raises(DataError, match="is no 3-D volume"):
        model.predict(array[0], affine=np.eye(4), domain="liver")
    with pytest.raises(DataError, match=r"nowhere\.nii: does not exist"):
        model.predict(tmp_path / "nowhere.nii", domain="liver")
    with pytest.raises(ModelError, match="holds no model"):
        load(tmp_path)


def test_a_device_is_chosen_or_refused(monkeypatch, folder):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == CPU
    with pytest.raises(UsageError, match="there is no CUDA device here"):
        load(folder, device="cuda")
    with pytest.raises(UsageError, match="'tpu' is no device"):
        choose_device("tpu")


def test_an_image_far_larger_than_those_learnt_from_is_noted(tmp_path, save_random_model):
    cards = {"liver": {"largest_image_mm": [4, 20, 20]}}
    known = load(save_random_model(tmp_path / "model", cards), device="cpu")
    shape = (1, 8, 10, 12)
    image = Volume(np.ones(shape, np.float32), np.diag([1.0, 2.0, 2.0, 1.0]))

    def notes(image, domain="liver"):
        return known.answer(image, tmp_path, domain, Options()).notes

    assert notes(image) == ()  # 8 x 20 x 24 mm: not more than twice as large
    (note,) = notes(Volume(np.ones((1, 9, 10, 12), np.float32), image.affine))
    assert "it measures 9×20×24 mm (D×H×W), liver learnt from images of at most 4×20×20 mm" in note
    assert notes(image.pad((5, 0, 0), (5, 0, 0))) == ()  # zeros are cut off
    two = Volume(np.ones((2, 99, 10, 12), np.float32), image.affine)
    assert notes(two, "prostate") == ()  # its card does not say
