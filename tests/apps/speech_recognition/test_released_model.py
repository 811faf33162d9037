"""The released models on their data; the contract checks the files and their names."""

import dataclasses
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from apps.common import audio, datasets, lite
from apps.speech_recognition import metrics
from apps.speech_recognition.config import CONFIGS
from apps.speech_recognition.data import load_split
from apps.speech_recognition.evaluate import score
from apps.speech_recognition.signatures import load_model
from tests.device import make_device
from tests.model_server import serve

ROOT = Path(__file__).parents[3]
RELEASED = {
    "spoken_digits": ROOT / "saved_models/speech_recognition",
    "an4": ROOT / "saved_models/speech_recognition_an4",
}
NUM_TEST = {"spoken_digits": 300, "an4": 130}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=RELEASED)
def preset(request):
    return request.param


@pytest.fixture(scope="module")
def released(preset):
    return RELEASED[preset]


@pytest.fixture(scope="module")
def card(released):
    return json.loads((released / "card.json").read_text())


@pytest.fixture(scope="module")
def examples(preset):
    """The recordings that the card's scores are of."""
    config = CONFIGS[preset]()
    path = ROOT / config.data
    if not path.exists():
        pytest.skip(f"needs {config.data}")
    return load_split(dataclasses.replace(config, data=str(path)), "test")


def test_it_transcribes_as_well_as_its_card_says(preset, released, card, examples):
    (row,) = [row for row in card["engines"] if row["engine"] == "SavedModel"]
    predictor = load_model(str(released / "1"))
    transcripts = score(predictor, examples, 8_000).transcripts
    found = metrics.error_rates(examples.texts, transcripts)
    assert len(examples) == NUM_TEST[preset]
    # Another processor may round differently, which can change a few letters.
    for name in ("wer", "cer", "accuracy"):
        assert found[name] == pytest.approx(row[name], abs=0.01)


def test_the_preset_is_that_of_the_release(preset, card):
    config = dataclasses.asdict(CONFIGS[preset]())
    config = json.loads(json.dumps(config))
    assert {name: config[name] for name in card["config"]} == card["config"]


def test_served_and_on_a_device_it_transcribes_alike(released, examples):
    some = datasets.evenly(examples, 40)

    def transcribe(where):
        return score(load_model(str(where)), some, 8_000).transcripts

    expected = np.array(transcribe(released / "1"))
    assert np.mean(expected == transcribe(released / "edge")) >= 0.975
    with serve(released.name, released / "1") as addresses:
        for address in addresses:
            assert np.mean(expected == transcribe(address)) >= 0.975


def test_its_lstms_are_fused_and_small(released):
    operations = lite.operations((released / "edge/model.tflite").read_bytes())
    assert operations["UNIDIRECTIONAL_SEQUENCE_LSTM"] == 4
    assert "WHILE" not in operations
    size = sum(
        path.stat().st_size
        for folder in RELEASED.values()
        for path in folder.rglob("*")
        if path.is_file()
    )
    assert size < 15e6


def test_its_bundle_starts_without_tensorflow(released, examples, tmp_path):
    waveform = examples.waveforms[0]
    soundfile.write(tmp_path / "message.wav", waveform, 8_000)
    bundle, python = make_device(released / "edge", tmp_path)
    line = [python, bundle / "run.py", tmp_path / "message.wav"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    answers = load_model(str(released / "1"))([audio.encode_wav(waveform, 8_000)])
    assert done.stdout.split("\t")[1].strip() == answers["transcripts"][0].decode()
    assert answers["transcripts"][0]
