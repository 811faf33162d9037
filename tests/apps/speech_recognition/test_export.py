import io
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from apps.common import audio, lite
from apps.speech_recognition import edge
from apps.speech_recognition.config import Config
from apps.speech_recognition.export import export
from apps.speech_recognition.signatures import load_model, load_run
from apps.speech_recognition.train import train
from tests.apps.speech_recognition import tones


@pytest.fixture(scope="module")
def streaming(tmp_path_factory):
    """Returns the folder of an exported model that streams."""
    folder = tmp_path_factory.mktemp("streaming")
    table = tones.write(folder, range(80))
    config = Config(str(table), streaming=True, **tones.SMALL)
    train(config, folder / "run")
    export(folder / "run", folder / "models", ("float32",))
    return folder / "models"


def test_a_device_writes_while_it_listens(streaming):
    """What it wrote before the end of the recording does not change."""
    waveform, _, _ = tones.draw(4)
    samples = (waveform.clip(-1, 1) * 32_767).astype("<i2")
    greedy = load_model(str(streaming / "edge"), "greedy")
    file = audio.encode_wav(samples / np.float32(2**15), tones.RATE)
    (text,) = greedy([file])["transcripts"]
    samples = samples.tobytes()
    program = [sys.executable, streaming / "edge/run.py", "--stream"]
    process = subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    half = len(samples) // 4 * 2
    process.stdin.write(samples[:half])
    first = process.stdout.read(1).decode()
    rest, _ = process.communicate(samples[half:])
    assert (first + rest.decode()).strip() == text.decode()


def test_pieces_give_the_log_probabilities_of_the_whole(streaming):
    settings = json.loads((streaming / "edge/search.json").read_text())
    path = streaming / "edge/model.tflite"
    listener = edge.Listener(edge.Interpreter(str(path), num_threads=1))
    samples = edge.fill(tones.draw(5)[0], settings)
    whole = listener.start().hear(samples)
    step = 3 * settings["chunk_samples"]
    samples = np.pad(samples, (0, -len(samples) % step))
    listener.start()
    pieces = [listener.hear(piece) for piece in samples.reshape(-1, step)]
    pieces = np.concatenate(pieces)[: len(whole)]
    np.testing.assert_allclose(pieces, whole, atol=1e-4)
    # The state does matter.
    alone = listener.start().hear(samples[step : 2 * step])
    assert np.abs(alone - whole[len(alone) : 2 * len(alone)]).max() > 0.1


def test_a_streaming_model_is_small_and_fused(streaming):
    names = lite.operations((streaming / "edge/model.tflite").read_bytes())
    assert "UNIDIRECTIONAL_SEQUENCE_LSTM" in names
    assert "WHILE" not in names


def test_a_model_of_whole_recordings_does_not_stream(exported):
    done = subprocess.run(
        [sys.executable, exported / "edge/run.py", "--stream"],
        input=b"",
        capture_output=True,
    )
    assert done.returncode == 2
    assert b"needs whole recordings" in done.stderr


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "DOUBLE"])
@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100])
def test_a_device_decodes_and_resamples_as_the_graph_does(subtype, rate):
    import soundfile

    samples = np.random.default_rng(0).uniform(-0.9, 0.9, (3_000, 2))
    file = io.BytesIO()
    soundfile.write(file, samples, rate, subtype, format="WAV")
    found, found_rate, error = audio.decode_wav(file.getvalue(), 60)
    expected = audio.resample(found, found_rate, tones.RATE)
    ours, our_rate = edge.decode_wav(file.getvalue(), 60)
    assert (our_rate, error) == (rate, b"")
    np.testing.assert_allclose(
        edge.resample(ours, our_rate, tones.RATE), expected, atol=1e-5
    )


def test_the_answers_of_a_model_with_attention_are_the_devices(tmp_path):
    table = tones.write(tmp_path, range(16))
    settings = {**tones.SMALL, "epochs": 1, "decoder": "attention"}
    train(Config(str(table), decoder_units=16, **settings), tmp_path / "run")
    # Disturbed weights give varied transcripts; a few seconds of training do not.
    model = keras.saving.load_model(tmp_path / "run/model.keras", compile=False)
    random = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign_add(random.normal(0, 0.5, weight.shape))
    # The SavedModel's precision: the export compares its transcripts too.
    for variable in model.variables:
        if variable.dtype == "float32":
            variable.assign(variable.numpy().astype("float16"))
    model.save(tmp_path / "run/model.keras")
    export(tmp_path / "run", tmp_path / "models", ("float32",))
    files = [audio.encode_wav(tones.draw(seed)[0], tones.RATE) for seed in range(8)]
    # The SavedModel would not do: it stores its weights in half precision.
    expected = load_run(tmp_path / "run").transcribe(tf.constant(files))
    answers = load_model(str(tmp_path / "models/edge"))(files)
    transcripts = expected["transcripts"].numpy()
    assert (answers["transcripts"] == transcripts).all()
    assert len(set(transcripts)) > 3
    np.testing.assert_allclose(answers["scores"], expected["scores"], atol=1e-4)
