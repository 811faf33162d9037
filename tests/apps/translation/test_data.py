import dataclasses
import gzip

import numpy as np
import pytest
import tensorflow as tf
from num2words import num2words

from apps.common.errors import BadInput
from apps.common.text import PADDING, UNKNOWN
from apps.translation import data
from apps.translation.config import CONFIGS, Config
from apps.translation.data import Pairs
from apps.translation.tokenizer import END, START, train_tokenizer
from tests.apps.translation.conftest import make_pairs, write_table


def read(path, **settings):
    return data.read_pairs(Config(str(path), **settings))


def write(path, *rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(rows) + "\n", "utf-8")
    return path


def pairs_of(split):
    return list(zip(split.sources, split.targets, strict=True))


def test_columns_have_names(tmp_path):
    path = write(tmp_path / "a.csv", "de,id,en", 'gut,1,"good, "', "ja,2,yes")
    columns = {"source_column": "en", "target_column": "de"}
    assert read(path, **columns) == [("good,", "gut"), ("yes", "ja")]


def test_lines_are_paired_with_lines(tmp_path):
    sources = write(tmp_path / "letters.en", "good", " yes ", "no\u2028so")
    targets = write(tmp_path / "letters.de", "gut", "ja", "nein")
    (tmp_path / "letters.de.gz").write_bytes(gzip.compress(targets.read_bytes()))
    for name in ("letters.de", "letters.de.gz"):
        rows = read(sources, target_data=str(tmp_path / name))
        assert rows == [("good", "gut"), ("yes", "ja"), ("no\u2028so", "nein")]


def test_lines_must_be_as_many(tmp_path):
    sources = write(tmp_path / "a.en", "good", "yes")
    targets = write(tmp_path / "a.de", "gut")
    with pytest.raises(BadInput, match=r"a\.en has 2 lines and .*a\.de 1; each line"):
        read(sources, target_data=str(targets))


def test_pairs_without_either_half_are_named_and_left_out(tmp_path, capsys):
    rows = ["source\ttarget", "a\tb", "\tb", "a\t \u3000", "c\td"]
    table = write(tmp_path / "a.tsv", *rows)
    assert read(table) == [("a", "b"), ("c", "d")]
    says = "without a sentence or its translation, the first in line"
    assert capsys.readouterr().err == f"skipped: 2 rows of {table} {says} 3\n"
    sources = write(tmp_path / "a.en", "a", "", "c")
    targets = write(tmp_path / "a.de", "b", "b", "d")
    assert read(sources, target_data=str(targets)) == [("a", "b"), ("c", "d")]
    assert capsys.readouterr().err == f"skipped: 1 rows of {sources} {says} 2\n"
    with pytest.raises(BadInput, match=r"a\.tsv has no sentence with a translation"):
        read(write(tmp_path / "a.tsv", "source\ttarget", "a\t", "\tb"))


def test_a_table_is_split_at_random(pairs_table, config):
    splits = data.load_pairs(config)
    sizes = {name: len(split) for name, split in splits.items()}
    assert sizes == {"train": 405, "validation": 45, "test": 150}
    rows = [pair for split in splits.values() for pair in pairs_of(split)]
    assert sorted(rows) == sorted(read(pairs_table))  # Each once, halves together.
    assert len(set(rows)) == 600
    again = data.load_pairs(dataclasses.replace(config, epochs=1, dropout=0.5))
    other = data.load_pairs(dataclasses.replace(config, seed=1))
    for name, split in splits.items():
        assert split == again[name] != other[name]


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
    write(tmp_path / "notes.md", "nothing of that kind")
    config = Config(str(tmp_path), source_column="en", target_column="de")
    splits = data.load_pairs(config)
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
    # Tests beside the first are not joined.
    assert len(data.load_split(config, "all")) == 4 + 1 + 2
    with pytest.raises(BadInput, match="no split 'test_c'; did you mean 'test_"):
        data.load_split(config, "test_c")


def test_a_folder_of_training_pairs_alone_is_split(tmp_path):
    write_table(tmp_path / "train.tsv", 40)
    splits = data.load_pairs(Config(str(tmp_path), validation_fraction=0.1))
    sizes = {name: len(split) for name, split in splits.items()}
    assert sizes == {"train": 27, "validation": 3, "test": 10}


def test_files_of_lines_need_their_other_half(tmp_path):
    write(tmp_path / "train.en", "a", "b")
    config = Config(str(tmp_path), source_column="en", target_column="de")
    with pytest.raises(BadInput, match=r"train\.en has no counterpart; add a train of"):
        data.load_pairs(config)
    write(tmp_path / "train.de", "a", "b")
    write(tmp_path / "val.de", "a")
    with pytest.raises(BadInput, match=r"val\.de has no counterpart"):
        data.load_pairs(config)
    with pytest.raises(BadInput, match=r"no train\.tsv, train\.csv or train\.source;"):
        data.load_pairs(Config(str(tmp_path)))


def test_foreign_files_are_scored_whole(config):
    assert len(data.load_split(config, "test", foreign=True)) == 600
    assert len(data.load_split(config, "test")) == 150
    everything = data.load_split(config, "all")
    assert sorted(pairs_of(everything)) == sorted(make_pairs(600))


def test_foreign_folders_have_splits(tmp_path):
    write_table(tmp_path / "train.tsv", 8)
    write_table(tmp_path / "test.tsv", 5, seed=1)
    config = Config(str(tmp_path))
    assert len(data.load_split(config, "test", foreign=True)) == 5


def test_an_unknown_split_is_named_with_its_likeness(config):
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
    splits = data.load_pairs(config)
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [14, 1, 4]
    assert "skipped: 1 rows of tfds:tiny_pairs, train" in capsys.readouterr().err
    for source, target in pairs_of(splits["test"]):
        assert source == target.replace("text", "Text ü")
        assert int(source.split()[-1]) >= 16
    with pytest.raises(BadInput, match=r"no `source` and `target`; .* translation"):
        data.load_pairs(Config("tfds:tiny_pairs"))


def test_features_that_are_no_text_are_refused(monkeypatch):
    import tensorflow_datasets as tfds

    features = {
        "source": tfds.features.Text(),
        "target": tfds.features.ClassLabel(num_classes=2),
    }
    monkeypatch.setattr(
        data.datasets, "read_tensorflow_dataset", lambda *_: ({"train": []}, features)
    )
    with pytest.raises(BadInput, match=r"`target` is no text; .* --target-column"):
        data.load_pairs(Config("tfds:tiny_numbers"))


PAIRS = Pairs(*map(list, zip(*make_pairs(203), strict=True)))
PAIRS.sources[7] = PAIRS.sources[7] + " und " + PAIRS.sources[8] * 3  # A long one.


@pytest.fixture(scope="module")
def tokenizers():
    return [train_tokenizer(side, 100) for side in (PAIRS.sources, PAIRS.targets)]


def batches_of(pairs, tokenizers, training=False, **changes):
    settings = {"batch_size": 8, "subword_sampling": 0.0, **changes}
    return data.make_batches(pairs, Config("", **settings), *tokenizers, training)


def rows_of(batches):
    """What is read, told and written of every pair, without padding."""
    rows = []
    for batch in batches:
        (sources, before), targets, weights = tf.nest.map_structure(np.array, batch)
        assert before.shape == targets.shape == weights.shape
        assert weights.dtype == "float32"
        np.testing.assert_array_equal(weights, targets != PADDING)
        for source, told, target in zip(sources, before, targets, strict=True):
            read, written = (source != PADDING).sum(), (target != PADDING).sum()
            assert not source[read:].any()  # Padding is at the end only.
            assert not target[written:].any()
            row = source[:read], told[:written], target[:written]
            rows.append(tuple(map(tuple, row)))
    return rows


def texts_of(rows, tokenizers, side=0):
    tokens = [row[2 * side][:-1] for row in rows]
    ragged = tf.ragged.constant(tokens, tf.int32, ragged_rank=1)
    return [text.decode() for text in tokenizers[side].detokenize(ragged).numpy()]


@pytest.mark.parametrize("training", [False, True])
def test_batches_hold_exactly_the_pairs(training, tokenizers):
    batches = batches_of(PAIRS, tokenizers, training)
    expected = [
        (tuple(source), (START, *target[:-1]), tuple(target))
        for source, target in zip(
            *(
                tokenizer(tf.constant(side)).to_list()
                for tokenizer, side in zip(
                    tokenizers, (PAIRS.sources, PAIRS.targets), strict=True
                )
            ),
            strict=True,
        )
    ]
    assert {target[-1] for _, _, target in expected} == {END}
    for _ in range(2):  # Every epoch.
        assert sorted(rows_of(batches)) == sorted(expected)


@pytest.mark.parametrize("training", [False, True])
def test_batches_are_as_many_as_they_say_and_little_is_padding(training, tokenizers):
    for number in (1, 8, 203):
        pairs = PAIRS[range(number)]
        batches = batches_of(pairs, tokenizers, training)
        targets = [targets.numpy() for _, targets, _ in batches]
        assert len(batches) == batches.cardinality() == len(targets)
        assert max(map(len, targets)) <= 8
    filled = sum((each != PADDING).sum() for each in targets)
    assert filled / sum(each.size for each in targets) > 0.85
    for each in targets:
        lengths = (each != PADDING).sum(axis=1)
        assert len(np.unique(np.digitize(lengths, data.BUCKETS))) == 1
        assert lengths.max() == each.shape[1]


def test_training_pairs_come_in_another_order_each_epoch(tokenizers):
    shuffled = batches_of(PAIRS, tokenizers, training=True)
    assert rows_of(shuffled) != rows_of(shuffled)
    plain = batches_of(PAIRS, tokenizers)
    assert rows_of(plain) == rows_of(plain)


def test_long_pairs_are_left_out_of_training_alone(tokenizers, capsys):
    whole = rows_of(batches_of(PAIRS, tokenizers, max_tokens=9))
    assert len(whole) == 203
    assert capsys.readouterr().out == ""
    left = [row for row in whole if max(map(len, row)) <= 9]
    assert 50 < len(left) < 203
    some = batches_of(PAIRS, tokenizers, True, max_tokens=9)
    assert sorted(rows_of(some)) == sorted(left)
    says = f"not learned from: {203 - len(left)} of 203 pairs, of more than 9 pieces"
    assert says in capsys.readouterr().out
    # A long sentence counts as does a long translation.
    read = [max(len(row[0]) for row in rows) for rows in (whole, left)]
    assert read[1] <= 9 < read[0]
    with pytest.raises(BadInput, match="--max-tokens"):
        batches_of(PAIRS, tokenizers, True, max_tokens=1)


def test_training_alone_varies_how_words_are_split(tokenizers):
    plain = rows_of(batches_of(PAIRS, tokenizers, subword_sampling=0.2))
    assert sorted(plain) == sorted(rows_of(batches_of(PAIRS, tokenizers)))
    batches = batches_of(PAIRS, tokenizers, True, subword_sampling=0.2)
    epochs = [rows_of(batches) for _ in range(2)]
    assert sorted(epochs[0]) != sorted(epochs[1]) != sorted(plain)
    for rows in epochs:
        for side, texts in enumerate((PAIRS.sources, PAIRS.targets)):
            assert sorted(texts_of(rows, tokenizers, side)) == sorted(texts)
        for _, told, target in rows:
            assert told == (START, *target[:-1])
            assert target.index(END) == len(target) - 1


def test_training_alone_hides_pieces_that_are_read_or_told(tokenizers):
    def tokens(training, part):
        batches = batches_of(PAIRS, tokenizers, training, token_dropout=0.3)
        return np.concatenate([row[part] for row in rows_of(batches)])

    for part, share in ((0, 0.3), (1, 0.3), (2, 0.0)):
        plain, hidden = tokens(False, part), tokens(True, part)
        assert len(plain) == len(hidden)  # No padding is touched.
        assert UNKNOWN not in plain
        for mark in (START, END):
            assert (hidden == mark).sum() == (plain == mark).sum()
        words = (plain > END).sum()
        assert (hidden == UNKNOWN).sum() / words == pytest.approx(share, abs=0.06)


def test_numbers_are_what_they_say():
    splits = data.load_pairs(CONFIGS["numbers"]())
    assert {name: len(split) > 200 for name, split in splits.items()} == {
        "train": True,
        "validation": True,
        "test": True,
    }
    pairs = [pair for split in splits.values() for pair in pairs_of(split)]
    # None is in two splits.
    assert len({source for source, _ in pairs}) == len(pairs) == data.NUMBERS
    german = {num2words(n): num2words(n, lang="de") for n in range(0, 1000, 3)}
    some = [pair for pair in pairs if pair[0] in german]
    assert len(some) > 200
    assert all(german[source] == target for source, target in some)
    assert any("hundred thousand" in source for source, _ in pairs)


def test_numbers_depend_on_the_seed_alone():
    pairs = data.make_numbers("en", "de", 50)
    assert data.make_numbers("en", "de", 40) == pairs[:40]
    assert data.make_numbers("en", "de", 50, seed=1) != pairs
    french = data.make_numbers("en", "fr", 50)
    assert [source for source, _ in french] == [source for source, _ in pairs]
    assert [target for _, target in french] != [target for _, target in pairs]


def test_numbers_of_no_language_are_refused():
    with pytest.raises(BadInput, match="--source-column xx is no language"):
        data.make_numbers("xx", "de", 1)
    with pytest.raises(BadInput, match="--target-column source is no language"):
        data.make_numbers("de", "source", 1)


@pytest.mark.parametrize("preset", CONFIGS)
def test_presets_are_described(preset):
    assert len(CONFIGS[preset].__doc__) > 30
    assert isinstance(CONFIGS[preset](), Config)


def test_settings_that_cannot_work_are_refused():
    for name in ("vocabulary_size", "max_tokens", "beam_size", "batch_size", "epochs"):
        with pytest.raises(BadInput, match=f"--{name.replace('_', '-')} 0 must be"):
            dataclasses.replace(Config(""), **{name: 0})
