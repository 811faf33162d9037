import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from apps.common.errors import BadInput
from apps.common.text import PADDING, UNKNOWN
from apps.sentiment_analysis import data
from apps.sentiment_analysis.config import CONFIGS, Config
from apps.sentiment_analysis.data import Examples
from apps.sentiment_analysis.tokenizer import train_tokenizer


def read(path, **columns):
    return data.read_rows(path, Config("", **columns))


def write(path, *rows, encoding="utf-8"):
    path.write_text("\n".join(rows) + "\n", encoding)
    return path


def test_columns_have_names(tmp_path):
    path = write(tmp_path / "a.tsv", "id\tsays\tmeans", "1\thello\tno")
    assert read(path, text_column="says", label_column="means") == [("hello", "no")]


def test_texts_that_the_exported_model_refuses_are_skipped(tmp_path, capsys):
    longest = "ü" * (data.MAX_TEXT_BYTES // 2)
    rows = ["text\tlabel", f"{longest}\tno", f"{longest}!\tno"]
    assert read(write(tmp_path / "a.tsv", *rows)) == [(longest, "no")]
    says = "skipped 1 row: is longer than 10000 bytes; shorten it: line 3 of "
    assert capsys.readouterr().err.startswith(says)


def test_rows_without_text_or_label_are_skipped(tmp_path, capsys):
    rows = ["text\tlabel", "a\tno", "  \tno", "\tno", "b\tno ", "so\t ", "so"]
    path = write(tmp_path / "a.tsv", *rows)
    assert read(path) == [("a", "no"), ("b", "no")]
    assert capsys.readouterr().err.splitlines() == [
        f"skipped 2 rows: has no text: line 3 of {path}, line 4 of {path}",
        f"skipped 2 rows: has no label: line 6 of {path}, line 7 of {path}",
    ]


@pytest.fixture
def table(tmp_path):
    """A table of 12 texts in each of three classes."""
    rows = [f"{name} {i}\t{name}" for i in range(12) for name in ("a", "b", "c")]
    return write(tmp_path / "mine.tsv", "text\tlabel", *rows)


def test_a_table_is_split_in_the_same_way_for_every_class(table):
    splits = data.load_examples(Config(str(table)))
    counts = {
        name: np.bincount(split.labels).tolist() for name, split in splits.items()
    }
    assert counts == {"train": [8, 8, 8], "validation": [1, 1, 1], "test": [3, 3, 3]}
    rows = [
        (text, split.class_names[label])
        for split in splits.values()
        for text, label in zip(split.texts, split.labels, strict=True)
    ]
    assert sorted(rows) == sorted(read(table))  # Each once, with its label.


def test_only_the_seed_changes_the_splits(table):
    first, again, other = (
        data.load_examples(Config(str(table), seed=seed, units=units))
        for seed, units in ((0, 1), (0, 2), (1, 1))
    )
    for split, examples in first.items():
        assert examples.texts == again[split].texts != other[split].texts


def test_held_out_texts_stay_the_same_when_the_table_grows(table):
    config = Config(str(table))
    before = data.load_examples(config)
    with table.open("a") as file:
        file.writelines(f"b {i}\tb\n" for i in range(12, 20))
    grown = data.load_examples(config, before.held_out)
    for split in ("validation", "test"):
        assert sorted(grown[split].texts) == sorted(before[split].texts)
    assert len(grown["train"]) == len(before["train"]) + 8


def test_a_folder_has_a_file_for_each_split(tmp_path, capsys):
    header = "text\tlabel"
    write(tmp_path / "train.tsv", header, *["a\tno", "b\tyes"] * 3)
    write(tmp_path / "Valid.tsv", header, "c\tyes")
    write(tmp_path / "test.csv", "text,label", "d,no")
    for name in ("notes.tsv", "notes.csv", "test_2016.tsv"):
        write(tmp_path / name, "not a table")
    splits = data.load_examples(Config(str(tmp_path)))
    assert splits["train"].class_names == ("no", "yes")
    assert len(splits["train"]) == 6
    assert (splits["validation"].texts, splits["validation"].labels) == (["c"], [1])
    assert (splits["test"].texts, splits["test"].labels) == (["d"], [0])
    says = f"skipped 3 files: belongs to no split of {tmp_path}: notes.csv, notes.tsv, "
    assert capsys.readouterr().err.startswith(says)
    (tmp_path / "test.csv").unlink()
    splits = data.load_examples(Config(str(tmp_path)))
    assert splits["test"].texts == ["c"]
    assert set(splits["validation"].texts) == {"a", "b"}


def test_a_table_of_other_data_is_taken_whole(table):
    config = Config(str(table))
    examples = data.load_split(config, "test", is_other_data=True)
    assert (len(examples), len(examples.class_names)) == (36, 3)
    assert len(data.load_split(config, "test")) == 9
    everything = data.load_split(config, "all")
    assert len(everything) == len(everything.labels) == 36
    assert len(set(everything.texts)) == 36


def test_other_data_may_have_a_test_split_alone_and_a_single_class(tmp_path):
    write(tmp_path / "test.csv", "text;label", "good;yes", "so, so;yes")
    config = Config(str(tmp_path))
    examples = data.load_split(config, "test", is_other_data=True)
    assert examples.texts == ["good", "so, so"]
    assert examples.class_names == ("yes",)
    with pytest.raises(BadInput, match=r"has no file train\.tsv or train\.csv"):
        data.load_split(config, "test")


def test_tensorflow_datasets_are_read(tmp_path, capsys):
    import tensorflow_datasets as tfds

    records = [(i, {"says": f"text ü {i}", "means": i % 2}) for i in range(20)]
    records[3][1]["says"] = " "
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
    splits = data.load_examples(config)
    class_names = splits["train"].class_names
    assert class_names == ("even", "odd")  # Sorted, as everywhere.
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [11, 4, 4]
    error = capsys.readouterr().err
    assert "skipped 1 example: has no says: example " in error
    assert error.endswith(" of tfds:tiny_texts, train\n")
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


CLASSES = ("no", "so", "yes")


def make_examples(number, max_words=60):
    random = np.random.default_rng(0)
    texts = [
        " ".join(random.choice(WORDS, random.integers(1, max_words)))
        for _ in range(number)
    ]
    return Examples(texts, random.integers(0, 3, number), CLASSES)


def batches_of(examples, tokenizer, training=False, weights=(1, 1, 1), **changes):
    settings = {"batch_size": 8, "token_dropout": 0.0, **changes}
    config = Config("", **settings)
    return data.make_batches(examples, config, tokenizer, weights, training)


def rows_of(batches):
    """Returns the token ids without padding, and the label, of every text."""
    rows = []
    for token_ids, labels, _ in batches:
        for row, label in zip(token_ids.numpy(), labels.numpy(), strict=True):
            length = int((row != PADDING).sum())
            assert (row[length:] == PADDING).all()  # Only at the end.
            rows.append((row[:length].tolist(), int(label.argmax())))
    return rows


@pytest.mark.parametrize("training", [False, True])
def test_batches_hold_each_text_once(training, tokenizer):
    examples = make_examples(203)
    batches = batches_of(examples, tokenizer, training)
    token_ids = tokenizer(tf.constant(examples.texts)).to_list()
    expected = sorted(zip(token_ids, examples.labels.tolist(), strict=True))
    for _ in range(2):  # Every epoch.
        assert sorted(rows_of(batches)) == expected


def test_batches_know_their_number_and_have_little_padding(tokenizer):
    for number in (1, 8, 203):
        batches = batches_of(make_examples(number), tokenizer)
        token_ids = [each.numpy() for each, _, _ in batches]
        assert len(batches) == len(token_ids)
        assert batches.cardinality() == len(token_ids)
        assert all(len(each) <= 8 for each in token_ids)
    filled = sum((each != PADDING).sum() for each in token_ids)
    assert filled / sum(each.size for each in token_ids) > 0.85
    for each in token_ids:
        lengths = (each != PADDING).sum(axis=1)
        assert len(np.unique(np.digitize(lengths, data.BUCKET_BOUNDARIES))) == 1
        assert lengths.max() == each.shape[1]


def test_training_texts_are_shuffled_in_each_epoch(tokenizer):
    examples = make_examples(100)
    shuffled = batches_of(examples, tokenizer, training=True)
    assert rows_of(shuffled) != rows_of(shuffled)
    plain = batches_of(examples, tokenizer)
    assert rows_of(plain) == rows_of(plain)


def test_only_training_texts_are_cut(tokenizer, capsys):
    examples = make_examples(40)
    whole = rows_of(batches_of(examples, tokenizer, max_tokens=10))
    assert max(len(row) for row, _ in whole) > 40
    assert capsys.readouterr().out == ""
    num_long = sum(len(row) > 10 for row, _ in whole)
    cut = rows_of(batches_of(examples, tokenizer, training=True, max_tokens=10))
    assert sorted(cut) == sorted((row[:10], label) for row, label in whole)
    says = f"cut: {num_long} of 40 training texts, to 10 tokens (--max-tokens)\n"
    assert capsys.readouterr().out == says


def test_only_training_drops_tokens(tokenizer):
    examples = make_examples(100)
    token_ids = {
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
    assert (token_ids[False] == UNKNOWN).mean() == 0
    assert len(token_ids[True]) == len(token_ids[False])  # Padding stays padding.
    assert (token_ids[True] == UNKNOWN).mean() == pytest.approx(0.3, abs=0.05)


def test_examples_have_the_weights_of_their_classes(tokenizer):
    weights = np.array([0.5, 1.0, 3.0])
    for training in (False, True):
        for _, labels, given in batches_of(
            make_examples(50), tokenizer, training, weights
        ):
            np.testing.assert_allclose(given, labels.numpy() @ weights)
            assert (labels.numpy().sum(axis=1) == 1).all()
            assert given.dtype == "float32"


def test_a_batch_may_hold_one_text(tokenizer):
    examples = Examples(["ba da"], np.array([2]), CLASSES)
    ((token_ids, labels, weights),) = batches_of(examples, tokenizer, training=True)
    assert token_ids.shape[0] == len(weights) == 1
    assert labels.numpy().tolist() == [[0, 0, 1]]


@pytest.mark.parametrize("preset", CONFIGS)
def test_presets_are_described(preset):
    assert len(CONFIGS[preset].__doc__) > 30
    assert isinstance(CONFIGS[preset](), Config)


def test_settings_out_of_range_are_refused():
    for name in ("vocabulary_size", "max_tokens", "units", "batch_size", "epochs"):
        with pytest.raises(BadInput, match=f"--{name.replace('_', '-')} 0 must be"):
            dataclasses.replace(Config(""), **{name: 0})
