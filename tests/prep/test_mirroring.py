import pytest

from u2net3d.prep.fingerprint import CaseFacts, Fingerprint, LabelFacts
from u2net3d.prep.mirroring import mirroring, misplaced
from u2net3d.spec import Mirroring

MIDDLE = (0.5, 0.5, 0.5)
ALL = Mirroring(axes=(0, 1, 2))
NONE = Mirroring(axes=())


def facts(**centroids):
    """A fingerprint of labels valued 1, 2, ... with these names and centroids."""
    labels = tuple(
        LabelFacts(value=value, name=name, voxels=1, cases=1, centroid=centroid)
        for value, (name, centroid) in enumerate(centroids.items(), start=1)
    )
    return Fingerprint(
        domain="d",
        channels=("CT",),
        cases=(case_of(*centroids.values()),),
        intensities=(),
        labels=labels,
    )


def case_of(*centroids):
    """A case with the labels at these places, None for one that it does not hold."""
    return CaseFacts(name="a", shape=(9, 9, 9), spacing_mm=(1, 1, 1), kept=1, centroids=centroids)


def test_labels_without_direction_allow_all_reflections():
    assert (
        mirroring(facts(**{"liver": MIDDLE, "liver tumour": MIDDLE, "cleft": MIDDLE, "L5": MIDDLE}))
        == ALL
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("left parotid", "right parotid"),
        ("Parotid_L", "Parotid_R"),
        ("kidney_left", "kidney_right"),
        ("LeftKidney", "RightKidney"),
        ("LKidney", "RKidney"),
        ("KIDNEYl", "KIDNEYr"),
        ("Lt Parotid", "Rt Parotid"),
        ("LEFT KIDNEY", "RIGHT KIDNEY"),
        ("Left-Lateral-Ventricle", "Right-Lateral-Ventricle"),
    ],
)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_left_and_right_swap_along_the_axis_they_lie_apart_on_and_no_other_is_mirrored(
    one, other, axis
):
    apart = tuple(0.8 if i == axis else 0.52 for i in range(3))
    result = mirroring(facts(**{one: apart, "brainstem": MIDDLE, other: MIDDLE}))
    assert result == Mirroring(axes=(axis,), swap_axis=axis, swap=((1, 3),))


def test_all_pairs_swap_together_on_one_axis():
    names = {
        "left eye": (0.5, 0.5, 0.2),
        "right eye": (0.5, 0.5, 0.8),
        "left lung": (0.5, 0.3, 0.3),
        "right lung": (0.5, 0.6, 0.7),
    }
    assert mirroring(facts(**names)).swap == ((1, 2), (3, 4))
    assert mirroring(facts(**names)).swap_axis == 2


@pytest.mark.parametrize(
    "names", [("left atrium",), ("right ventricle", "myocardium", "left ventricle")]
)
def test_chambers_of_the_heart_are_no_mirror_images(names):
    assert mirroring(facts(**{name: (0.1 * i, 0.5, 0.5) for i, name in enumerate(names)})) == ALL


@pytest.mark.parametrize("ends", [("Anterior", "Posterior"), ("superior part", "inferior part")])
def test_the_axis_between_two_ends_is_not_mirrored(ends):
    assert mirroring(facts(**{ends[0]: (0.5, 0.7, 0.5), ends[1]: (0.5, 0.3, 0.4)})).axes == (0, 2)


def test_a_left_without_its_right_forbids_every_reflection():
    assert mirroring(facts(**{"left kidney": MIDDLE, "liver": MIDDLE})) == NONE


def test_one_side_without_a_partner_forbids_the_swap_of_the_others():
    names = {"left lung": (0.5, 0.5, 0.2), "right lung": (0.5, 0.5, 0.8), "left kidney": MIDDLE}
    assert mirroring(facts(**names)) == NONE


def test_sides_that_no_training_case_holds_forbid_every_reflection():
    assert mirroring(facts(**{"left lung": None, "right lung": MIDDLE})) == NONE


LEFT, RIGHT = (0.5, 0.5, 0.3), (0.5, 0.5, 0.7)  # as W grows to the right


def test_labels_that_lie_where_their_names_say_speak_against_no_header():
    assert misplaced(facts(**{"left kidney": LEFT, "right kidney": RIGHT})) is None
    assert misplaced(facts(liver=(0.9, 0.1, 0.1))) is None
    assert misplaced(facts(**{"left kidney": LEFT})) is None
    assert misplaced(facts(**{"left kidney": LEFT, "right kidney": None})) is None


def test_right_at_the_left_is_told():
    said = misplaced(facts(**{"left kidney": RIGHT, "liver": MIDDLE, "right kidney": LEFT}))
    assert said == "right kidney lies to the left of left kidney by the headers"


@pytest.mark.parametrize(
    ("axis", "words"), [(0, "from head to foot"), (1, "from front to back")], ids="DH"
)
@pytest.mark.parametrize("place", [0.2, 0.8])
def test_left_and_right_along_another_axis_are_told(axis, words, place):
    there = tuple(place if each == axis else 0.52 for each in range(3))
    said = misplaced(facts(Parotid_R=there, Parotid_L=MIDDLE))
    assert said == f"Parotid_L and Parotid_R lie apart {words} by the headers"


def test_only_cases_that_hold_both_sides_count():
    knees = facts(**{"left knee": (0.3, 0.5, 0.5), "right knee": (0.7, 0.5, 0.5)})
    assert "from head to foot" in misplaced(knees)
    alone = (case_of((0.3, 0.5, 0.5), None), case_of(None, (0.7, 0.5, 0.5)))
    assert misplaced(knees.model_copy(update={"cases": alone})) is None
    both = (*alone, case_of(LEFT, RIGHT))
    assert misplaced(knees.model_copy(update={"cases": both})) is None


def test_what_lies_nearly_at_one_place_says_nothing():
    near = (0.5, 0.55, 0.5)
    assert misplaced(facts(**{"left nerve": near, "right nerve": MIDDLE})) is None


@pytest.mark.parametrize("part", ["ventricle", "ventricular cavity", "atria", "coronary cusp"])
def test_parts_of_the_heart_say_nothing_and_are_no_mirror_images(part):
    found = facts(**{f"left {part}": RIGHT, f"right {part}": (0.5, 0.9, 0.3)})
    assert misplaced(found) is None
    assert mirroring(found) == ALL


def test_the_pair_is_named_that_says_so_most_clearly():
    eyes = {"left eye": LEFT, "right eye": RIGHT}
    kidneys = {"left kidney": (0.1, 0.5, 0.5), "right kidney": (0.8, 0.5, 0.5)}
    assert misplaced(facts(**eyes, **kidneys)).startswith("left kidney and right kidney lie apart")


def test_most_pairs_decide():
    pairs = {"left eye": LEFT, "right eye": RIGHT, "left lung": LEFT, "right lung": RIGHT}
    assert misplaced(facts(**pairs, **{"left ear": RIGHT, "right ear": LEFT})) is None
