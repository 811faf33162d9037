import numpy as np
import pytest

from apps.common.schedules import warm_up_and_decay


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
