import json

import numpy as np
import pytest

from apps.common import runs
from apps.speech_recognition import train as training
from apps.speech_recognition.config import Config
from apps.speech_recognition.data import Examples
from apps.speech_recognition.signatures import load_run
from apps.speech_recognition.tokenizer import make_tokenizer
from apps.speech_recognition.train import compile_model, make_model, train
from tests.apps.speech_recognition import tones

TINY = {**tones.SMALL, "filters": 2, "units": 4, "epochs": 1}


@pytest.mark.parametrize(
    ("decoder", "streaming"), [("ctc", True), ("attention", False)]
)
def test_the_settings_reach_the_model(decoder, streaming):
    config = Config(
        "",
        sampling_rate=4_000,
        num_mels=10,
        subsampling=4,
        filters=3,
        units=5,
        num_layers=1,
        dropout=0.4,
        streaming=streaming,
        time_masks=3,
        frequency_masks=1,
        decoder=decoder,
        decoder_units=7,
        ctc_weight=0.2,
        label_smoothing=0.05,
    )
    model = make_model(config, 9)
    names = {"time_masks": "num_time_masks", "frequency_masks": "num_frequency_masks"}
    for name, value in model.arguments.items():
        if name != "num_tokens":
            setting = {v: k for k, v in names.items()}.get(name, name)
            assert value == getattr(config, setting), name
    assert model.arguments["num_tokens"] == 9
    assert model.built


def test_the_settings_reach_the_optimizer():
    config = Config("", **{**TINY, "learning_rate": 0.01, "gradient_norm": 0.5})
    model = make_model(config, 5)
    compile_model(model, config, steps=100)
    assert model.optimizer.global_clipnorm == 0.5
    rates = [float(model.optimizer._learning_rate(step)) for step in range(100)]
    assert max(rates) == pytest.approx(0.01, rel=0.05)
    assert rates[-1] < 1e-4


def test_the_shorter_half_comes_first(tmp_path, monkeypatch):
    fits = []

    def fit(model, batches, validation_batches, run, phase, **options):
        samples = sum(int(lengths.numpy().sum()) for (_, lengths), _ in batches)
        names = ("initial_epoch", "epochs", "total_epochs", "patience")
        fits.append((phase, samples, *(options[name] for name in names)))
        if phase == "all":
            raise KeyboardInterrupt

    monkeypatch.setattr(runs, "fit", fit)
    table = tones.write(tmp_path, range(20))
    settings = {**TINY, "short_epochs": 2, "epochs": 5, "patience": 3}
    with pytest.raises(KeyboardInterrupt):
        train(Config(str(table), **settings), tmp_path / "run")
    (short, few, *numbers), (everything, all_samples, *other_numbers) = fits
    assert (short, numbers) == ("short", [0, 2, 7, None])
    assert (everything, other_numbers) == ("all", [2, 7, 7, 3])
    assert few < all_samples / 2


def test_the_shorter_half_has_the_shortest_recordings():
    waveforms = [np.zeros(n, "float32") for n in (5, 1, 4, 2, 3)]
    some = Examples(list("abcde"), waveforms, list("abcde"), [""] * 5)
    assert sorted(training.shorter_half(some).names) == ["b", "d", "e"]


def test_every_speaker_is_left_out_once(tmp_path, capsys):
    table = tones.write(tmp_path, range(24))
    config = Config(
        str(table), speaker_column="speaker", leave_one_speaker_out=True, **TINY
    )
    train(config, tmp_path / "run")
    scores = json.loads((tmp_path / "run/new_speakers.json").read_text())
    assert set(scores) == {"ann", "bob"}
    for speaker in scores:
        folder = tmp_path / "run/without" / speaker
        settings = json.loads((folder / "config.json").read_text())
        assert settings["test_speaker"] == speaker
        assert runs.summary(folder)["epochs"] == 1
    said = capsys.readouterr().out
    assert "without ann:" in said
    lines = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line}
    rates = [scores[name]["wer"] for name in ("ann", "bob")]
    assert float(lines["mean"][0]) == pytest.approx(np.mean(rates), abs=1e-4)
    assert float(lines["std."][1]) == pytest.approx(np.std(rates), abs=1e-4)
    # The model of the run knows both speakers.
    assert runs.summary(tmp_path / "run")["epochs"] == 1
    assert not load_run(tmp_path / "run").config.test_speaker
    before = (tmp_path / "run/without/ann/model.keras").stat().st_mtime_ns
    train(config, tmp_path / "run")
    assert (tmp_path / "run/without/ann/model.keras").stat().st_mtime_ns == before


@pytest.mark.parametrize("token", ["subword", "word"])
def test_other_tokens_are_learned(token, tmp_path):
    table = tones.write(tmp_path, range(20))
    config = Config(str(table), token=token, vocabulary_size=12, **TINY)
    train(config, tmp_path / "run")
    tokenizer = load_run(tmp_path / "run").tokenizer
    assert tokenizer.kind == token
    assert tokenizer.decode(tokenizer.encode("dab cc")) == "dab cc"


def test_the_words_of_the_training_texts_restrict_the_search(tmp_path):
    table = tones.write(tmp_path, range(20))
    config = Config(str(table), word_list="train", **TINY)
    train(config, tmp_path / "run")
    transcriber = load_run(tmp_path / "run")
    assert transcriber.word_list.log_probabilities.shape[1] == len(tones.WORDS)


def test_letters_of_other_texts_are_named(capsys):
    config = Config("")
    tokenizer = make_tokenizer(["ab", "ba"], config)

    def some(*texts):
        return Examples(list(texts), [np.zeros(9)] * len(texts), list(texts), texts)

    training.print_unknown(
        tokenizer, {"validation": some("ab", "xb"), "test": some("a")}
    )
    said = capsys.readouterr().err
    assert "texts for validation: x" in said
    assert "test" not in said.replace("texts", "")
