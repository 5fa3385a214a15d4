import numpy as np
import pytest
import torch
from torch.nn import functional as F

from u2net3d.patches.intensity import (
    Intensity,
    add_noise,
    bend_gamma,
    blur,
    change_channel,
    lower_resolution,
    stretch_contrast,
)

EVERYTHING = Intensity(0.1, 4, (0.5, 0.7, 1.0), 1.2, 0.8, (0.6, 0.6, 0.6), 0.7, 1.5)


@pytest.fixture
def grey():
    return np.random.default_rng(0).standard_normal((12, 14, 16), np.float32)


def test_no_change_is_the_channel_itself(grey):
    assert change_channel(grey, Intensity()) is grey


def test_a_change_replays_and_never_writes_to_its_input(grey):
    before = grey.copy()
    first, second = change_channel(grey, EVERYTHING), change_channel(grey, EVERYTHING)
    assert np.array_equal(first, second)
    assert np.array_equal(grey, before)
    assert first.dtype == np.float32
    assert not np.array_equal(first, before)


def test_noise_has_the_drawn_standard_deviation(grey):
    noise = add_noise(grey, 0.1, seed=3) - grey
    assert noise.std().item() == pytest.approx(0.1, rel=0.1)
    assert noise.mean().item() == pytest.approx(0, abs=0.01)


def test_blurring_a_point_gives_the_gaussian_worked_out_by_hand():
    x = np.zeros((1, 1, 9), np.float32)
    x[0, 0, 4] = 1
    # sigma 1: exp(-k²/2) for k = -3..3 is .0111 .1353 .6065 1 ..., sum 2.5059
    expected = [0, 0.00443, 0.05401, 0.24204, 0.39905, 0.24204, 0.05401, 0.00443, 0]
    assert blur(x, (0, 0, 1))[0, 0].tolist() == pytest.approx(expected, abs=1e-4)
    assert np.array_equal(blur(x, (0, 0, 0)), x)


def test_blurring_keeps_one_grey_value_even_in_a_patch_thinner_than_the_kernel():
    assert np.allclose(blur(np.full((2, 5, 1), 3.0), (1, 1, 1)), 3)


def test_contrast_stretches_about_the_mean_and_stays_in_range():
    x = np.array([[[0.0, 4.0, 5.0, 6.0, 10.0]]])
    assert stretch_contrast(x, 0.5)[0, 0].tolist() == [2.5, 4.5, 5, 5.5, 7.5]
    assert stretch_contrast(x, 1.5)[0, 0].tolist() == [0, 3.5, 5, 6.5, 10]


def test_low_resolution_keeps_shape_and_place(grey):
    ramp = np.broadcast_to(np.arange(16.0), (12, 14, 16))
    low = lower_resolution(ramp, (1, 1, 0.5))
    assert low.shape == ramp.shape
    assert np.abs(low - ramp).max() <= 1  # nearest of two may be half a voxel off, never more
    assert lower_resolution(grey, (0.5, 0.5, 0.5)).std() < grey.std()


def test_low_resolution_spares_an_axis_with_full_detail():
    x = np.zeros((4, 8, 8), np.float32)
    x[2] = 1
    assert np.array_equal(lower_resolution(x, (1, 0.5, 0.5)), x)


@pytest.mark.parametrize("detail", [(0.5, 0.6, 0.77), (1, 0.9, 0.5), (0.01, 1, 1)])
def test_low_resolution_is_nearest_and_back_linear_as_torch_does_it(grey, detail):
    few = [max(1, round(n * share)) for n, share in zip(grey.shape, detail, strict=True)]
    kept = F.interpolate(torch.from_numpy(grey)[None, None], few, mode="nearest-exact")
    want = F.interpolate(kept, grey.shape, mode="trilinear")[0, 0].numpy()
    assert np.allclose(lower_resolution(grey, detail), want, atol=1e-5)


def test_gamma_is_a_power_of_the_share_of_the_range():
    x = np.array([[[0.0, 1.0, 2.0, 4.0]]], np.float32)
    share = np.array([0, 1 / 4, 1 / 2, 1]) ** 1.5
    want = (share - share.mean()) / share.std() * x.std() + x.mean()
    assert bend_gamma(x, 1.5)[0, 0].tolist() == pytest.approx(want.tolist(), abs=1e-5)


def test_gamma_keeps_mean_and_standard_deviation_and_order(grey):
    bent = bend_gamma(grey, 1.5)
    assert bent.mean().item() == pytest.approx(grey.mean().item(), abs=1e-4)
    assert bent.std().item() == pytest.approx(grey.std().item(), rel=1e-3)
    assert np.array_equal(bent.ravel().argsort(kind="stable"), grey.ravel().argsort(kind="stable"))


def test_an_image_of_one_grey_value_stays_finite():
    flat = np.full((4, 4, 4), 2.0, np.float32)
    assert np.isfinite(change_channel(flat, EVERYTHING)).all()
    assert np.array_equal(bend_gamma(flat, 0.7), flat)
