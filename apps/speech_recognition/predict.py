"""Transcribes recordings: answers on the screen, and a figure of them."""

from collections.abc import Sequence
from pathlib import Path

from apps.common import audio, datasets, figures, runs
from apps.common.errors import BadInput
from apps.common.images import list_files
from apps.common.predictors import about, data_settings
from apps.speech_recognition.config import Config
from apps.speech_recognition.data import AUDIO_ENDINGS, load_split
from apps.speech_recognition.signatures import load_model, word_times

PIECE_SECONDS = 20.0  # Longer recordings are transcribed in pieces.
MAX_DRAWN = 6  # Recordings in the figure,
DRAWN_SECONDS = 10.0  # and how much of each.


def predict(
    inputs: Sequence[Path],
    model: str,
    microphone: float | None,
    json_file: Path | None,
    srt: Path | None,
    figure: Path,
) -> list[dict]:
    """Prints what is said in each recording, and draws the words above the sound.

    The arguments are the flags of the command, described in `__main__.py`.

    Returns:
        For each recording its `name`, the `transcript`, and the `words`: start, end and
        word of each.

    Raises:
        BadInput: The model or a recording cannot be used.
    """
    predictor = load_model(model)
    settings = (about(model) or {}).get("config", {})
    # Any rate will do; that of the model needs no resampling.
    rate = settings.get("sampling_rate", Config.sampling_rate)
    if microphone:
        recordings = [("microphone", iter([(0.0, record(microphone, rate))]))]
    elif inputs:
        recordings = [
            (str(path), audio.read_pieces(path, rate, PIECE_SECONDS))
            for path in find_recordings(inputs)
        ]
    else:
        config, _, held_out = data_settings(Config, model)
        examples = load_split(config, "test", held_out=held_out)
        some = datasets.evenly(examples, MAX_DRAWN)
        recordings = [
            (name, iter([(0.0, waveform)]))
            for name, waveform in zip(some.names, some.waveforms, strict=True)
        ]
    if srt and len(recordings) > 1:
        raise BadInput(
            f"--srt {srt} has room for one recording, not {len(recordings)}; pass one"
        )
    answers: list[dict] = []
    panels: list[tuple] = []
    for name, pieces in recordings:
        words, first = [], None
        for start, samples in pieces:
            first = samples if first is None else first
            answer = predictor([audio.encode_wav(samples, rate)])
            words += [
                (start + begin, start + end, word)
                for begin, end, word in word_times(answer["word_times"][0])
            ]
        if first is None:
            raise BadInput(f"{name} has no samples; pass another recording")
        transcript = " ".join(word for _, _, word in words)
        print(f"{name}\t{transcript}")
        answers.append({"name": name, "transcript": transcript, "words": words})
        if len(panels) < MAX_DRAWN:
            shown = first[: round(DRAWN_SECONDS * rate)]
            panels.append((Path(name).name, shown, words))
    if json_file:
        runs.write_json(json_file, answers)
        print(f"answers: {json_file}")
    if srt:
        runs.write_bytes(srt, subtitles(answers[0]["words"]).encode())
        print(f"subtitles: {srt}")
    figures.draw_recordings(panels, rate, figure)
    print(f"figure: {figure}")
    return answers


def record(seconds, rate):
    """Records with the microphone; returns the samples, float32 `(samples,)`.

    Raises:
        BadInput: There is no microphone, or the package for it is missing.
    """
    remedy = "record a file with another program, and pass it"
    try:
        import sounddevice
    except (ImportError, OSError) as error:
        raise BadInput(
            "--microphone needs the package sounddevice and the library PortAudio; "
            f"pip install 'keras-apps[microphone]', or {remedy}"
        ) from error
    print(f"recording {seconds:g} seconds")
    try:
        samples = sounddevice.rec(
            round(seconds * rate), rate, channels=1, dtype="float32", blocking=True
        )
    except sounddevice.PortAudioError as error:
        raise BadInput(f"the microphone cannot be read: {error}; {remedy}") from error
    return samples[:, 0]


def find_recordings(inputs):
    """Returns the recordings; folders are expanded.

    Raises:
        BadInput: There is no such file, or a folder has no recordings.
    """
    paths = []
    for path in inputs:
        if not path.is_dir():
            if not path.is_file():
                raise BadInput(f"there is no file {path}")
            paths.append(path)
            continue
        found = list_files(path)
        kept = [each for each in found if each.suffix.lower() in AUDIO_ENDINGS]
        datasets.print_skipped(
            (str(each), "is no recording") for each in found if each not in kept
        )
        if not kept:
            raise BadInput(f"{path} has no recordings; pass another folder")
        paths += kept
    return paths


def subtitles(words, max_words=8, max_pause=0.8):
    """Returns words as subtitles in SubRip's format.

    Args:
        words: Start, end and word of each, in seconds.
        max_words: The most words in one subtitle. Defaults to 8.
        max_pause: A longer pause ends a subtitle, in seconds. Defaults to 0.8.
    """
    groups = []
    for word in words:
        is_new = not groups or len(groups[-1]) == max_words
        if is_new or word[0] - groups[-1][-1][1] > max_pause:
            groups.append([])
        groups[-1].append(word)
    return "\n".join(
        f"{number}\n{_clock(group[0][0])} --> {_clock(group[-1][1])}\n"
        f"{' '.join(word for _, _, word in group)}\n"
        for number, group in enumerate(groups, start=1)
    )


def _clock(seconds):
    """Returns seconds as SubRip writes them: `00:01:02,345`."""
    milliseconds = round(1000 * seconds)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    seconds, milliseconds = divmod(milliseconds, 1000)
    return f"{hours:02}:{minutes:02}:{seconds:02},{milliseconds:03}"
