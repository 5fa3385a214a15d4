"""A model in memory: whatever way an image comes, its label lies as it lies."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import apply_orientation, inv_ornt_aff

import u2net3d
from u2net3d import store
from u2net3d.errors import DataError, ModelError, UsageError
from u2net3d.infer.predict import Job, Model, Options, choose_device, jobs_of, load, run_jobs
from u2net3d.models.banks import BankShape
from u2net3d.models.universal import UniversalNet
from u2net3d.spec import DomainSpec, ModelSpec, Plan, ZScoreNormalisation

CPU = torch.device("cpu")
OBLIQUE = np.array(
    [[1.2, 0.1, 0.0, -40.0], [-0.1, 1.3, 0.2, 12.0], [0.0, -0.2, 2.0, 5.0], [0, 0, 0, 1.0]]
)


def domain(name, channels=1, classes=3):
    plan = Plan(
        spacing_mm=(2.5, 1.5, 1.0),
        normalisation=(ZScoreNormalisation(),) * channels,
        patch_size=(8, 8, 8),
        batch_size=2,
        strides=((1, 1, 1), (2, 2, 2)),
        kernels=((3, 3, 3), (3, 3, 3)),
    )
    return DomainSpec(
        name=name,
        channels=tuple(f"channel {i}" for i in range(channels)),
        labels=tuple(f"label {i}" for i in range(classes)),
        plan=plan,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with random weights: liver (1 channel, 3 labels) and prostate (2 channels)."""
    folder = tmp_path_factory.mktemp("model")
    specs = {"liver": domain("liver"), "prostate": domain("prostate", channels=2)}
    torch.manual_seed(0)
    net = UniversalNet(base_channels=2, stages=2)
    for name, spec in specs.items():
        net.add_bank(name, BankShape.of(spec))
    store.save_model(folder, net, ModelSpec(base_channels=2, stages=2), specs, {})
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return load(folder, device="cpu")


def picture(shape=(14, 11, 9), seed=0):
    """Smooth float32 noise, so that a random network answers in regions."""
    rng = np.random.default_rng(seed)
    noise = np.fft.fftn(rng.normal(size=shape))
    radius = sum(np.fft.fftfreq(n).reshape([-1 if a == i else 1 for a in range(3)]) ** 2
                 for i, n in enumerate(shape))  # fmt: skip
    return (100 * np.fft.ifftn(noise * np.exp(-40 * radius)).real + 50).astype(np.float32)


def write(path, array, affine=OBLIQUE):
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def voxels(label):
    return np.asarray(label.dataobj)


def test_every_way_to_give_an_image_gives_the_same_label(model, tmp_path):
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


def test_channels_come_in_one_file_in_several_or_as_an_array(model, tmp_path):
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
def test_any_orientation_gives_the_same_answer_in_its_own(model, axes):
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
def test_the_label_has_the_images_shape_affine_and_form_codes(folder, tmp_path, qform, sform):
    affine = np.diag([-1.5, 1.5, 3.0, 1.0])
    affine[:3, 3] = 30, -20, 7
    image = nib.Nifti1Image(picture(), affine)
    image.set_qform(affine, qform)
    image.set_sform(affine, sform)
    nib.save(image, tmp_path / "scan.nii.gz")
    model = load(folder, domains=["liver"], device="cpu")
    job = Job((tmp_path / "scan.nii.gz",), tmp_path / "out" / "label.nii.gz")
    assert [outcome.error for outcome in run_jobs(model, [job], "liver", Options())] == [None]
    source, label = nib.load(tmp_path / "scan.nii.gz"), nib.load(job.output)
    assert label.shape == source.shape
    np.testing.assert_array_equal(label.affine, source.affine)
    for code in ("qform_code", "sform_code"):
        assert label.header[code] == source.header[code]
    np.testing.assert_array_equal(label.get_qform(), source.get_qform())
    np.testing.assert_array_equal(label.header["pixdim"][:4], source.header["pixdim"][:4])


@pytest.mark.parametrize("shape", [(3, 4, 2), (60, 9, 33)])
def test_volumes_smaller_and_much_larger_than_the_patch(model, shape):
    label = model.predict(picture(shape), affine=np.eye(4), domain="liver")
    assert label.shape == shape
    assert voxels(label).max() <= 2


def test_outside_of_what_was_scanned_is_background(model):
    array = np.zeros((20, 20, 20), np.float32)
    array[4:15, 5:16, 6:17] = picture((11, 11, 11))
    label = voxels(model.predict(array, affine=np.eye(4), domain="liver"))
    assert label[4:15, 5:16, 6:17].any()
    label[4:15, 5:16, 6:17] = 0
    assert not label.any()


def test_the_same_image_twice_gives_the_same_bits(model):
    first, second = (
        voxels(model.predict(picture(), affine=OBLIQUE, domain="liver", overlap=0.6, tta=True))
        for _ in range(2)
    )
    assert np.array_equal(first, second)


def test_a_model_says_what_it_can_do_and_prints_nothing(folder, capfd):
    model = u2net3d.load(str(folder), device="cpu")
    assert isinstance(model, Model)
    assert set(model.domains) == {"liver", "prostate"}
    assert model.labels("Liver") == ("label 0", "label 1", "label 2")
    model.predict(picture(), affine=np.eye(4), domain="liver")
    assert capfd.readouterr() == ("", "")


def test_what_a_model_cannot_do_is_said_in_a_line(folder, model, tmp_path):
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


def empty(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return [folder / name for name in names]


def cases(folder: Path, channels: int) -> dict[str, list[str]]:
    jobs = jobs_of([folder], folder.parent / "out", channels)
    return {job.output.name: [path.name for path in job.images] for job in jobs}


def test_a_file_goes_to_a_file_or_into_a_folder(tmp_path):
    (scan,) = empty(tmp_path, "scan.nii.gz")
    assert jobs_of([scan], tmp_path / "label.nii", 1) == [Job((scan,), tmp_path / "label.nii")]
    (tmp_path / "out").mkdir()
    (job,) = jobs_of([scan], tmp_path / "out", 1)
    assert job.output == tmp_path / "out" / "scan.nii.gz"


def test_several_files_are_channels_in_the_order_given(tmp_path):
    b, a = empty(tmp_path, "b.nii", "a.nii")
    assert jobs_of([b, a], tmp_path / "label.nii.gz", 2)[0].images == (b, a)


def test_every_image_of_a_folder_is_a_case(tmp_path):
    images = tmp_path / "images"
    empty(images, "b.nii.gz", "a.nrrd", "._a.nii.gz", "notes.txt", "c.NII.GZ")
    assert cases(images, 1) == {
        "a.nii.gz": ["a.nrrd"],
        "b.nii.gz": ["b.nii.gz"],
        "c.nii.gz": ["c.NII.GZ"],
    }


def test_numbers_at_the_end_are_channels_where_the_domain_has_so_many(tmp_path):
    images = tmp_path / "images"
    empty(images, "a_0001.nii.gz", "a_0000.nii.gz", "b.nii.gz", "scan_0007.nii.gz")
    assert cases(images, 2) == {
        "a.nii.gz": ["a_0000.nii.gz", "a_0001.nii.gz"],
        "b.nii.gz": ["b.nii.gz"],
        "scan_0007.nii.gz": ["scan_0007.nii.gz"],
    }


def test_of_one_channel_the_number_goes_where_every_file_has_it(tmp_path):
    images = tmp_path / "images"
    empty(images, "a_0000.nii.gz", "b_0000.nii.gz")
    assert cases(images, 1) == {"a.nii.gz": ["a_0000.nii.gz"], "b.nii.gz": ["b_0000.nii.gz"]}
    empty(images, "c_0001.nii.gz")  # so these numbers count cases
    assert list(cases(images, 1)) == ["a_0000.nii.gz", "b_0000.nii.gz", "c_0001.nii.gz"]


@pytest.mark.parametrize(
    ("names", "channels"),
    [
        (("a.nii", "a.nii.gz"), 1),
        (("a_0000.nii", "a_0000.nii.gz"), 1),
        (("a.nii.gz", "a_0000.nii.gz", "a_0001.nii.gz"), 2),
        (("a_0001.nii", "a_0001.nii.gz"), 2),
    ],
)
def test_two_files_of_one_case_are_refused(tmp_path, names, channels):
    empty(tmp_path / "images", *names)
    with pytest.raises(UsageError, match=r"would both be a\.nii\.gz"):
        cases(tmp_path / "images", channels)


def test_an_output_that_is_the_input_is_refused(tmp_path):
    images = tmp_path / "images"
    (scan,) = empty(images, "scan.nii.gz")
    (tmp_path / "link.nii.gz").symlink_to(scan)
    for inputs, output in (
        ([scan], scan),
        ([scan], images),
        ([scan], images / ".." / "images" / "scan.nii.gz"),
        ([scan], tmp_path / "link.nii.gz"),
        ([images], images),
        ([images], tmp_path / "images" / "."),
    ):
        with pytest.raises(UsageError, match=r"-o: .*the input"):
            jobs_of(inputs, output, 1)


def test_commands_that_make_no_sense_are_refused(tmp_path):
    images = tmp_path / "images"
    scan, note = empty(images, "scan.nii.gz", "note.txt")
    (tmp_path / "empty").mkdir()
    for inputs, output, what in (
        ([tmp_path / "nowhere"], tmp_path / "out", "-i: .*nowhere does not exist"),
        ([tmp_path / "empty"], tmp_path / "out", "-i: .*empty holds no image"),
        ([images], note, "-o: .* is a file, but -i is a folder"),
        ([images, scan], tmp_path / "out", "-i: .*images is a folder, one of several"),
        ([scan], tmp_path / "label.txt", r"-o: .*label\.txt is no NIfTI name"),
    ):
        with pytest.raises(UsageError, match=what):
            jobs_of(inputs, output, 1)


def test_one_bad_case_does_not_stop_the_others(model, tmp_path):
    images = tmp_path / "images"
    (broken,) = empty(images, "b.nii.gz")
    for name in ("a.nii.gz", "c.nii.gz"):
        write(images / name, picture())
    write(images / "d.nii.gz", np.zeros((5, 5, 5, 2), np.float32))
    jobs = jobs_of([images], tmp_path / "out", 1)
    outcomes = list(run_jobs(model, jobs, "liver", Options()))
    assert [outcome.error is None for outcome in outcomes] == [True, False, True, False]
    assert str(outcomes[1].error).startswith(f"{broken}: ")
    assert "has 2 channels, expected 1" in str(outcomes[3].error)
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["a.nii.gz", "c.nii.gz"]


def test_a_case_too_large_for_the_memory_does_not_stop_the_others(model, tmp_path, monkeypatch):
    paths = [write(tmp_path / f"{name}.nii", picture()) for name in "ab"]
    jobs = [Job((path,), tmp_path / "out" / path.name) for path in paths]
    answers = iter([RuntimeError("DefaultCPUAllocator: can't allocate memory\n at ..."), None])

    def segment(net, spec, image, device, options):
        if problem := next(answers):
            raise problem
        return np.zeros(image.shape, np.uint8)

    monkeypatch.setattr("u2net3d.infer.predict.segment", segment)
    first, second = run_jobs(model, jobs, "liver", Options())
    assert second.error is None
    assert str(first.error).startswith(f"{paths[0]}: could not be segmented (DefaultCPUAllocator")
    assert "\n" not in str(first.error)
