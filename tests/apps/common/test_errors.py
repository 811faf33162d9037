import pytest

from apps.common.errors import BadInput, ExportRefused, closest, first_line, flag


def test_exit_statuses_differ():
    assert BadInput.exit_status == 2
    assert ExportRefused.exit_status == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("flower", "; did you mean 'flowers'?"),
        ("FLOWERS", "; choose from: digits, flowers"),  # Case matters.
        ("xyz", "; choose from: digits, flowers"),
        ("", "; choose from: digits, flowers"),
    ],
)
def test_the_closest_name_or_all_names(name, expected):
    assert closest(name, iter(["digits", "flowers"])) == expected


def test_the_flag_of_a_setting():
    assert flag("batch_size") == "--batch-size"
    assert flag("epochs") == "--epochs"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("first\nsecond"), "first"),
        (ValueError("\n  first\n"), "first"),
        (EOFError(), "EOFError"),
        (KeyError("name"), "'name'"),
    ],
)
def test_the_first_line_of_an_error(error, expected):
    assert first_line(error) == expected
