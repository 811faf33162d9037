"""Timings of both sides in one run. They are not part of the tests."""
