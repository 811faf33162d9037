import itertools
from dataclasses import dataclass

import numpy as np
import pytest

from apps.common import datasets
from apps.common.errors import BadInput


@dataclass(frozen=True)
class Examples:
    """The least that examples must be able to do."""

    names: list[int]
    labels: np.ndarray

    def __len__(self):
        return len(self.names)

    def __getitem__(self, indices):
        return Examples([self.names[i] for i in indices], self.labels[indices])


CLASSES = ["ant", "bee", "cat"]


def make(*counts, start=0):
    """Examples with so many of each class, named by numbers."""
    labels = np.repeat(np.arange(len(counts)), counts)
    return Examples(list(range(start, start + len(labels))), labels)


def complete(splits, fraction=0.1, seed=0):
    return datasets.complete_splits(splits, fraction, seed, "mine", CLASSES)


def counts(examples):
    return np.bincount(examples.labels, minlength=3).tolist()


def test_what_is_missing_is_held_out_with_equal_shares_of_every_class():
    whole = make(80, 40, 40)
    splits = complete({"train": whole})
    assert counts(splits["test"]) == [20, 10, 10]  # A quarter.
    assert counts(splits["validation"]) == [6, 3, 3]  # A tenth of what is left.
    assert counts(splits["train"]) == [54, 27, 27]
    names = [name for split in splits.values() for name in split.names]
    assert sorted(names) == whole.names  # Each example once.
    for split in splits.values():
        assert (whole.labels[split.names] == split.labels).all()


def test_splits_depend_on_the_seed_alone():
    first, again, other = (
        complete({"train": make(8, 8, 8)}, seed=seed)["test"].names
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_given_splits_are_kept_as_they_are():
    given = {
        "train": make(5, 5, 5),
        "validation": make(1, 1, 1, start=100),
        "test": make(2, 2, 2, start=200),
    }
    before = dict(given)
    splits = complete(given)
    assert splits == before
    assert given == before


def test_a_validation_split_alone_is_for_testing():
    given = make(2, 2, 2, start=100)
    splits = complete({"train": make(8, 8, 8), "validation": given})
    assert splits["test"] is given
    assert max(splits["validation"].names) < 100
    assert len(splits["train"]) + len(splits["validation"]) == 24


def test_with_a_test_split_only_validation_is_held_out():
    given = make(2, 2, 2, start=100)
    splits = complete({"train": make(10, 10, 10), "test": given}, fraction=0.2)
    assert splits["test"] is given
    assert counts(splits["validation"]) == [2, 2, 2]


def test_what_is_learned_from_has_every_class_however_much_is_held_out():
    for fraction in (0.01, 0.1, 0.25):
        kept, taken = datasets.hold_out(make(2, 3, 9), fraction, 0, "mine", CLASSES)
        assert min(counts(kept)) >= 1
        assert len(taken) >= 3


class Sentences(list):
    """Examples without classes."""

    def __getitem__(self, indices):
        return Sentences(super(Sentences, self).__getitem__(i) for i in indices)


def test_examples_need_no_classes():
    whole = Sentences(f"sentence {i}" for i in range(80))
    splits = datasets.complete_splits({"train": whole}, 0.1, 0, "mine")
    sizes = {name: len(split) for name, split in splits.items()}
    assert sizes == {"train": 54, "validation": 6, "test": 20}
    assert sorted(itertools.chain(*splits.values())) == sorted(whole)
    for number in (0, 1):
        few = {"train": Sentences(["so"] * number)}
        with pytest.raises(BadInput, match=f"^mine has {number} usable example; add"):
            datasets.complete_splits(few, 0.1, 0, "mine")


@pytest.mark.parametrize(("examples", "number"), [(1, 1), (0, 0)])
def test_a_class_that_cannot_be_split_is_named(examples, number):
    with pytest.raises(BadInput, match=f"^mine has {number} usable .* class bee;"):
        complete({"train": make(4, examples, 4)})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Makes tiny data sets for TensorFlow Datasets; returns their names."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    tfds.core.add_data_dir(folder)

    def make(name, **splits):
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version="1.0.0",
            features=tfds.features.FeaturesDict(
                {
                    "number": np.int64,
                    "label": tfds.features.ClassLabel(names=CLASSES),
                }
            ),
            split_datasets={
                split: [(i, {"number": 10 * i, "label": i % 3}) for i in range(size)]
                for split, size in splits.items()
            },
            data_dir=folder,
        )
        return name

    return make


def test_tensorflow_datasets_are_read_under_our_names_of_splits(tiny):
    name = tiny("tiny_numbers", train=6, valid=2, extra=3)
    splits, features = datasets.read_tensorflow_dataset(
        name, ("number", "label"), "counting"
    )
    assert {split: len(records) for split, records in splits.items()} == {
        "train": 6,
        "validation": 2,
    }
    records = sorted((row["number"], row["label"]) for row in splits["train"])
    assert records == [(10 * i, i % 3) for i in range(6)]
    assert features["label"].names == CLASSES


def test_data_sets_that_do_not_fit_are_named(tiny):
    name = tiny("tiny_tests", test=3)
    for arguments, says in (
        ((name, ("image",), "pictures"), "no `image`; choose .* for pictures"),
        ((name, ("number",), "counting"), "no split named `train`"),
        (("mnst", ("image",), "pictures"), "'mnst'; did you mean 'mnist'"),
    ):
        with pytest.raises(BadInput, match=says):
            datasets.read_tensorflow_dataset(*arguments)


def test_what_cannot_be_downloaded_is_named(monkeypatch):
    import tensorflow_datasets as tfds

    def fail(self, **options):
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    says = "tfds:mnist could not be downloaded: no route to host; check the network"
    with pytest.raises(BadInput, match=says):
        datasets.read_tensorflow_dataset("mnist", ("image", "label"), "pictures")


def test_classes_count_alike_when_weighted():
    weights = datasets.balanced_weights(np.array([0, 0, 0, 1]), 3)
    assert weights[0] * 3 == pytest.approx(weights[1] * 1)
    assert np.isfinite(weights).all()


def test_a_data_set_is_known_by_any_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.csv").touch()
    assert datasets.is_same("texts.csv", str(tmp_path / "texts.csv"))
    assert datasets.is_same("digits", "digits")
    assert not datasets.is_same("texts.csv", "other.csv")
