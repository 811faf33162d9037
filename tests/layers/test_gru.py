"""See `test_recurrence.py` for what holds for `LSTM` and `GRU` alike."""

import pytest

from layers import GRU
from tests.layers.layer_contract import check_layer


@pytest.mark.parametrize(
    ("arguments", "output_shape"),
    [
        ({"return_sequences": True, "recurrent_dropout": 0.2}, (2, 5, 4)),
        ({"reset_after": False, "dropout": 0.2, "go_backwards": True}, (2, 4)),
    ],
    ids=["reset-after", "reset-before"],
)
def test_contract(arguments, output_shape, tmp_path):
    check_layer(GRU, {"units": 4, **arguments}, (2, 5, 3), output_shape, tmp_path, 3)
