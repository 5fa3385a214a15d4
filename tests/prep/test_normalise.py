import numpy as np
import pytest
from scipy.ndimage import binary_fill_holes

from u2net3d.prep.normalise import STD_FLOOR, body_mask, normalise
from u2net3d.spec import CtNormalisation, PercentileNormalisation, ZScoreNormalisation

CT = CtNormalisation(lower=-100, upper=300, mean=100, std=50)


def row(*values):
    return np.array(values, np.float32).reshape(1, 1, 1, -1)


def test_ct_is_clipped_then_shifted_then_scaled():
    result = normalise(row(-1000, -100, 100, 200, 3000), (CT,))
    np.testing.assert_array_equal(result, row(-4, -4, 0, 2, 4))


def test_a_zscore_has_mean_0_and_standard_deviation_1():
    np.testing.assert_allclose(normalise(row(1, 3), (ZScoreNormalisation(),)), row(-1, 1))


def test_a_zscore_holds_for_intensities_in_the_millions():
    image = np.random.default_rng(0).normal(1.7e6, 3e3, (1, 30, 30, 30)).astype(np.float32)
    result = normalise(image, (ZScoreNormalisation(),))
    assert abs(result.mean(dtype=np.float64)) < 1e-3
    assert result.std(dtype=np.float64) == pytest.approx(1, abs=1e-3)


def test_nonzero_only_leaves_the_background_at_0_and_ignores_it():
    result = normalise(row(0, 1, 3, 0), (ZScoreNormalisation(nonzero_only=True),))
    np.testing.assert_allclose(result, row(0, -1, 1, 0))


def test_a_hole_inside_the_body_is_part_of_it():
    image = np.ones((1, 3, 3, 3), np.float32)
    image[0, 1, 1, 1] = 0
    assert body_mask(image).all()


def test_a_voxel_is_body_when_any_channel_sees_it():
    image = np.concatenate([row(0, 1, 3), row(5, 0, 0)])
    schemes = (ZScoreNormalisation(nonzero_only=True), ZScoreNormalisation(nonzero_only=True))
    result = normalise(image, schemes)
    assert (result[0] != 0).all()


@pytest.mark.parametrize("nonzero_only", [False, True])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_a_constant_channel_becomes_0(value, nonzero_only):
    image = np.full((1, 4, 4, 4), value, np.float32)
    result = normalise(image, (ZScoreNormalisation(nonzero_only=nonzero_only),))
    np.testing.assert_array_equal(result, 0)


def test_outside_is_what_touches_a_border_face_to_face():
    image = np.random.default_rng(0).random((1, 20, 21, 22)) < 0.6
    expected = binary_fill_holes(image[0])
    assert expected.sum() > image.sum()
    np.testing.assert_array_equal(body_mask(image), expected)


@pytest.mark.parametrize("size", [1, 7, 127, 129, 70_003, 300_001])
def test_a_zscore_has_the_bits_of_numpy_s_mean_and_deviation(size):
    values = np.random.default_rng(size).gamma(2, 100, size).astype(np.float32)
    deviation = np.float32(max(float(values.std(dtype=np.float64)), STD_FLOOR))
    expected = (values - np.float32(values.mean(dtype=np.float64))) / deviation
    np.testing.assert_array_equal(normalise(row(*values), (ZScoreNormalisation(),)), row(*expected))


def test_the_image_itself_is_left_alone():
    image = row(0, 1, 3, 0)
    for scheme in (
        CT,
        ZScoreNormalisation(),
        ZScoreNormalisation(nonzero_only=True),
        PercentileNormalisation(),
    ):
        normalise(image, (scheme,))
        np.testing.assert_array_equal(image, row(0, 1, 3, 0))


def test_by_percentiles_the_voxels_above_0_have_mean_0_and_std_1_and_0_stays_0():
    # 0 to 100 per cent: nothing is clipped but what is below the lowest; above 0 are 1 and 3
    scheme = PercentileNormalisation(lower_percent=0, upper_percent=100, lowest=-7)
    result = normalise(row(-9, 0, 1, 3), (scheme,))
    np.testing.assert_allclose(result, row(-9, 0, -1, 1))  # (-7 - 2) / 1


def test_percentiles_are_the_volumes_own():
    values = np.arange(101, dtype=np.float32)  # 2 per cent: 2, 98 per cent: 98
    result = normalise(values.reshape(1, 1, 1, -1), (PercentileNormalisation(),))
    assert result.min() == result[..., 2] == result[..., 0]
    assert result.max() == result[..., 98] == result[..., 100]
    assert result[..., 97] < result.max()


def test_by_percentiles_a_volume_with_nothing_above_0_becomes_0():
    result = normalise(row(-5, 0, -1), (PercentileNormalisation(),))
    np.testing.assert_array_equal(result, 0)


def test_each_channel_has_its_own_scheme():
    image = np.concatenate([row(100, 150), row(1, 3)])
    result = normalise(image, (CT, ZScoreNormalisation()))
    np.testing.assert_allclose(result, np.concatenate([row(0, 1), row(-1, 1)]))


def test_the_input_is_left_alone():
    image = row(1, 2, 3)
    normalise(image, (CT,))
    np.testing.assert_array_equal(image, row(1, 2, 3))


def test_a_channel_without_a_scheme_is_refused():
    with pytest.raises(ValueError):
        normalise(np.zeros((2, 2, 2, 2), np.float32), (CT,))
