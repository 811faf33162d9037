import numpy as np
import pytest

from apps.common.schedules import limit_epochs, warm_up_and_decay


def test_the_rate_rises_during_a_tenth_and_falls_along_a_cosine():
    schedule = warm_up_and_decay(0.4, steps=100)
    rates = np.array([float(schedule(step)) for step in range(101)])
    np.testing.assert_allclose(rates[:11], np.linspace(0, 0.4, 11), atol=1e-6)
    progress = np.linspace(0, 1, 91)
    expected = 0.2 * (1 + np.cos(np.pi * progress))
    np.testing.assert_allclose(rates[10:], expected, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_short_trainings_have_a_rate_too(steps):
    rates = [float(warm_up_and_decay(0.4, steps)(step)) for step in range(steps + 2)]
    assert np.isfinite(rates).all()
    assert max(rates) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("steps_per_epoch", "max_steps", "epochs", "expected"),
    [
        (100, None, [20], [(20, 100)]),
        (100, 2000, [20], [(20, 100)]),
        (100, 1999, [20], [(19, 100)]),
        (100, 150, [20], [(1, 100)]),
        (100, 99, [20], [(1, 99)]),
        (100, 1, [20], [(1, 1)]),
        # All phases are shortened alike.
        (100, 1100, [2, 20], [(1, 100), (10, 100)]),
        (100, 110, [2, 20], [(1, 10), (1, 100)]),
        (1000, 110, [2, 20], [(1, 10), (1, 100)]),
    ],
)
def test_large_data_sets_get_fewer_epochs(
    steps_per_epoch, max_steps, epochs, expected, capsys
):
    lengths = limit_epochs(steps_per_epoch, max_steps, *epochs)
    assert lengths == expected
    steps = sum(length.steps for length in lengths)
    assert max_steps is None or steps <= max_steps
    is_limited = steps < steps_per_epoch * sum(epochs)
    assert (f"--max-steps is {max_steps}" in capsys.readouterr().out) == is_limited


@pytest.mark.parametrize(
    ("steps_per_epoch", "max_steps", "epochs", "expected"),
    [
        (100, None, [20], [(20, 100)]),
        (10, None, [20], [(20, 25)]),
        (7, 9_999, [20], [(20, 25)]),
        (10, None, [2, 20], [(2, 23), (20, 23)]),
        # The largest number counts more than the least.
        (10, 499, [20], [(20, 10)]),
        (10, 100, [20], [(10, 10)]),
        (10, None, [0], [(0, 10)]),
    ],
)
def test_epochs_repeat_small_data_sets(
    steps_per_epoch, max_steps, epochs, expected, capsys
):
    lengths = limit_epochs(steps_per_epoch, max_steps, *epochs, min_steps=500)
    assert lengths == expected
    is_longer = lengths[0].steps_per_epoch > steps_per_epoch
    assert ("--min-steps is 500" in capsys.readouterr().out) == is_longer


def test_a_phase_that_is_skipped_stays_so():
    assert [length.epochs for length in limit_epochs(100, 300, 0, 6, 0)] == [0, 3, 0]
