"""The phantoms of data/: drawn again the same, complete, varied, and not solved by a threshold.

Compared with the committed files are voxels, type and geometry, not the compressed bytes: another
zlib may pack the same voxels differently.
"""

import importlib
import json
import sys
from itertools import combinations
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

DATA = Path(__file__).parents[2] / "data"
FOLDERS = ("Task02_Heart", "Task03_Liver", "Task05_Prostate", "Task07_Pancreas")
KINDS = ("images", "labels")
LIMIT_BYTES = 9_000_000


@pytest.fixture(scope="module")
def drawing():
    """The drawing script as a module; it is no part of the package."""
    sys.path.insert(0, str(DATA))
    try:
        yield importlib.import_module("draw_phantoms")
    finally:
        sys.path.remove(str(DATA))


def pairs(folder):
    """(image, label) paths of every case, the three test cases included."""
    images = sorted((DATA / folder).glob("imagesT[rs]/*.nii.gz"))
    return [(p, Path(str(p).replace("images", "labels"))) for p in images]


def voxels(image):
    """The voxels as stored, of a path or of an image."""
    return np.asarray((nib.load(image) if isinstance(image, Path) else image).dataobj)


def best_threshold_dice(image, mask):
    """The best Dice that any window low <= intensity <= high reaches, over 40 x 40 windows."""
    edges = np.unique(np.quantile(image[mask], np.linspace(0, 1, 40)))
    hit = np.searchsorted(np.sort(image[mask]), edges)
    wrong = np.searchsorted(np.sort(image[~mask]), edges)
    best = 0.0
    for i in range(len(edges)):
        found = hit[i:] - hit[i]
        total = found + wrong[i:] - wrong[i] + mask.sum()
        best = max(best, float((2 * found / total).max()))
    return best


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_second_drawing_gives_the_committed_voxels(drawing, folder):
    task = next(task for task in drawing.TASKS if task.folder == folder)
    case = 5  # stored as PSR: a permuted, a mirrored axis
    name = drawing.case_name(task, case)
    for drawn, part in zip(drawing.draw_case(task, case), ("imagesTr", "labelsTr"), strict=True):
        kept = nib.load(DATA / folder / part / f"{name}.nii.gz")
        assert drawn.get_data_dtype() == kept.get_data_dtype()
        np.testing.assert_array_equal(voxels(drawn), voxels(kept))
        np.testing.assert_allclose(drawn.affine, kept.affine, atol=1e-4)


def test_equal_voxels_are_written_as_equal_bytes(drawing, tmp_path):
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    for name in ("one", "two"):
        drawing.write_image(image, tmp_path / f"{name}.nii.gz")
    written = (tmp_path / "one.nii.gz").read_bytes()
    assert written == (tmp_path / "two.nii.gz").read_bytes()
    assert written[3] == 0  # gzip flags: no file name kept
    assert written[4:8] == bytes(4)  # gzip: no time kept


def test_another_seed_draws_another_case(drawing):
    task = next(task for task in drawing.TASKS if task.name == "Prostate")
    kept = nib.load(DATA / task.folder / "labelsTr" / f"{drawing.case_name(task, 1)}.nii.gz")
    other = drawing.draw_case(task, 1, seed=1)[1]
    assert other.shape != kept.shape or (voxels(other) != voxels(kept)).any()


@pytest.mark.parametrize("folder", FOLDERS)
def test_dataset_json_lists_the_files_and_calls_them_phantoms(folder):
    content = json.loads((DATA / folder / "dataset.json").read_text())
    assert "PHANTOM" in content["description"]
    assert (content["numTraining"], content["numTest"]) == (12, 3)
    trained = [part[key] for part in content["training"] for key in ("image", "label")]
    tested = [place.replace("images", kind) for place in content["test"] for kind in KINDS]
    listed = {(DATA / folder / place).resolve() for place in trained + tested}
    assert listed == {path.resolve() for path in (DATA / folder).rglob("*.nii.gz")}


@pytest.mark.parametrize("folder", FOLDERS)
def test_image_and_label_agree_and_the_label_holds_every_value(folder):
    content = json.loads((DATA / folder / "dataset.json").read_text())
    channels = len(content["modality"])
    for image_path, label_path in pairs(folder):
        image, label = nib.load(image_path), nib.load(label_path)
        assert image.shape == (label.shape if channels == 1 else (*label.shape, channels))
        np.testing.assert_array_equal(image.affine, label.affine)
        assert set(np.unique(voxels(label_path))) == set(map(int, content["labels"]))


@pytest.mark.parametrize("folder", FOLDERS)
def test_cases_are_stored_in_several_orientations_one_of_them_oblique(folder):
    affines = [nib.load(label).affine for _, label in pairs(folder)]
    assert {"".join(nib.aff2axcodes(affine)) for affine in affines} == {"RAS", "LPS", "LAS", "PSR"}
    assert any(np.count_nonzero(np.abs(affine[:3, :3]) > 0.1) > 3 for affine in affines)


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_threshold_finds_the_organ_among_its_look_alikes(folder):
    for image_path, label_path in pairs(folder):
        image, label = voxels(image_path), voxels(label_path)
        for channel in np.moveaxis(image, -1, 0) if image.ndim == 4 else [image]:
            assert best_threshold_dice(channel, label > 0) < 0.6, image_path.name


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_two_cases_are_alike(folder):
    organs = []
    for _, path in pairs(folder):
        label = voxels(nib.as_closest_canonical(nib.load(path))) > 0
        middle = np.argwhere(label).mean(axis=0).round().astype(int)
        organs.append(np.pad(label, 40)[tuple(slice(m, m + 80) for m in middle)])
    for one, other in combinations(organs, 2):  # laid on each other, middle on middle
        assert 2 * (one & other).sum() < 0.95 * (one.sum() + other.sum())


@pytest.mark.parametrize("folder", ["Task03_Liver", "Task07_Pancreas"])
def test_ct_is_in_hu(folder):
    for path, _ in pairs(folder):
        image = voxels(path)
        assert image.min() == -1000
        assert -130 < np.median(image[(image > -200) & (image < -50)]) < -70  # fat


def test_the_phantoms_are_small_enough_to_commit():
    assert sum(path.stat().st_size for path in DATA.rglob("*.nii.gz")) < LIMIT_BYTES
