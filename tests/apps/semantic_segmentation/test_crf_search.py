import json
import shutil

import numpy as np
import pytest

from apps.semantic_segmentation import crf_search
from apps.semantic_segmentation.model import load_segmenter


def test_the_best_parameters_are_found_beyond_the_coarse_grid(
    run, tmp_path, monkeypatch
):
    # Some steps farther than the last of the coarse grid.
    best = {
        name: crf_search.COARSE[name][-1] * factor ** (i % 3)
        for i, (name, factor) in enumerate(crf_search.FINE.items())
    }

    def make_crf(config, **settings):
        """Spoils the answers the more, the farther the settings are from the best."""
        distance = sum(
            abs(np.log(settings[name] / best[name]) / np.log(factor))
            for name, factor in crf_search.FINE.items()
        )
        noise = np.random.default_rng(0).normal(size=(2, 64, 64, 3))
        spoil = (5 * distance * noise).astype("float32")
        return lambda inputs: inputs[0] + spoil

    monkeypatch.setattr(crf_search, "make_crf", make_crf)
    copy = shutil.copytree(run, tmp_path / "copy")
    assert crf_search.search(copy) == pytest.approx(best, rel=0.01)
    assert json.loads((copy / "crf.json").read_text()) == pytest.approx(best, rel=0.01)
    crf = load_segmenter(copy).crf
    assert float(crf.appearance) == pytest.approx(best["appearance_weight"], rel=0.01)
    assert crf.position_sigma == pytest.approx(best["position_sigma"], rel=0.01)
    assert load_segmenter(run).crf.position_sigma == 60
