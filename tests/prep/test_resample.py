import numpy as np
import pytest

from u2net3d.prep.resample import resample_image, resample_label, resampled_shape

RNG = np.random.default_rng(0)


def test_sizes_are_rounded_and_never_0():
    assert resampled_shape((10, 10, 1), (2.0, 1.0, 1.0), (1.5, 3.0, 9.0)) == (13, 3, 1)


def test_the_same_shape_is_the_identity():
    image = RNG.normal(size=(2, 3, 4, 5)).astype(np.float32)
    label = RNG.integers(-1, 3, (3, 4, 5)).astype(np.int16)
    assert resample_image(image, (3, 4, 5)) is image
    assert resample_label(label, (3, 4, 5)) is label


@pytest.mark.parametrize("shape", [(2, 4, 4), (4, 12, 4), (12, 12, 12), (5, 3, 4), (1, 1, 1)])
def test_resampling_a_mirrored_image_gives_the_mirrored_result(shape):
    image = RNG.normal(size=(1, 4, 6, 4)).astype(np.float32)
    result = resample_image(image, shape)
    for axis in (1, 2, 3):
        mirrored = resample_image(np.flip(image, axis).copy(), shape)
        np.testing.assert_allclose(mirrored, np.flip(result, axis), atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 8, 10), (12, 16, 20), (9, 11, 17)])
def test_resampling_a_mirrored_label_gives_the_mirrored_result(shape):
    label = RNG.integers(0, 3, (12, 16, 20)).astype(np.int16)
    result = resample_label(label, shape)
    for axis in range(3):
        mirrored = resample_label(np.flip(label, axis).copy(), shape)
        np.testing.assert_array_equal(mirrored, np.flip(result, axis))


def test_a_ramp_keeps_its_place_when_it_is_refined():
    ramp = np.arange(8, dtype=np.float32).reshape(1, 1, 1, 8) * np.ones((1, 2, 2, 1), np.float32)
    fine = resample_image(ramp, (2, 2, 16))[0, 0, 0]
    expected = (np.arange(16) + 0.5) / 2 - 0.5  # centres of the fine voxels in coarse ones
    np.testing.assert_allclose(fine[4:-4], expected[4:-4], atol=1e-6)


def test_an_image_stays_within_its_own_range():
    step = np.zeros((1, 4, 4, 8), np.float32)
    step[..., 4:] = 1
    result = resample_image(step, (7, 7, 19))
    assert (result.min(), result.max()) == (0, 1)


def test_halving_a_noisy_image_averages_its_noise_away():
    noise = RNG.normal(size=(1, 24, 24, 24)).astype(np.float32)
    assert resample_image(noise, (12, 12, 12)).std() < 0.6


def test_a_constant_stays_what_it_is_in_every_shape():
    image = np.full((1, 5, 6, 7), 3.0, np.float32)
    np.testing.assert_allclose(resample_image(image, (9, 3, 7)), 3.0, rtol=1e-6)


def test_a_slab_of_a_label_doubles_exactly():
    label = np.zeros((2, 2, 6), np.int16)
    label[..., 2:4] = 7
    fine = resample_label(label, (2, 2, 12))
    np.testing.assert_array_equal(fine[0, 0], [0, 0, 0, 0, 7, 7, 7, 7, 0, 0, 0, 0])
    assert fine.dtype == np.int16


def test_a_label_has_no_value_between_two_labels():
    label = np.zeros((4, 4, 8), np.int16)
    label[..., 4:] = 4
    assert set(np.unique(resample_label(label, (3, 7, 13)))) == {0, 4}


def test_ignored_voxels_stay_ignored_and_give_nothing_to_their_neighbours():
    label = np.zeros((2, 2, 6), np.int16)
    label[..., 2:4] = -1
    label[..., 4:] = 2
    fine = resample_label(label, (2, 2, 12))
    np.testing.assert_array_equal(fine[0, 0], [0, 0, 0, 0, -1, -1, -1, -1, 2, 2, 2, 2])


def test_a_label_that_is_ignored_everywhere_stays_so():
    assert (resample_label(np.full((3, 3, 3), -1, np.int16), (5, 2, 4)) == -1).all()
