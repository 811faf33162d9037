from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from apps.common import datasets
from apps.common.errors import BadInput

CLASSES = ("ant", "bee", "cat")


@dataclass(frozen=True)
class Examples:
    """Numbered examples of three classes."""

    names: list[str]
    labels: np.ndarray
    class_names: tuple[str, ...] = CLASSES

    def __len__(self):
        return len(self.names)


@dataclass(frozen=True)
class Sentences:
    """Examples without classes."""

    names: list[str]

    def __len__(self):
        return len(self.names)


def make(*counts, prefix="example"):
    """Returns so many examples of each class."""
    labels = np.repeat(np.arange(len(counts)), counts)
    return Examples([f"{prefix} {i}" for i in range(len(labels))], labels)


def complete(splits, held_out=None, fraction=0.1, seed=0):
    config = SimpleNamespace(data="mine", validation_fraction=fraction, seed=seed)
    return datasets.complete_splits(splits, config, held_out)


def counts(examples):
    return np.bincount(examples.labels, minlength=3).tolist()


def test_taking_examples_takes_every_column():
    taken = datasets.take(make(2, 1, 1), [3, 0])
    assert taken.names == ["example 3", "example 0"]
    assert taken.labels.tolist() == [2, 0]
    assert taken.class_names == CLASSES  # A tuple belongs to all examples.
    nothing = datasets.take(make(2, 1, 1), iter(()))
    assert (len(nothing), nothing.labels.shape) == (0, (0,))


def test_joining_parts_keeps_their_order():
    joined = datasets.join(iter([make(1, 1), make(0, 0, 1, prefix="other")]))
    assert joined.names == ["example 0", "example 1", "other 0"]
    assert joined.labels.tolist() == [0, 1, 2]
    assert joined.class_names == CLASSES


def test_missing_splits_are_drawn_with_equal_shares_of_every_class():
    whole = make(80, 40, 40)
    splits = complete({"train": whole})
    assert counts(splits["test"]) == [20, 10, 10]  # A quarter.
    assert counts(splits["validation"]) == [6, 3, 3]  # A tenth of the rest.
    assert counts(splits["train"]) == [54, 27, 27]
    assert datasets.sizes(splits) == {"train": 108, "test": 40, "validation": 12}
    labels = dict(zip(whole.names, whole.labels, strict=True))
    names = [name for split in splits.values() for name in split.names]
    assert sorted(names) == sorted(whole.names)  # Each example once.
    for split in splits.values():
        assert [labels[name] for name in split.names] == split.labels.tolist()


def test_splits_depend_on_the_seed_alone():
    first, again, other = (
        complete({"train": make(8, 8, 8)}, seed=seed)["test"].names
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_splits_of_the_data_are_kept():
    given = {
        "train": make(5, 5, 5),
        "validation": make(1, 1, 1, prefix="other"),
        "test": make(2, 2, 2, prefix="third"),
    }
    before = dict(given)
    splits = complete(given)
    assert splits == before
    assert given == before
    assert splits.held_out == {}


def test_a_validation_split_alone_is_for_testing():
    given = make(2, 2, 2, prefix="other")
    splits = complete({"train": make(8, 8, 8), "validation": given})
    assert splits["test"] is given
    assert all(name.startswith("example") for name in splits["validation"].names)
    assert len(splits["train"]) + len(splits["validation"]) == 24
    assert list(splits.held_out) == ["validation"]


def test_with_a_test_split_only_validation_is_drawn():
    given = make(2, 2, 2, prefix="other")
    splits = complete({"train": make(10, 10, 10), "test": given}, fraction=0.2)
    assert splits["test"] is given
    assert counts(splits["validation"]) == [2, 2, 2]


def test_recorded_examples_are_held_out_again_when_the_data_has_grown():
    before = complete({"train": make(8, 8, 8)})
    assert {split: len(ids) for split, ids in before.held_out.items()} == {
        "test": 6,
        "validation": 3,
    }
    for grown in (
        datasets.join([make(4, 4, 4, prefix="a new one"), make(8, 8, 8)]),
        datasets.join([make(8, 8, 8), make(0, 1, prefix="one")]),
    ):
        drawn_again = complete({"train": grown})
        after = complete({"train": grown}, before.held_out)
        for split in ("test", "validation"):
            assert set(after[split].names) == set(before[split].names)
            assert set(drawn_again[split].names) != set(before[split].names)
        assert sum(map(len, after.values())) == len(grown)


def test_recorded_examples_that_were_deleted_are_left_out():
    before = complete({"train": make(8, 8, 8)})
    deleted = before["test"].names[0]
    whole = make(8, 8, 8)
    kept = [i for i, name in enumerate(whole.names) if name != deleted]
    after = complete({"train": datasets.take(whole, kept)}, before.held_out)
    assert set(after["test"].names) == set(before["test"].names) - {deleted}
    assert set(after["validation"].names) == set(before["validation"].names)


def test_other_data_than_the_recorded_is_named():
    before = complete({"train": make(8, 8, 8)})
    other = make(8, 8, 8, prefix="other")
    with pytest.raises(BadInput, match=r"^mine has none of the examples .* for test;"):
        complete({"train": other}, before.held_out)


def test_ids_tell_examples_of_equal_names_apart():
    ids = datasets.example_ids(Sentences(["so", "no", "so", "so", "\udce9"]))
    assert len(set(ids)) == 5
    assert ids[2] == f"{ids[0]}-1"
    assert ids[3] == f"{ids[0]}-2"
    assert ids[:2] == datasets.example_ids(Sentences(["so", "no"]))


def test_equal_examples_are_held_out_again_too():
    whole = Sentences(["so", "no", "so", "yes"] * 5)
    before = complete({"train": whole})
    after = complete({"train": whole}, before.held_out)
    for split in before:
        assert sorted(after[split].names) == sorted(before[split].names)


def test_training_keeps_every_class_however_much_is_drawn():
    for fraction in (0.01, 0.1, 0.25, 0.5):
        kept, taken = datasets.draw(make(2, 3, 9), fraction, 0, "mine")
        assert set(make(2, 3, 9).labels[kept]) == {0, 1, 2}
        assert len(taken) >= 3
        assert sorted([*kept, *taken]) == list(range(14))


def test_examples_need_no_classes():
    splits = complete({"train": Sentences([f"sentence {i}" for i in range(80)])})
    assert datasets.sizes(splits) == {"train": 54, "test": 20, "validation": 6}
    for number, says in ((0, "0 usable examples"), (1, "1 usable example")):
        few = {"train": Sentences(["so"] * number)}
        with pytest.raises(BadInput, match=f"^mine has {says}; add"):
            complete(few)


@pytest.mark.parametrize("examples", [1, 0])
def test_a_class_that_cannot_be_split_is_named(examples):
    says = {1: "1 usable example", 0: "0 usable examples"}[examples]
    with pytest.raises(BadInput, match=f"^mine has {says} of the class bee;"):
        complete({"train": make(4, examples, 4)})
    given = {"train": make(4, 0, 4), "test": make(1, 1, 1)}
    with pytest.raises(
        BadInput, match=r"^mine has 0 usable examples of the class bee;"
    ):
        complete(given)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("number", [2, 3, 4, 5])
def test_a_small_class_beside_a_large_one_is_split(number, seed):
    splits = complete({"train": make(200, number, 30)}, seed=seed)
    train, test, validation = (
        counts(splits[split])[1] for split in ("train", "test", "validation")
    )
    assert train + test + validation == number
    assert min(train, test) >= 1
    assert validation >= (train + validation > 1)


def test_a_class_with_a_single_training_example_has_none_for_validation():
    splits = complete({"train": make(9, 1, 9), "test": make(1, 1, 1)})
    assert counts(splits["validation"]) == [1, 0, 1]
    assert counts(splits["train"]) == [8, 1, 8]


def test_of_two_examples_the_one_for_training_is_that_for_validation():
    splits = complete({"train": make(2, 2, 2)})
    assert counts(splits["train"]) == counts(splits["test"]) == [1, 1, 1]
    assert splits["validation"] is splits["train"]
    assert set(splits.held_out) == {"test"}
    again = complete({"train": make(2, 2, 2)}, splits.held_out)
    assert sorted(again["validation"].names) == sorted(splits["train"].names)
    everything = datasets.pick_split(splits, "all", "mine")
    assert sorted(everything.names) == sorted(make(2, 2, 2).names)  # Each once.


def test_one_split_or_all_are_picked():
    splits = complete({"train": make(8, 8, 8), "more": make(1, prefix="more")})
    assert datasets.pick_split(splits, "test", "mine") is splits["test"]
    everything = datasets.pick_split(splits, "all", "mine")
    assert sorted(everything.names) == sorted(make(8, 8, 8).names)
    with pytest.raises(BadInput, match=r"^mine has no split 'tset'; did you mean"):
        datasets.pick_split(splits, "tset", "mine")
    empty = {"test": make(0)}
    with pytest.raises(BadInput, match=r"^mine has no examples for test; choose"):
        datasets.pick_split(empty, "test", "mine")


def test_other_data_without_the_split_is_taken_whole(capsys):
    splits = {"train": make(3, 2), "validation": make(1, 1, prefix="more")}
    assert datasets.pick_other_split(splits, "train", "x") is splits["train"]
    assert capsys.readouterr().out == ""
    picked = datasets.pick_other_split(splits, "test", "x")
    assert picked.names == [*splits["train"].names, *splits["validation"].names]
    assert capsys.readouterr().out == (
        "x has no split 'test'; all 7 examples are scored\n"
    )
    assert len(datasets.pick_other_split(splits, "all", "x")) == 7
    assert capsys.readouterr().out == ""
    with pytest.raises(BadInput, match=r"^x has no split 'tset'; choose from: train"):
        datasets.pick_other_split(splits, "tset", "x")
    with pytest.raises(BadInput, match=r"^x has no examples for test; choose"):
        datasets.pick_other_split({**splits, "test": make(0)}, "test", "x")


def test_the_summary_counts_examples_of_every_split_and_class(capsys):
    splits = complete({"train": make(8, 4, 2), "more": make(1, prefix="more")})
    datasets.print_summary("pets", splits, "image")
    assert capsys.readouterr().out == (
        "pets: 14 images in 3 classes\n"
        "  train: 8 (ant 5, bee 2, cat 1)\n"
        "  more: 1 (ant 1; none of bee, cat)\n"
        "  test: 4 (ant 2, bee 1, cat 1)\n"
        "  validation: 2 (ant 1, bee 1; none of cat)\n"
    )


def test_the_summary_names_the_largest_of_many_classes(capsys):
    labels = np.repeat(np.arange(30), range(30))
    many = Examples([""] * len(labels), labels, tuple(f"c{i}" for i in range(30)))
    few = datasets.take(many, range(3))
    datasets.print_summary("x", {"train": many, "validation": few, "test": few}, "text")
    _, train, validation, _ = capsys.readouterr().out.splitlines()
    assert train.startswith("  train: 435 (c29 29, c28 28, ")
    assert train.endswith("c21 21, c20 20 and 19 more; none of c0)")
    names = ", ".join(["c0", *(f"c{i}" for i in range(3, 12))])
    assert validation == f"  validation: 3 (c2 2, c1 1; none of {names} and 18 more)"


def test_the_summary_tells_that_there_is_too_little_for_validation(capsys):
    splits = complete({"train": Sentences(["so", "no"])})
    datasets.print_summary("mine", splits, "sentence")
    assert capsys.readouterr().out == (
        "mine: 2 sentences\n  train: 1\n  test: 1\n  validation: 1\n"
        "  too few examples for validation; those of training choose the model\n"
    )


def test_skipped_examples_are_named_by_reason(capsys):
    datasets.print_skipped([])
    assert capsys.readouterr() == ("", "")
    heic = [(f"{name}.heic", "is a HEIC image; convert it") for name in "abcde"]
    datasets.print_skipped([*heic[:2], ("x.txt", "is no image"), *heic[2:]])
    datasets.print_skipped([("line 7 of x.csv", "has no text")], "row")
    datasets.print_skipped([("a", "is large"), ("b", "is large")], "box", "clipped")
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines() == [
        "skipped 5 files: is a HEIC image; convert it: a.heic, b.heic, c.heic and 2 "
        "more",
        "skipped 1 file: is no image: x.txt",
        "skipped 1 row: has no text: line 7 of x.csv",
        "clipped 2 boxes: is large: a, b",
    ]


@pytest.mark.parametrize(
    ("examples", "number", "chosen"),
    [(12, 4, [0, 3, 7, 11]), (5, 2, [0, 4]), (3, 9, [0, 1, 2]), (1, 1, [0])],
)
def test_a_few_examples_lie_at_equal_distances(examples, number, chosen):
    some = datasets.evenly(make(examples), number)
    assert some.names == [f"example {i}" for i in chosen]


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


def test_splits_of_tensorflow_datasets_get_our_names(tiny):
    name = tiny("tiny_numbers", train=6, valid=2, extra=3)
    splits, features = datasets.read_tensorflow_dataset(
        name, ("number", "label"), "counting"
    )
    assert datasets.sizes(splits) == {"train": 6, "validation": 2}
    records = sorted((row["number"], row["label"]) for row in splits["train"])
    assert records == [(10 * i, i % 3) for i in range(6)]
    assert features["label"].names == list(CLASSES)


def test_data_sets_that_do_not_fit_are_named(tiny):
    name = tiny("tiny_tests", test=3)
    for arguments, says in (
        ((name, ("image",), "drawing"), "no `image`; choose .* for drawing"),
        ((name, ("number",), "counting"), "no split named `train`"),
        (("mnst", ("image",), "drawing"), "'mnst'; did you mean 'mnist'"),
    ):
        with pytest.raises(BadInput, match=says):
            datasets.read_tensorflow_dataset(*arguments)


def test_a_data_set_that_cannot_be_downloaded_is_named(monkeypatch):
    import tensorflow_datasets as tfds

    def fail(self, **options):
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    says = "tfds:mnist could not be downloaded: no route to host; check the network"
    with pytest.raises(BadInput, match=says):
        datasets.read_tensorflow_dataset("mnist", ("image", "label"), "drawing")


def test_weighted_classes_count_alike():
    weights = datasets.balanced_weights(np.array([0, 0, 0, 1]), 3)
    assert weights[0] * 3 == pytest.approx(weights[1] * 1)
    assert np.isfinite(weights).all()


def test_a_data_set_is_known_by_any_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.csv").touch()
    assert datasets.is_same("texts.csv", str(tmp_path / "texts.csv"))
    assert datasets.is_same("digits", "digits")
    assert not datasets.is_same("texts.csv", "other.csv")
