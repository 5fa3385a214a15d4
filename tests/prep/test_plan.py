import subprocess
import sys
from math import prod

import pytest

from u2net3d.io.dataset import find_dataset
from u2net3d.prep.fingerprint import CaseFacts, Fingerprint, Intensities
from u2net3d.prep.plan import cubed, domain_spec, expected_memory_bytes, make_plan, topology
from u2net3d.spec import PRESETS, Budget, CtNormalisation, ModelSpec, Plan, ZScoreNormalisation

HU = Intensities(mean=90, std=20, minimum=-50, maximum=300, percentile_00_5=10, percentile_99_5=180)
MM = (1.0, 1.0, 1.0)


def facts(*cases, channels=("MRI",), kept=1.0):
    """A fingerprint of cases given as (shape, spacing)."""
    return Fingerprint(
        domain="d",
        channels=channels,
        cases=tuple(
            CaseFacts(name=str(i), shape=shape, spacing_mm=spacing, kept=kept)
            for i, (shape, spacing) in enumerate(cases)
        ),
        intensities=(HU,) * len(channels),
        labels=(),
    )


def nnunet(spacing, patch):
    from nnunetv2.experiment_planning.experiment_planners.network_topology import (
        get_pool_and_conv_props,
    )

    _, strides, kernels, padded, _ = get_pool_and_conv_props(spacing, patch, 4, 999_999)
    return strides, kernels, tuple(int(n) for n in padded)


SPACINGS_AND_PATCHES = [
    (MM, (40, 56, 40)),
    (MM, (128, 128, 128)),
    ((10.0, 1.5, 1.5), (10, 256, 224)),
    ((3.6, 0.62, 0.62), (20, 320, 256)),
    ((0.7, 0.7, 5.0), (192, 192, 20)),
    ((2.5, 4.0, 4.0), (97, 61, 43)),
]


@pytest.mark.parametrize(("spacing", "patch"), SPACINGS_AND_PATCHES)
def test_the_topology_is_nnunets_where_the_cap_does_not_bind(spacing, patch):
    ours = topology(spacing, patch, 99)
    assert (ours.strides, ours.kernels, ours.patch) == nnunet(spacing, patch)


@pytest.mark.parametrize("max_stages", [2, 3, 4, 5, 6])
@pytest.mark.parametrize(("spacing", "patch"), SPACINGS_AND_PATCHES)
def test_a_cap_drops_the_last_pools_and_then_the_divisor_shrinks(spacing, patch, max_stages):
    strides, kernels, padded = nnunet(spacing, patch)
    ours = topology(spacing, patch, max_stages)
    assert ours.strides == strides[:max_stages]
    assert ours.kernels == kernels[:max_stages]
    for size, asked, divisor, nnunet_size in zip(
        ours.patch, patch, ours.divisor, padded, strict=True
    ):
        assert size % divisor == 0
        assert asked <= size < asked + divisor
        assert size <= nnunet_size


@pytest.mark.parametrize("shape", [(3, 3, 3), (1, 9, 9), (5, 11, 7)])
@pytest.mark.parametrize("spacing", [MM, (8.0, 1.0, 1.0), (1.0, 8.0, 1.0)])
def test_the_smallest_volumes_still_have_two_stages(shape, spacing):
    plan = make_plan(facts((shape, spacing)), max_stages=6)
    assert plan.stages >= 2
    assert all(size >= asked for size, asked in zip(plan.patch_size, shape, strict=True))


def test_a_set_like_the_hippocampus_gets_nnunets_patch_and_batch():
    plan = make_plan(facts(*[((36, 50, 36), MM)] * 130), max_stages=6)
    assert (plan.patch_size, plan.batch_size, plan.stages) == ((40, 56, 40), 5, 4)
    assert plan.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))


def test_thick_slices_are_neither_pooled_nor_convolved_across_at_first():
    plan = make_plan(facts(*[((10, 256, 216), (10.0, 1.5, 1.5))] * 24), max_stages=6)
    assert plan.strides[1] == (1, 2, 2)
    assert plan.kernels[0] == (1, 3, 3)
    assert plan.patch_size[0] < plan.patch_size[1]


@pytest.mark.parametrize("batch_voxels", [100_000, 500_000, 2_000_000])
@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((400, 512, 512), MM), ((90, 512, 512), (5.0, 0.8, 0.8)), ((20, 320, 320), (3.6, 0.6, 0.6))],
)
def test_a_step_stays_within_its_voxels(shape, spacing, batch_voxels):
    cases = facts(*[(shape, spacing)] * 100)
    plan = make_plan(cases, max_stages=6, budget=Budget(voxels=batch_voxels))
    assert 2 <= plan.batch_size <= 16
    assert batch_voxels / 4 < plan.batch_size * prod(plan.patch_size) <= batch_voxels


def test_a_coarser_axis_gets_fewer_voxels_of_the_patch():
    plan = make_plan(facts(*[((300, 300, 150), (1.0, 1.0, 2.0))] * 50), max_stages=6)
    d, h, w = plan.patch_size
    assert min(d, h) / w > 1.5
    assert max(d, h) / w < 2.5  # the same in mm, but for the divisor


def test_one_step_sees_at_most_a_twentieth_of_all_voxels_but_two_patches():
    assert make_plan(facts(*[((32, 32, 32), MM)] * 100), max_stages=6).batch_size == 5
    assert make_plan(facts(*[((32, 32, 32), MM)] * 10), max_stages=6).batch_size == 2


def test_the_target_spacing_is_the_median():
    cases = facts(*(((50, 50, 50), (s, 1.0, 2.0)) for s in (1.0, 1.5, 3.0)))
    assert make_plan(cases, max_stages=6).spacing_mm == (1.5, 1.0, 2.0)


def test_a_thick_axis_takes_the_10th_percentile():
    thin, thick = ((20, 300, 300), (5.0, 1.0, 1.0)), ((10, 300, 300), (10.0, 1.0, 1.0))
    assert make_plan(facts(*[thin] * 3, *[thick] * 8), max_stages=6).spacing_mm == (5.0, 1.0, 1.0)


def test_a_thick_axis_gets_no_finer_than_the_others():
    thin, thick = ((200, 300, 300), (0.5, 1.0, 1.0)), ((10, 300, 300), (10.0, 1.0, 1.0))
    assert make_plan(facts(*[thin] * 3, *[thick] * 8), max_stages=6).spacing_mm == MM


def test_ct_is_known_by_its_name_and_takes_the_foregrounds_percentiles():
    plan = make_plan(facts(((50, 50, 50), MM), channels=("Ct", "PET"), kept=0.5), max_stages=6)
    ct = CtNormalisation(lower=10, upper=180, mean=90, std=20)
    assert plan.normalisation == (ct, ZScoreNormalisation(nonzero_only=True))


@pytest.mark.parametrize(("kept", "nonzero_only"), [(0.74, True), (0.75, False), (1.0, False)])
def test_a_crop_of_a_quarter_makes_the_zscore_nonzero_only(kept, nonzero_only):
    plan = make_plan(facts(((50, 50, 50), MM), kept=kept), max_stages=6)
    assert plan.normalisation == (ZScoreNormalisation(nonzero_only=nonzero_only),)


def test_expected_memory_grows_with_the_batch_and_the_width():
    plan = make_plan(facts(*[((36, 50, 36), MM)] * 130), max_stages=6)
    usual = expected_memory_bytes(plan, ModelSpec(), channels=1, classes=3)
    twice = plan.model_copy(update={"batch_size": 2 * plan.batch_size})
    assert 1e9 < usual < 3e9
    assert expected_memory_bytes(twice, ModelSpec(), channels=1, classes=3) > usual
    assert expected_memory_bytes(plan, ModelSpec(base_channels=32), channels=1, classes=3) > usual
    assert expected_memory_bytes(plan, PRESETS["base"], channels=1, classes=3) < usual


@pytest.mark.parametrize(
    ("edge", "most", "stages"),
    [(128, 6, 6), (128, 4, 4), (32, 6, 4), (48, 6, 4), (8, 6, 2), (10, 6, 2)],
)
def test_a_cube_covers_what_the_patch_covered_and_is_halved_along_all_axes(edge, most, stages):
    plan = Plan(
        spacing_mm=(3.0, 1.0, 0.5),
        normalisation=(ZScoreNormalisation(),),
        patch_size=(16, 64, 32),
        batch_size=7,
        strides=((1, 1, 1), (1, 2, 2)),
        kernels=((1, 3, 3), (3, 3, 3)),
    )
    cube = cubed(plan, edge, most)
    assert cube.patch_size == (edge, edge, edge)
    assert cube.spacing_mm == pytest.approx((48 / edge, 64 / edge, 16 / edge))
    assert cube.batch_size == 2
    assert cube.strides == ((1, 1, 1), *[(2, 2, 2)] * (stages - 1))
    assert cube.kernels == ((3, 3, 3),) * stages
    assert cube.normalisation == plan.normalisation


def test_with_a_cube_a_domain_is_planned_for_two_of_them(tmp_path, make_dataset):
    dataset = find_dataset(make_dataset(tmp_path).parent, "liver")
    plain = domain_spec(dataset, dataset.cases, 6, budget=Budget(voxels=2 * 16**3)).plan
    cube = domain_spec(dataset, dataset.cases, 6, cube=16).plan
    assert cube == cubed(plain, 16, 6)


def test_a_domain_spec_holds_what_its_training_cases_say(tmp_path, make_dataset):
    make_dataset(tmp_path, labels=("background", "left lung", "right lung"))
    dataset = find_dataset(tmp_path, "liver")
    spec = domain_spec(dataset, dataset.cases, 6)
    assert (spec.name, spec.channels, spec.labels) == ("liver", ("CT",), dataset.labels)
    assert spec.plan.spacing_mm == (2.0, 1.0, 1.0)
    assert spec.mirroring.swap == ((1, 2),)
    assert spec.mirroring.axes == (2,)  # the blobs lie side by side along the first stored axis


def test_planning_needs_neither_torch_nor_environment_variables_and_says_nothing():
    code = (
        "import sys; from u2net3d.prep import plan, cache;"
        "plan.topology((1.0, 1.0, 1.0), (40, 56, 40), 6);"
        "assert not {'torch', 'SimpleITK', 'scipy'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.real
def test_the_real_hippocampus_gets_nnunets_plan(real_data):
    dataset = find_dataset(real_data, "hippocampus")
    spec = domain_spec(dataset, dataset.cases, 6)
    assert spec.plan.patch_size == (40, 56, 40)
    assert spec.plan.stages == 4
    assert spec.mirroring.axes == (0, 2)


@pytest.mark.real
def test_the_real_parotids_are_swapped_on_the_axis_they_lie_apart_on(real_data):
    dataset = find_dataset(real_data, "headneckct")
    spec = domain_spec(dataset, dataset.cases, 6)
    assert spec.mirroring.swap == ((3, 4),)
    assert spec.mirroring.axes == (spec.mirroring.swap_axis,) == (1,)  # stored (y, x, z)
