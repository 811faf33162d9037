import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from apps.common.errors import BadInput
from apps.common.text import PADDING, UNKNOWN
from apps.sentiment_analysis import data
from apps.sentiment_analysis.config import CONFIGS, Config
from apps.sentiment_analysis.data import Examples
from apps.sentiment_analysis.evaluate import score
from apps.sentiment_analysis.model import load_classifier
from apps.sentiment_analysis.tokenizer import train_tokenizer


def read(path, **columns):
    return data.read_rows(path, Config("", **columns))


def write(path, *rows, encoding="utf-8"):
    path.write_text("\n".join(rows) + "\n", encoding)
    return path


def test_columns_have_names(tmp_path):
    path = write(tmp_path / "a.tsv", "id\tsays\tmeans", "1\thello\tno")
    assert read(path, text_column="says", label_column="means") == [("hello", "no")]


def test_rows_without_text_are_named_and_left_out(tmp_path, capsys):
    path = write(tmp_path / "a.tsv", "text\tlabel", "a\tno", "  \tno", "\tno", "b\tno ")
    assert read(path) == [("a", "no"), ("b", "no")]
    error = capsys.readouterr().err
    assert error == f"skipped: 2 rows of {path} without text, the first in line 3\n"


def test_a_table_is_split_with_equal_shares_of_every_class(own_table):
    splits, class_names = data.load_examples(Config(str(own_table)))
    assert class_names == ["complaint", "praise", "question"]
    shares = {
        name: np.bincount(split.labels).tolist() for name, split in splits.items()
    }
    assert shares == {"train": [8, 8, 8], "validation": [1, 1, 1], "test": [3, 3, 3]}
    rows = [
        (text, class_names[label])
        for split in splits.values()
        for text, label in zip(split.texts, split.labels, strict=True)
    ]
    assert sorted(rows) == sorted(read(own_table))  # Each once, with its label.


def test_splits_depend_on_the_seed_alone(own_table):
    first, again, other = (
        data.load_examples(Config(str(own_table), seed=seed, units=seed + 1))[0]
        for seed in (0, 0, 1)
    )
    for split, examples in first.items():
        assert examples.texts == again[split].texts != other[split].texts


def test_a_folder_has_a_file_for_each_split(tmp_path):
    header = "text\tlabel"
    write(tmp_path / "train.tsv", header, *["a\tno", "b\tyes"] * 3)
    write(tmp_path / "Valid.tsv", header, "c\tyes")
    write(tmp_path / "test.csv", "text,label", "d,no")
    for name in ("notes.tsv", "notes.csv", "test_2016.tsv"):
        write(tmp_path / name, "nothing of that kind")
    splits, class_names = data.load_examples(Config(str(tmp_path)))
    assert class_names == ["no", "yes"]
    assert len(splits["train"]) == 6
    assert (splits["validation"].texts, splits["validation"].labels) == (["c"], [1])
    assert (splits["test"].texts, splits["test"].labels) == (["d"], [0])
    (tmp_path / "test.csv").unlink()
    splits, _ = data.load_examples(Config(str(tmp_path)))
    assert splits["test"].texts == ["c"]
    assert set(splits["validation"].texts) == {"a", "b"}


def test_a_foreign_table_is_scored_whole(own_table):
    config = Config(str(own_table))
    examples, class_names = data.load_split(config, "test", foreign=True)
    assert (len(examples), len(class_names)) == (36, 3)
    examples, _ = data.load_split(config, "test")
    assert len(examples) == 9
    everything, _ = data.load_split(config, "all")
    assert len(everything) == len(everything.labels) == 36
    assert len(set(everything.texts)) == 36


def test_tensorflow_datasets_are_read(tmp_path):
    import tensorflow_datasets as tfds

    records = [(i, {"says": f"text ü {i}", "means": i % 2}) for i in range(20)]
    tfds.dataset_builders.store_as_tfds_dataset(
        name="tiny_texts",
        version="1.0.0",
        features=tfds.features.FeaturesDict(
            {
                "says": tfds.features.Text(),
                "means": tfds.features.ClassLabel(names=["odd", "even"]),
            }
        ),
        split_datasets={"train": records[:16], "test": records[16:]},
        data_dir=tmp_path,
    )
    tfds.core.add_data_dir(tmp_path)
    config = Config(
        "tfds:tiny_texts",
        text_column="says",
        label_column="means",
        validation_fraction=0.25,
    )
    splits, class_names = data.load_examples(config)
    assert class_names == ["even", "odd"]  # Sorted, as everywhere.
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [12, 4, 4]
    for text, label in zip(splits["test"].texts, splits["test"].labels, strict=True):
        number = int(text.removeprefix("text ü "))
        assert number >= 16
        assert class_names[label] == ["odd", "even"][number % 2]
    with pytest.raises(BadInput, match=r"no `text` and `label`; .* text class"):
        data.load_examples(Config("tfds:tiny_texts"))


WORDS = [f"{a}{b}" for a in "bdfgklmnprst" for b in "aeiou"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([" ".join(WORDS)] * 10, 200)


def make_examples(number, longest=60):
    random = np.random.default_rng(0)
    texts = [
        " ".join(random.choice(WORDS, random.integers(1, longest)))
        for _ in range(number)
    ]
    return Examples(texts, random.integers(0, 3, number))


def batches_of(examples, tokenizer, training=False, weights=(1, 1, 1), **changes):
    settings = {"batch_size": 8, "token_dropout": 0.0, **changes}
    config = Config("", **settings)
    return data.make_batches(examples, config, tokenizer, weights, training)


def rows_of(batches):
    """The tokens without padding, and the label, of every text."""
    rows = []
    for tokens, labels, _ in batches:
        for row, label in zip(tokens.numpy(), labels.numpy(), strict=True):
            length = int((row != PADDING).sum())
            assert (row[length:] == PADDING).all()  # Only at the end.
            rows.append((row[:length].tolist(), int(label.argmax())))
    return rows


@pytest.mark.parametrize("training", [False, True])
def test_batches_hold_exactly_the_texts(training, tokenizer):
    examples = make_examples(203)
    batches = batches_of(examples, tokenizer, training)
    tokens = tokenizer(tf.constant(examples.texts)).to_list()
    expected = sorted(zip(tokens, examples.labels.tolist(), strict=True))
    for _ in range(2):  # Every epoch.
        assert sorted(rows_of(batches)) == expected


def test_batches_are_as_many_as_they_say_and_little_is_padding(tokenizer):
    for number in (1, 8, 203):
        batches = batches_of(make_examples(number), tokenizer)
        tokens = [tokens.numpy() for tokens, _, _ in batches]
        assert len(batches) == len(tokens)
        assert batches.cardinality() == len(tokens)
        assert all(len(each) <= 8 for each in tokens)
    filled = sum((each != PADDING).sum() for each in tokens)
    assert filled / sum(each.size for each in tokens) > 0.85
    for each in tokens:
        lengths = (each != PADDING).sum(axis=1)
        assert len(np.unique(np.digitize(lengths, data.BUCKETS))) == 1
        assert lengths.max() == each.shape[1]


def test_training_texts_come_in_another_order_each_epoch(tokenizer):
    examples = make_examples(100)
    shuffled = batches_of(examples, tokenizer, training=True)
    assert rows_of(shuffled) != rows_of(shuffled)
    plain = batches_of(examples, tokenizer)
    assert rows_of(plain) == rows_of(plain)


def test_training_texts_alone_are_cut(tokenizer):
    examples = make_examples(40)
    whole = rows_of(batches_of(examples, tokenizer, max_tokens=10))
    assert max(len(tokens) for tokens, _ in whole) > 40
    cut = rows_of(batches_of(examples, tokenizer, training=True, max_tokens=10))
    assert sorted(cut) == sorted((tokens[:10], label) for tokens, label in whole)


def test_training_alone_hides_pieces(tokenizer):
    examples = make_examples(100)
    tokens = {
        training: np.concatenate(
            [
                row
                for row, _ in rows_of(
                    batches_of(examples, tokenizer, training, token_dropout=0.3)
                )
            ]
        )
        for training in (False, True)
    }
    assert (tokens[False] == UNKNOWN).mean() == 0
    assert len(tokens[True]) == len(tokens[False])  # No padding is touched.
    assert (tokens[True] == UNKNOWN).mean() == pytest.approx(0.3, abs=0.05)


def test_examples_weigh_as_their_classes(tokenizer):
    weights = np.array([0.5, 1.0, 3.0])
    for training in (False, True):
        for _, labels, given in batches_of(
            make_examples(50), tokenizer, training, weights
        ):
            np.testing.assert_allclose(given, labels.numpy() @ weights)
            assert (labels.numpy().sum(axis=1) == 1).all()
            assert given.dtype == "float32"


def test_one_text_is_a_batch_too(tokenizer):
    examples = Examples(["ba da"], np.array([2]))
    ((tokens, labels, weights),) = batches_of(examples, tokenizer, training=True)
    assert tokens.shape[0] == len(weights) == 1
    assert labels.numpy().tolist() == [[0, 0, 1]]


def test_sentences_are_balanced_and_differ():
    rows = data.make_sentences()
    assert len(rows) == len({text for text, _ in rows}) == data.SENTENCES
    labels = [label for _, label in rows]
    for name in ("negative", "neutral", "positive"):
        assert labels.count(name) == data.SENTENCES / 3
    assert data.make_sentences(50) == rows[:50]
    assert data.make_sentences(50, seed=1) != rows[:50]


@pytest.mark.parametrize("polarity", ["negative", "neutral", "positive"])
def test_a_clause_means_what_it_is_to_mean(polarity):
    """Read by a plain rule: the adjectives' own polarity, turned by a negation."""
    random = np.random.default_rng(0)
    turned = {"negative": "positive", "positive": "negative"}
    for _ in range(300):
        clause = data.write_clause(polarity, random)
        words = clause.split()
        found = [
            name
            for name, adjectives in data.ADJECTIVES.items()
            for word in words
            if word in adjectives
        ]
        negated = any(each in clause for each in (" not ", "never", "but", "nobody"))
        if "neither" in clause:
            assert sorted(found) == ["negative", "positive"]
            assert polarity == "neutral"
        else:
            (meant,) = found
            assert (turned[meant] if negated else meant) == polarity


def test_counting_words_is_not_enough_for_the_sentences(run):
    splits, class_names = data.load_examples(CONFIGS["sentences"]())
    train, test = splits["train"], splits["test"]
    counting = make_pipeline(TfidfVectorizer(), LinearSVC())
    counting.fit(train.texts, train.labels)
    accuracy = counting.score(test.texts, test.labels)
    trained = score(load_classifier(run), test, class_names)
    assert accuracy < 0.9
    assert trained.accuracy >= 0.97


@pytest.mark.parametrize("preset", CONFIGS)
def test_presets_are_described(preset):
    assert len(CONFIGS[preset].__doc__) > 30
    assert isinstance(CONFIGS[preset](), Config)


def test_settings_that_cannot_work_are_refused():
    for name in ("vocabulary_size", "max_tokens", "units", "batch_size", "epochs"):
        with pytest.raises(BadInput, match=f"--{name.replace('_', '-')} 0 must be"):
            dataclasses.replace(Config(""), **{name: 0})
