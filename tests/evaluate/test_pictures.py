"""Pictures are checked by their geometry and their pixels; how they please is seen by eye."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest

from u2net3d.evaluate.pictures import overlay, preview, progress
from u2net3d.evaluate.planes import MARGIN_MM, grey_window, three_planes
from u2net3d.volume import Volume

LABELS = ("background", "left $x$ organ", "other")


def pixels(png):
    """(rows, columns, 3) from 0 to 1."""
    from matplotlib.image import imread

    return imread(io.BytesIO(png))[..., :3]


def marked(shape, *voxels, value=1):
    array = np.zeros(shape, dtype=np.uint8)
    for voxel in voxels:
        array[voxel] = value
    return array


def case(seed=0):
    rng = np.random.default_rng(seed)
    image = rng.normal(100, 20, (12, 16, 20)).astype(np.float32)
    reference = np.zeros(image.shape, dtype=np.int16)
    reference[4:9, 5:11, 6:14] = 1
    reference[4:9, 11:13, 6:14] = 2
    return image, np.roll(reference, 1, axis=2), reference


def test_right_is_on_the_left_anterior_and_superior_are_on_top_and_sagittal_looks_left():
    # One voxel at the superior, anterior, right corner; the label holds every voxel's slice.
    corner = marked((3, 4, 5), (2, 3, 4))
    axial, coronal, sagittal = three_planes(corner, corner, None, (1.0, 1.0, 1.0))
    assert [plane.name for plane in (axial, coronal, sagittal)] == ["axial", "coronal", "sagittal"]
    assert [plane.image.shape for plane in (axial, coronal, sagittal)] == [(4, 5), (3, 5), (3, 4)]
    for plane in (axial, coronal, sagittal):
        assert np.argwhere(plane.image).tolist() == [[0, 0]]  # top, left
    assert [plane.sides for plane in (axial, coronal, sagittal)] == ["RLAP", "RLSI", "APSI"]


def test_every_plane_is_the_slice_with_most_foreground_of_the_reference():
    image = np.indices((6, 7, 8))[0].astype(float)  # every voxel's value is its own D
    reference = marked(image.shape, (1, 1, 1), (4, 2, 5), (4, 3, 5))
    prediction = marked(image.shape, (2, 6, 6), (2, 6, 7), (2, 5, 6), (2, 5, 7))
    assert (three_planes(image, prediction, reference, (1.0, 1.0, 1.0))[0].image == 4).all()
    assert (three_planes(image, prediction, None, (1.0, 1.0, 1.0))[0].image == 2).all()
    nothing = np.zeros_like(reference)
    assert (three_planes(image, prediction, nothing, (1.0, 1.0, 1.0))[0].image == 2).all()
    assert (three_planes(image, nothing, nothing, (1.0, 1.0, 1.0))[0].image == 3).all()


def test_planes_have_the_size_of_what_they_show_in_mm():
    image = np.zeros((4, 5, 6))
    planes = three_planes(image, image.astype(int), None, (10.0, 2.0, 3.0))
    assert [(plane.height_mm, plane.width_mm) for plane in planes] == [
        (10, 18), (40, 18), (40, 10),
    ]  # fmt: skip


def test_a_small_organ_is_shown_with_its_surroundings_not_the_whole_body():
    label = marked((5, 5, 200), (2, 2, 100))
    axial, *_ = three_planes(label, label, None, (1.0, 1.0, 2.0))
    assert axial.image.shape == (5, 1 + 2 * int(np.ceil(MARGIN_MM / 2)))
    assert np.argwhere(axial.image).tolist() == [[2, 13]]  # still in the middle
    far = label + marked(label.shape, (2, 2, 0))  # a false alarm far away stays in the picture
    assert np.count_nonzero(three_planes(label, far, label, (1.0, 1.0, 2.0))[0].prediction) == 2


def test_the_grey_window_shows_the_contrast_of_the_foreground():
    # CT in HU: air, a bone of 1,500 and an organ from 0 to 100: black at -150, white at 250.
    image = np.full((10, 10, 10), -1000.0)
    image[5:], foreground = 1500.0, np.zeros(image.shape, dtype=int)
    image[2, :, :], foreground[2] = np.linspace(-2, 102, 100).reshape(10, 10), 1
    low, high = grey_window(image, foreground)
    assert (low, high) == (pytest.approx(-150, abs=3), pytest.approx(250, abs=3))
    assert grey_window(image, foreground * 0) == (-1000, 1500)
    flat_low, flat_high = grey_window(image * 0, foreground)
    assert flat_high > flat_low


def test_an_overlay_is_a_png_and_the_same_bytes_every_time():
    image, prediction, reference = case()
    first, again = (
        overlay(image, prediction, reference, (2.0, 1.0, 1.0), "liver_1", LABELS) for _ in range(2)
    )
    assert first.startswith(b"\x89PNG")
    assert first == again
    assert b"Software" not in first
    assert b"tIME" not in first


def test_prediction_and_reference_are_drawn_in_the_colour_of_their_label():
    image, _, reference = case()
    flat, nothing = np.full_like(image, 100), np.zeros_like(reference)
    bare = pixels(overlay(flat, nothing, nothing, (1.0, 1.0, 1.0), "", LABELS))
    filled = pixels(overlay(flat, reference, nothing, (1.0, 1.0, 1.0), "", LABELS))
    orange = (filled[..., 0] - filled[..., 2]) > 0.2
    blue = (filled[..., 2] - filled[..., 0]) > 0.2
    assert orange.mean() > 0.02
    assert blue.mean() > 0.005
    picture = bare[60:-60]  # without title and legend, where colours stand too
    assert np.abs(picture - picture[..., :1]).max() < 0.02


def test_a_prediction_alone_is_outlined_and_lets_the_image_through():
    image, _, reference = case()
    flat = np.full_like(image, 100)
    alone = pixels(overlay(flat, reference, None, (1.0, 1.0, 1.0), "", LABELS))[60:-60]
    colour = np.abs(alone[..., 0] - alone[..., 2])
    assert (colour > 0.5).mean() > 0.005  # lines in full colour
    assert ((colour > 0.1) & (colour < 0.3)).mean() > 0.02  # a thin fill


def test_a_preview_says_how_many_millilitres_there_are(monkeypatch):
    image, _, reference = case()
    told = []
    monkeypatch.setattr("u2net3d.evaluate.pictures.overlay", lambda *given: told.append(given))
    preview(Volume(image[None], np.diag([10.0, 1.0, 2.0, 1.0])), reference, LABELS, "a")
    # 5 × 6 × 8 and 5 × 2 × 8 voxels of 0.02 ml; spacing along D, H, W
    assert told[0][3] == (10, 1, 2)
    assert told[0][4:] == ("a", [told[0][5][0], "left $x$ organ  4.8 ml", "other  1.6 ml"])


def test_empty_labels_ignored_voxels_and_names_with_dollars_are_drawn_all_the_same():
    image, prediction, reference = case()
    ignored = reference.copy()
    ignored[:2] = 255
    overlay(image, prediction, ignored, (2.0, 1.0, 1.0), "$a$ [b]", LABELS, ignore=255)
    overlay(image, prediction, None, (2.0, 1.0, 1.0), "", LABELS)
    overlay(image * 0, prediction * 0, reference * 0, (2.0, 1.0, 1.0), "empty", LABELS)
    many = ["background", *(f"a rather long name of organ number {n}" for n in range(20))]
    overlay(image, prediction, reference, (2.0, 1.0, 1.0), "many", many)


def history():
    rows = []
    for step in range(60):
        domain = ("liver", "heart")[step % 2]
        rows.append({"kind": "train", "step": step, "domain": domain, "loss": 2 / (1 + step),
                     "learning_rate": 1e-3, "seconds": step / 2})  # fmt: skip
        if step % 20 == 19:
            for domain, mean in (("liver", 0.5 + step / 200), ("heart", None)):
                rows.append({"kind": "validation", "step": step, "seconds": step / 2,
                             "domain": domain, "dice": {"a": mean}, "mean_dice": mean,
                             "cases": 3})  # fmt: skip
    return rows


def test_progress_is_a_png_and_the_same_bytes_every_time():
    first = progress(history())
    assert first.startswith(b"\x89PNG")
    assert first == progress(iter(history()))


def test_progress_draws_what_there_is_from_the_first_step_on():
    for rows in ([], history()[:1], [row for row in history() if row["kind"] == "validation"]):
        assert progress(rows).startswith(b"\x89PNG")
    odd = {"kind": "train", "step": 1, "domain": "liver", "loss": float("nan")}
    assert progress([odd, {"kind": "note", "step": 1}]).startswith(b"\x89PNG")


def test_a_losss_running_mean_keeps_a_constant_and_averages_its_neighbours():
    from u2net3d.evaluate.pictures import _running_mean

    assert _running_mean(np.full(100, 3.0)) == pytest.approx(np.full(100, 3.0))
    spike = np.zeros(40)
    spike[20] = 3.0
    assert _running_mean(spike)[18:23] == pytest.approx([0, 1, 1, 1, 0])


def test_drawing_leaves_matplotlibs_global_state_alone():
    code = (
        "import sys, u2net3d.evaluate.pictures as p; assert 'matplotlib' not in sys.modules;"
        "p.progress([]); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
