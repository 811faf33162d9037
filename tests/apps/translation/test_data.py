import dataclasses
import gzip

import numpy as np
import pytest
import tensorflow as tf

from apps.common import datasets
from apps.common.errors import BadInput
from apps.common.text import PADDING, UNKNOWN
from apps.common.tokenizer import END, START, train_tokenizer
from apps.translation import data
from apps.translation.config import CONFIGS, Config
from apps.translation.data import Examples
from tests.apps.translation.conftest import make_pairs, write_table


def read(path, **settings):
    return data.read_pairs(Config(str(path), **settings))


def write(path, *rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(rows) + "\n", "utf-8")
    return path


def pairs_of(split):
    return list(zip(split.sources, split.targets, strict=True))


def test_columns_are_found_by_name(tmp_path):
    path = write(tmp_path / "a.csv", "de,id,en", 'gut,1,"good, "', "ja,2,yes")
    columns = {"source_column": "en", "target_column": "de"}
    assert read(path, **columns) == [("good,", "gut"), ("yes", "ja")]


def test_text_files_are_paired_line_by_line(tmp_path):
    sources = write(tmp_path / "letters.en", "good", " yes ", "no\u2028so")
    targets = write(tmp_path / "letters.de", "gut", "ja", "nein")
    (tmp_path / "letters.de.gz").write_bytes(gzip.compress(targets.read_bytes()))
    for name in ("letters.de", "letters.de.gz"):
        rows = read(sources, target_data=str(tmp_path / name))
        assert rows == [("good", "gut"), ("yes", "ja"), ("no\u2028so", "nein")]


def test_text_files_of_different_length_are_refused(tmp_path):
    sources = write(tmp_path / "a.en", "good", "yes")
    targets = write(tmp_path / "a.de", "gut")
    with pytest.raises(BadInput, match=r"a\.en has 2 lines and .*a\.de 1; line by"):
        read(sources, target_data=str(targets))


def test_sentences_that_the_exported_model_refuses_are_skipped(tmp_path, capsys):
    word = "ü" * data.MAX_WORD_LETTERS
    long = ("üa " * (data.MAX_TEXT_BYTES // 4)).strip()
    sources = [f"{word}  {word}", f"so {word}ü", f"{long}  ", f"{long}ü"]
    rows = ["source\ttarget", *(f"{source}\tso" for source in sources)]
    table = write(tmp_path / "a.tsv", *rows)
    assert read(table) == [(sources[0], "so"), (long, "so")]
    assert capsys.readouterr().err.splitlines() == [
        f"skipped 1 row: has a word of more than 100 letters: line 3 of {table}",
        f"skipped 1 row: has more than 5000 bytes: line 5 of {table}",
    ]


def test_incomplete_pairs_are_skipped_and_counted(tmp_path, capsys):
    rows = ["source\ttarget", "a\tb", "\tb", "a\t \u3000", "c\td"]
    table = write(tmp_path / "a.tsv", *rows)
    assert read(table) == [("a", "b"), ("c", "d")]
    assert capsys.readouterr().err.splitlines() == [
        f"skipped 1 row: has no sentence: line 3 of {table}",
        f"skipped 1 row: has no translation: line 4 of {table}",
    ]
    sources = write(tmp_path / "a.en", "a", "", "c")
    targets = write(tmp_path / "a.de", "b", "b", "d")
    assert read(sources, target_data=str(targets)) == [("a", "b"), ("c", "d")]
    says = f"skipped 1 row: has no sentence: line 2 of {sources}\n"
    assert capsys.readouterr().err == says
    with pytest.raises(BadInput, match=r"a\.tsv has no sentence with a translation"):
        read(write(tmp_path / "a.tsv", "source\ttarget", "a\t", "\tb"))


def test_a_table_is_split_at_random(own_data, config):
    splits = data.load_examples(config)
    pairs = read(own_data)
    assert len(splits["test"]) == len(pairs) / 4
    assert len(splits["validation"]) == len(pairs) * 3 / 4 / 10
    joined = pairs_of(datasets.join(splits.values()))
    assert sorted(joined) == sorted(pairs)
    assert set(splits.held_out) == {"test", "validation"}
    again = data.load_examples(dataclasses.replace(config, epochs=1, dropout=0.5))
    other = data.load_examples(dataclasses.replace(config, seed=1))
    for name, split in splits.items():
        assert split == again[name] != other[name]


def test_recorded_examples_are_held_out_again(config):
    splits = data.load_examples(config)
    other = dataclasses.replace(config, seed=1)
    again = data.load_examples(other, splits.held_out)
    for name in ("test", "validation"):
        assert sorted(again[name].names) == sorted(splits[name].names)


def test_names_tell_pairs_apart():
    examples = Examples(["a", "a", "b"], ["b", "c", "b"])
    assert len(examples) == len(set(examples.names)) == 3


@pytest.mark.parametrize("kind", ["tables", "lines", "packed lines"])
def test_a_folder_has_a_file_for_each_split(kind, tmp_path):
    content = {
        "train": [("a", "A"), ("b", "B"), ("c", "C"), ("d", "D")],
        "Valid": [("e", "E")],
        "test_b": [("f", "F")],
        "test_a": [("g", "G"), ("h", "H")],
    }
    for name, pairs in content.items():
        if kind == "tables":
            rows = [f"{source}\t{target}" for source, target in pairs]
            write(tmp_path / f"{name}.tsv", "en\tde", *rows)
            continue
        for ending, side in zip(("en", "de"), zip(*pairs, strict=True), strict=True):
            path = write(tmp_path / f"{name}.{ending}", *side)
            if kind == "packed lines":
                packed = gzip.compress(path.read_bytes())
                path.with_name(path.name + ".gz").write_bytes(packed)
                path.unlink()
    write(tmp_path / "notes.md", "no pairs")
    config = Config(str(tmp_path), source_column="en", target_column="de")
    splits = data.load_examples(config)
    assert set(splits) == {"train", "validation", "test", "test_a", "test_b"}
    for name, expected in (
        ("train", "train"),
        ("validation", "Valid"),
        ("test", "test_a"),
        ("test_a", "test_a"),
        ("test_b", "test_b"),
    ):
        assert pairs_of(splits[name]) == content[expected]
    assert data.load_split(config, "test_b").sources == ["f"]
    # `all` joins the three standard splits only.
    assert len(data.load_split(config, "all")) == 4 + 1 + 2
    with pytest.raises(BadInput, match="no split 'test_c'; did you mean 'test_"):
        data.load_split(config, "test_c")


def test_a_folder_of_training_pairs_alone_is_split(tmp_path):
    write_table(tmp_path / "train.tsv", 40)
    splits = data.load_examples(Config(str(tmp_path), validation_fraction=0.1))
    sizes = {name: len(split) for name, split in splits.items()}
    assert sizes == {"train": 27, "validation": 3, "test": 10}


def test_text_files_need_the_file_of_the_other_language(tmp_path):
    write(tmp_path / "train.en", "a", "b")
    config = Config(str(tmp_path), source_column="en", target_column="de")
    with pytest.raises(BadInput, match=r"train\.en has no counterpart; add a train of"):
        data.load_examples(config)
    write(tmp_path / "train.de", "a", "b")
    write(tmp_path / "val.de", "a")
    with pytest.raises(BadInput, match=r"val\.de has no counterpart"):
        data.load_examples(config)
    with pytest.raises(BadInput, match=r"no train\.tsv, train\.csv or train\.source;"):
        data.load_examples(Config(str(tmp_path)))


def test_a_file_of_other_data_is_taken_whole(config, own_data):
    pairs = sorted(read(own_data))
    assert sorted(pairs_of(data.load_split(config, "test", True))) == pairs
    assert len(data.load_split(config, "test")) == len(pairs) / 4
    assert sorted(pairs_of(data.load_split(config, "all"))) == pairs


def test_a_folder_of_other_data_keeps_its_splits(tmp_path):
    write_table(tmp_path / "train.tsv", 8)
    write_table(tmp_path / "test.tsv", 5, seed=1)
    config = Config(str(tmp_path))
    assert len(data.load_split(config, "test", is_other_data=True)) == 5


def test_an_unknown_split_is_refused(config):
    with pytest.raises(BadInput, match="no split 'validatoin'; did you mean 'valid"):
        data.load_split(config, "validatoin")


def test_tensorflow_datasets_are_read(tmp_path, capsys):
    import tensorflow_datasets as tfds

    records = [(i, {"en": f"text {i}", "de": f"Text ü {i}"}) for i in range(20)]
    records[3][1]["de"] = " "
    tfds.dataset_builders.store_as_tfds_dataset(
        name="tiny_pairs",
        version="1.0.0",
        features=tfds.features.FeaturesDict(
            {"en": tfds.features.Text(), "de": tfds.features.Text()}
        ),
        split_datasets={"train": records[:16], "test": records[16:]},
        data_dir=tmp_path,
    )
    tfds.core.add_data_dir(tmp_path)
    config = Config("tfds:tiny_pairs", source_column="de", target_column="en")
    splits = data.load_examples(config)
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [14, 1, 4]
    assert "of tfds:tiny_pairs, train\n" in capsys.readouterr().err
    for source, target in pairs_of(splits["test"]):
        assert source == target.replace("text", "Text ü")
        assert int(source.split()[-1]) >= 16
    with pytest.raises(BadInput, match=r"no `source` and `target`; .* translation"):
        data.load_examples(Config("tfds:tiny_pairs"))


def test_features_that_are_not_text_are_refused(tmp_path):
    import tensorflow_datasets as tfds

    tfds.dataset_builders.store_as_tfds_dataset(
        name="tiny_classes",
        version="1.0.0",
        features=tfds.features.FeaturesDict(
            {
                "source": tfds.features.Text(),
                "target": tfds.features.ClassLabel(num_classes=2),
            }
        ),
        split_datasets={"train": [(0, {"source": "a", "target": 1})]},
        data_dir=tmp_path,
    )
    tfds.core.add_data_dir(tmp_path)
    with pytest.raises(BadInput, match=r"`target` is not text; .* --target-column"):
        data.load_examples(Config("tfds:tiny_classes"))


PAIRS = Examples(*map(list, zip(*make_pairs(203), strict=True)))
PAIRS.sources[7] = PAIRS.sources[7] + " und " + PAIRS.sources[8] * 3  # A long one.


@pytest.fixture(scope="module")
def tokenizers():
    return [train_tokenizer(side, 100) for side in (PAIRS.sources, PAIRS.targets)]


def batches_of(examples, tokenizers, training=False, **changes):
    settings = {"batch_size": 8, "subword_sampling_alpha": 0.0, **changes}
    return data.make_batches(examples, Config("", **settings), tokenizers, training)


def rows_of(batches):
    """Returns source token ids, inputs and labels of every pair, without padding."""
    rows = []
    for batch in batches:
        (sources, inputs), labels, weights = tf.nest.map_structure(np.array, batch)
        assert inputs.shape == labels.shape == weights.shape
        assert weights.dtype == "float32"
        np.testing.assert_array_equal(weights, labels != PADDING)
        for source, previous, label in zip(sources, inputs, labels, strict=True):
            source_length, length = (source != PADDING).sum(), (label != PADDING).sum()
            assert not source[source_length:].any()  # Padding is at the end only.
            assert not label[length:].any()
            row = source[:source_length], previous[:length], label[:length]
            rows.append(tuple(map(tuple, row)))
    return rows


def texts_of(rows, tokenizers, side=0):
    token_ids = [row[2 * side][:-1] for row in rows]
    ragged = tf.ragged.constant(token_ids, tf.int32, ragged_rank=1)
    return [text.decode() for text in tokenizers[side].detokenize(ragged).numpy()]


@pytest.mark.parametrize("training", [False, True])
def test_every_epoch_has_every_pair_once(training, tokenizers):
    source_ids, target_ids = (
        tokenizer(tf.constant(side)).to_list()
        for tokenizer, side in zip(
            tokenizers, (PAIRS.sources, PAIRS.targets), strict=True
        )
    )
    expected = [
        (tuple(source), (START, *target[:-1]), tuple(target))
        for source, target in zip(source_ids, target_ids, strict=True)
    ]
    assert {target[-1] for _, _, target in expected} == {END}
    batches = batches_of(PAIRS, tokenizers, training)
    for _ in range(2):
        assert sorted(rows_of(batches)) == sorted(expected)


@pytest.mark.parametrize("training", [False, True])
def test_batches_have_a_known_number_and_little_padding(training, tokenizers):
    for number in (1, 8, 203):
        examples = datasets.take(PAIRS, range(number))
        batches = batches_of(examples, tokenizers, training)
        labels = [labels.numpy() for _, labels, _ in batches]
        assert len(batches) == batches.cardinality() == len(labels)
        assert max(map(len, labels)) <= 8
    filled = sum((each != PADDING).sum() for each in labels)
    assert filled / sum(each.size for each in labels) > 0.85
    for each in labels:
        lengths = (each != PADDING).sum(axis=1)
        assert len(np.unique(np.digitize(lengths, data.BUCKET_BOUNDARIES))) == 1
        assert lengths.max() == each.shape[1]


def test_training_pairs_are_shuffled_each_epoch(tokenizers):
    shuffled = batches_of(PAIRS, tokenizers, training=True)
    assert rows_of(shuffled) != rows_of(shuffled)
    plain = batches_of(PAIRS, tokenizers)
    assert rows_of(plain) == rows_of(plain)


def test_long_pairs_are_left_out_of_training_only(tokenizers, capsys):
    everything = rows_of(batches_of(PAIRS, tokenizers, max_tokens=9))
    assert len(everything) == 203
    assert capsys.readouterr() == ("", "")
    short = [row for row in everything if max(map(len, row)) <= 9]
    assert 50 < len(short) < 203
    training = batches_of(PAIRS, tokenizers, True, max_tokens=9)
    assert sorted(rows_of(training)) == sorted(short)
    says = f"skipped {203 - len(short)} training pairs: longer than 9 tokens "
    assert capsys.readouterr().err.startswith(says)
    # A long sentence counts like a long translation.
    longest = [max(len(row[0]) for row in rows) for rows in (everything, short)]
    assert longest[1] <= 9 < longest[0]
    with pytest.raises(BadInput, match="--max-tokens"):
        batches_of(PAIRS, tokenizers, True, max_tokens=1)


def test_the_segmentation_is_sampled_in_training_only(tokenizers):
    plain = rows_of(batches_of(PAIRS, tokenizers, subword_sampling_alpha=0.2))
    assert sorted(plain) == sorted(rows_of(batches_of(PAIRS, tokenizers)))
    batches = batches_of(PAIRS, tokenizers, True, subword_sampling_alpha=0.2)
    epochs = [rows_of(batches) for _ in range(2)]
    assert sorted(epochs[0]) != sorted(epochs[1]) != sorted(plain)
    for rows in epochs:
        for side, texts in enumerate((PAIRS.sources, PAIRS.targets)):
            assert sorted(texts_of(rows, tokenizers, side)) == sorted(texts)
        for _, previous, labels in rows:
            assert previous == (START, *labels[:-1])
            assert labels.index(END) == len(labels) - 1


def test_inputs_are_dropped_in_training_only(tokenizers):
    def token_ids(training, part):
        batches = batches_of(PAIRS, tokenizers, training, token_dropout=0.3)
        return np.concatenate([row[part] for row in rows_of(batches)])

    for part, rate in ((0, 0.3), (1, 0.3), (2, 0.0)):  # Labels are kept.
        plain, dropped = token_ids(False, part), token_ids(True, part)
        assert len(plain) == len(dropped)  # Padding is kept.
        assert UNKNOWN not in plain
        for special in (START, END):
            assert (dropped == special).sum() == (plain == special).sum()
        words = (plain > END).sum()
        assert (dropped == UNKNOWN).sum() / words == pytest.approx(rate, abs=0.06)


@pytest.mark.parametrize("preset", CONFIGS)
def test_presets_are_described(preset):
    assert len(CONFIGS[preset].__doc__) > 30
    assert isinstance(CONFIGS[preset](), Config)
