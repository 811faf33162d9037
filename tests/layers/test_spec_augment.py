import numpy as np
import pytest

from layers import SpecAugment
from tests.layers.layer_contract import check_layer

ONES = np.ones((64, 40, 30), "float32")


def test_contract(tmp_path):
    arguments = {"num_time_masks": 1, "max_frames": 3, "seed": 1}
    check_layer(SpecAugment, arguments, (2, 11, 20), (2, 11, 20), tmp_path)


def widths(is_hidden):
    """Returns the widths of the spans of True in each row."""
    edges = np.diff(np.pad(is_hidden.astype(int), [(0, 0), (1, 1)]), axis=1)
    return [np.flatnonzero(row == -1) - np.flatnonzero(row == 1) for row in edges]


@pytest.mark.parametrize(("axis", "largest"), [(1, 8), (2, 5)])
def test_a_mask_hides_a_span_of_random_width_and_place(axis, largest):
    numbers = {"num_time_masks": int(axis == 1), "num_frequency_masks": int(axis == 2)}
    layer = SpecAugment(max_frames=8, max_bands=5, seed=0, **numbers)
    hidden = layer(ONES, training=True).numpy() == 0
    other = 3 - axis
    assert (hidden.all(axis=other) == hidden.any(axis=other)).all()
    spans = widths(hidden.all(axis=other))
    assert max(map(len, spans)) == 1
    found = [int(each[0]) if len(each) else 0 for each in spans]
    assert set(found) == set(range(largest + 1))
    starts = hidden.any(axis=other).argmax(axis=1)
    assert len(set(starts.tolist())) > 10


def test_several_masks_hide_more():
    one, four = (
        SpecAugment(number, 5, 0, 0, seed=0)(ONES, training=True).numpy().mean()
        for number in (1, 4)
    )
    assert four < one - 0.05


def test_without_training_nothing_is_hidden():
    np.testing.assert_array_equal(SpecAugment()(ONES), ONES)


def test_a_mask_hides_half_at_most():
    few = SpecAugment(1, 50, 0, seed=0)(ONES[:, :7], training=True).numpy()
    assert set(few[..., 0].sum(axis=1)) == {4, 5, 6, 7}


def test_negative_numbers_are_refused():
    with pytest.raises(ValueError, match=r"`max_frames` .* Received: max_frames=-1"):
        SpecAugment(max_frames=-1)
