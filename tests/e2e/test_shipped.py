"""What ships on real volumes, where U2NET3D_TEST_DATA names a folder of MSD data sets."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

import u2net3d
from u2net3d import store
from u2net3d.io.dataset import find_dataset, list_domains, split

pytestmark = pytest.mark.real


def test_a_head_and_neck_ct_that_lies_rightly_is_understood(real_data):
    """OpenKBP's arrays run to the back, the left and the feet, whatever their headers say."""
    if store.shipped() is None or "headneckct" not in list_domains(real_data):
        pytest.skip("needs the weights that ship, and the data set headneckct")
    dataset = find_dataset(real_data, "headneckct")
    model = u2net3d.load(store.shipped())
    case = split(dataset, 0).validation[0]
    stored, label = nib.load(case.images[0]), np.asarray(nib.load(case.label).dataobj)
    affine = np.diag([*stored.header.get_zooms(), 1.0]).astype(float)
    affine = np.array([[0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]]) @ affine
    image = nib.Nifti1Image(np.asarray(stored.dataobj), affine)
    assert nib.aff2axcodes(affine) == ("P", "L", "I")
    found = np.asarray(model.predict(image, domain="headneckct").dataobj)
    assert mean_dice(found, label) > 0.6
    wrong = nib.Nifti1Image(np.asarray(stored.dataobj), stored.affine)
    assert mean_dice(np.asarray(model.predict(wrong, domain="headneckct").dataobj), label) < 0.3


def mean_dice(found, label):
    values = range(1, int(label.max()) + 1)
    both = [(found == value, label == value) for value in values]
    return np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in both])
