"""The settings of a training, and the published runs as presets."""

from dataclasses import dataclass
from typing import Annotated, Literal

from apps.common.errors import BadInput
from apps.common.ranges import (
    Count,
    CountOrZero,
    Fraction,
    LearningRate,
    Minutes,
    PartialFraction,
    PositiveNumber,
    Range,
    Rate,
    Seed,
    check_ranges,
)

MAX_SECONDS = 60  # Of a recording that a model transcribes.
Decibels = Annotated[float, Range(-20, 100)]
Factor = Annotated[float, Range(0.5, 2)]


@dataclass(frozen=True)
class Config:
    """Trains a speech recognizer: bidirectional LSTMs with CTC or attention.

    The defaults suit your own recordings of commands and sentences.
    """

    # Data
    data: str
    """A TSV or CSV table with columns of audio files and texts; a folder with such
    tables named `train`, `val` and `test`; a folder like LibriSpeech, with
    `*.trans.txt`; a folder with a folder of recordings for each word; `tfds:NAME`; or
    `morse`, which is built in."""
    data_licence: str = "not stated"
    """Source and licence of the data, for the model card."""
    audio_column: str = "audio"
    """Column of the audio files; paths are relative to the table."""
    text_column: str = "text"
    """Column of the texts."""
    speaker_column: str | None = None
    """Column of the speakers. They are scored one by one. If the data has no test
    split, whole speakers are held out, of four at least."""
    split_column: str | None = None
    """Column of the split of each row, if a single table has all of them."""
    test_speaker: str | None = None
    """Train without this speaker, and test on this one only."""
    leave_one_speaker_out: bool = False
    """Before the training with all speakers, train without each in turn, and report
    how the one left out is recognized: what a new speaker may expect."""
    validation_fraction: PartialFraction = 0.1
    """Fraction of the training recordings held out for validation, if the data has no
    validation split."""

    # Audio
    sampling_rate: Annotated[int, Range(4_000, 48_000)] = 16_000
    """Samples per second that the network hears, a multiple of 100. Recordings are
    resampled."""
    max_seconds: Annotated[float, Range(0.1, MAX_SECONDS)] = 20.0
    """Longest training recording; longer ones are skipped."""
    noise: Fraction = 0.5
    """Fraction of the training recordings to which noise is added."""
    signal_to_noise: tuple[Decibels, Decibels] = (5.0, 30.0)
    """Lowest and highest level of a recording above that noise, in decibels."""
    speed: tuple[Factor, Factor] = (0.9, 1.1)
    """Slowest and fastest speed of training recordings."""
    gain: Decibels = 10.0
    """Training recordings are made louder or quieter at random by up to so many
    decibels."""
    time_masks: CountOrZero = 2
    """Spans of time that SpecAugment hides, of up to 0.1 seconds each."""
    frequency_masks: CountOrZero = 2
    """Bands of frequency that SpecAugment hides."""

    # Model
    token: Literal["character", "subword", "word"] = "character"
    """What the network writes."""
    vocabulary_size: Annotated[int, Range(10, 10**5)] = 500
    """Maximum number of subword tokens."""
    num_mels: Annotated[int, Range(8, 128)] = 64
    """Frequency bands of the spectrogram."""
    subsampling: Literal[1, 2, 4] = 2
    """10 ms frames for each output of the network. Fewer outputs are faster, but each
    token needs one at least."""
    filters: Count = 32
    """Filters of the convolutions."""
    units: Count = 128
    """Units of each LSTM, in each direction."""
    num_layers: Annotated[int, Range(1, 10)] = 2
    """Number of LSTMs, one on top of the other."""
    dropout: Rate = 0.3
    """Dropout rate before each LSTM and before the output."""
    decoder: Literal["ctc", "attention"] = "ctc"
    """`ctc` writes the token of each frame. `attention` writes token after token, and
    attends to the frames; it needs more recordings."""
    decoder_units: Count = 128
    """Units of the attention decoder."""
    streaming: bool = False
    """LSTMs that read forwards only. The device can then write while it listens."""

    # Search
    beam_size: Annotated[int, Range(1, 100)] = 16
    """Number of prefixes that the beam search keeps."""
    word_list: str | None = None
    """A text file with one word per line, or `train` for the words of the training
    texts. The beam search of CTC writes no other words."""
    language_weight: Annotated[float, Range(0, 10)] = 0.5
    """Weight of the words' probabilities, from pairs of words in the training texts;
    for `--word-list`."""
    word_bonus: Annotated[float, Range(-10, 10)] = 0.0
    """Added to the score of a text for each of its words; for `--word-list`."""

    # Training
    short_epochs: CountOrZero = 3
    """Epochs with the shorter half of the recordings, before those with all of them.
    Without them, CTC may write nothing for a long time."""
    epochs: Count = 60
    """Number of epochs with all recordings."""
    patience: Count | None = None
    """Epochs without a better validation error rate after which training stops."""
    min_steps: CountOrZero = 2_500
    """Least number of training steps; every epoch repeats small data sets."""
    max_steps: Count | None = 10_000
    """Largest number of training steps; large data sets get fewer epochs, or a part of
    one."""
    max_minutes: Minutes | None = None
    """Minutes after which the training ends with its best model, those before an
    interruption included. Reading the data does not count."""
    batch_size: Count = 16
    """Recordings per training step, of similar lengths."""
    learning_rate: LearningRate = 2e-3
    """Peak learning rate: linear warm-up in the first tenth of the steps, then cosine
    decay."""
    ctc_weight: Fraction = 0.3
    """Weight of the CTC loss beside that of the attention decoder."""
    label_smoothing: Rate = 0.1
    """Label smoothing of the attention decoder."""
    gradient_norm: PositiveNumber = 1.0
    """Maximum norm of all gradients together; larger ones are scaled down."""
    seed: Seed = 0
    """Seed of the splits, the initial weights, the order and the augmentation."""

    def __post_init__(self):
        """Checks the ranges of all numbers, and settings that depend on each other."""
        check_ranges(Config, vars(self))
        if self.sampling_rate % 100:
            raise BadInput(
                f"--sampling-rate {self.sampling_rate} must be a multiple of 100"
            )
        if self.streaming and self.decoder == "attention":
            raise BadInput("--streaming needs --decoder ctc, not attention")
        if self.word_list and self.decoder == "attention":
            raise BadInput(
                f"--word-list {self.word_list} needs --decoder ctc; pass --word-list "
                "None"
            )
        for name in ("signal_to_noise", "speed"):
            low, high = getattr(self, name)
            if low > high:
                raise BadInput(
                    f"--{name.replace('_', '-')} {low} {high} must be in order, the "
                    "smaller first"
                )


def morse():
    """Messages in Morse code: 2.4 minutes on two cores, test CER 0.006.

    python -m apps.speech_recognition train morse
    """
    return Config(
        data="morse",
        data_licence="generated; no licence needed",
        sampling_rate=8_000,
        noise=0.0,
        speed=(1.0, 1.0),
        gain=0.0,
        time_masks=0,
        frequency_masks=0,
        num_mels=40,
        subsampling=4,
        units=96,
        num_layers=1,
        dropout=0.0,
        short_epochs=8,
        epochs=12,
        patience=15,
        batch_size=8,
        learning_rate=5e-3,
    )


def spoken_digits():
    """The Free Spoken Digit Dataset: 12 minutes on two cores, test accuracy 1.000.

    python -m apps.speech_recognition train spoken_digits
    """
    return Config(
        data="data/fsdd/manifest.tsv",
        data_licence="Free Spoken Digit Dataset, CC BY-SA 4.0",
        audio_column="path",
        text_column="digit",
        speaker_column="speaker",
        split_column="split",
        sampling_rate=8_000,
        num_mels=40,
        epochs=40,
        patience=15,
    )


def an4():
    """CMU's AN4, letters, numbers and commands: 17 minutes on two cores, WER 0.072.

    python -m apps.speech_recognition train an4
    """
    return Config(
        data="data/an4/manifest.tsv",
        data_licence="CMU AN4, permissive licence of its own",
        audio_column="path",
        text_column="transcript",
        speaker_column="speaker",
        split_column="suggested_split",
        sampling_rate=8_000,
        word_list="train",
        patience=15,
    )


CONFIGS = {"morse": morse, "spoken_digits": spoken_digits, "an4": an4}
