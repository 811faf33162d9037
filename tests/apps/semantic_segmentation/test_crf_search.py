import json

import numpy as np
import pytest

from apps.common.errors import BadInput
from apps.semantic_segmentation import crf_search
from apps.semantic_segmentation.crf_search import COARSE, FINE, find_best, search
from apps.semantic_segmentation.signatures import load_run
from tests.apps.semantic_segmentation.shapes import (
    random_network,
    small,
    write,
    write_run,
)


def test_the_best_parameters_are_found_beyond_the_coarse_grid():
    best = {
        name: COARSE[name][-1] * factor ** (i % 3)
        for i, (name, factor) in enumerate(FINE.items())
    }

    def measure(parameters):
        distances = [
            abs(np.log(parameters[name] / best[name]) / np.log(factor))
            for name, factor in FINE.items()
        ]
        return {"mean_iou": -sum(distances)}

    found, metrics = find_best(measure)
    assert found == pytest.approx(best)
    assert metrics["mean_iou"] == pytest.approx(0)


@pytest.fixture
def run(tmp_path):
    """A run of random weights, with 2 validation images."""
    write(tmp_path / "data", range(20))
    config = small(tmp_path / "data", iterations=2)
    write_run(tmp_path / "run", config, random_network())
    return tmp_path / "run"


def test_the_parameters_are_kept_in_the_run(run, monkeypatch):
    assert load_run(run).crf.position_sigma == 60
    few = {name: values[:1] for name, values in COARSE.items()}
    monkeypatch.setattr(crf_search, "COARSE", few)
    monkeypatch.setattr(crf_search, "FINE", {"appearance_weight": 2.0})
    found = search(run)
    assert json.loads((run / "crf.json").read_text()) == found
    crf = load_run(run).crf
    assert float(crf.appearance) == found["appearance_weight"]
    assert crf.position_sigma == found["position_sigma"] == 30


def test_a_search_needs_a_run_with_validation_images(run):
    config = small(run.parent / "data", validation_prefix="none")
    write_run(run, config, random_network())
    with pytest.raises(BadInput, match="has no validation images"):
        search(run)
    with pytest.raises(BadInput, match="holds no trained model; run train first"):
        search(run.parent / "nowhere")
