import numpy as np
import pytest

from apps.common.errors import BadInput
from apps.face_synthesis import attributes as module
from apps.face_synthesis.attributes import MISSING, Attribute, encode, find_attributes
from apps.face_synthesis.data import Examples
from tests.apps.face_synthesis.tiny import small


def examples(**columns):
    """Returns examples whose attributes have these values."""
    rows = list(zip(*columns.values(), strict=True))
    names = [f"{i}.png" for i in range(len(rows))]
    return Examples(names, [b""] * len(rows), rows, tuple(columns))


AGES = [str(age) for age in (*range(1, 21), *range(40, 60))]
SEX = ["f", "m"] * 20


def test_words_and_few_numbers_are_values():
    found = find_attributes(examples(sex=SEX, grade=["10", "9"] * 20), small())
    assert found == (Attribute("sex", ("f", "m")), Attribute("grade", ("9", "10")))
    codes = encode(found, examples(grade=["10", "", "8"], sex=["m", "f", "?"]))
    assert codes.tolist() == [[1, 1], [0, MISSING], [MISSING, MISSING]]


def test_many_numbers_become_groups_of_the_same_size():
    (age,) = find_attributes(examples(age=AGES), small())
    assert age.values == ("up to 10", "11 to 20", "40 to 49", "50 and more")
    codes = encode([age], examples(age=["-3", "10", "10.5", "20", "99", "", "nan"]))
    assert codes[:, 0].tolist() == [0, 0, 1, 1, 3, MISSING, MISSING]
    sizes = np.bincount(encode([age], examples(age=AGES))[:, 0])
    assert sizes.tolist() == [10, 10, 10, 10]
    (two,) = find_attributes(examples(age=AGES), small(numeric_groups=2))
    assert two.values == ("up to 20", "40 and more")


def test_numbers_that_are_mostly_the_largest_make_no_groups(capsys):
    ages = [str(age) for age in range(1, 10)] + ["99"] * 91
    assert find_attributes(examples(age=ages), small(model="gan")) == ()
    assert "is 99 too often to make groups of it: age" in capsys.readouterr().err


def test_groups_of_large_numbers_have_different_names():
    days = [str(20_260_000 + day) for day in range(100)]
    (day,) = find_attributes(examples(day=days), small())
    assert day.values[1] == "20260025 to 20260049"
    assert len(set(day.values)) == 4


def test_groups_may_be_fewer_if_most_numbers_are_equal():
    ages = ["0"] * 30 + [str(age) for age in range(1, 11)]
    (age,) = find_attributes(examples(age=ages), small())
    assert age.values == ("up to 0", "1 and more")


ONE = {"sex": SEX, "smiling": ["yes"] * 40}


def test_an_attribute_of_one_value_is_refused():
    message = "the attribute smiling has 1 value only, yes; leave it out of --columns"
    with pytest.raises(BadInput, match=message):
        find_attributes(examples(**ONE), small(columns=("sex", "smiling")))


def test_columns_that_nobody_named_are_skipped_with_a_message(capsys):
    names = [f"name {i}" for i in range(40)]
    found = find_attributes(examples(**ONE, name=names), small())
    assert [each.name for each in found] == ["sex"]
    err = capsys.readouterr().err
    assert "skipped 1 attribute: has 1 value only, yes: smiling" in err
    assert "skipped 1 attribute: has 40 values, more than 12: name" in err


def test_a_conditional_gan_needs_an_attribute():
    one = examples(smiling=["yes"] * 40)
    with pytest.raises(
        BadInput, match=r"no attribute with several values .smiling has"
    ):
        find_attributes(one, small("mine"))
    with pytest.raises(BadInput, match="--attribute-file, or pass --model gan"):
        find_attributes(examples(), small("mine"))
    assert find_attributes(one, small(model="gan")) == ()


ATTRIBUTES = (Attribute("sex", ("f", "m")), Attribute("age", ("a", "b", "c"), (1.5, 2)))
CODES = np.array([[0, 2], [1, 0], [0, 2], [MISSING, 1]])


def test_values_become_one_hot_vectors():
    expected = [[1, 0, 0, 0, 1], [0, 1, 1, 0, 0], [1, 0, 0, 0, 1], [0, 0, 0, 1, 0]]
    np.testing.assert_array_equal(module.one_hot(ATTRIBUTES, CODES), expected)
    assert module.one_hot((), CODES[:, :0]).shape == (4, 0)
    labels = ["sex=f", "sex=m", "age=a", "age=b", "age=c"]
    assert module.labels(ATTRIBUTES) == labels
    assert module.names_of(labels) == ["sex", "age"]


def test_combinations_are_counted_and_recorded(tmp_path):
    combinations, probabilities = module.combine(CODES)
    assert combinations.tolist() == [[0, 2], [1, 0]]
    np.testing.assert_allclose(probabilities, [2 / 3, 1 / 3])
    module.save(ATTRIBUTES, combinations, probabilities, tmp_path)
    attributes, *numbers = module.load(tmp_path)
    assert attributes == ATTRIBUTES
    np.testing.assert_array_equal(numbers[0], combinations)
    np.testing.assert_array_equal(numbers[1], probabilities)


def test_no_attributes_are_recorded_too(tmp_path):
    module.save((), *module.combine(np.zeros((3, 0), int)), tmp_path)
    attributes, combinations, _ = module.load(tmp_path)
    assert attributes == ()
    assert combinations.shape[1] == 0
