import json

from apps.common import lite
from apps.sentiment_analysis.tokenizer import CLEANING


def test_the_bundle_has_the_tokenizer_of_the_run(run, exported):
    edge = exported / "edge"
    assert (edge / "labels.txt").read_text() == "complaint\npraise\nquestion\n"
    cleaning = json.loads((edge / "cleaning.json").read_text())
    assert cleaning == [list(pair) for pair in CLEANING]
    tokenizer = (edge / "tokenizer.model").read_bytes()
    assert tokenizer == (run / "tokenizer.model").read_bytes()


def test_each_direction_is_one_operation_in_every_variant(exported):
    for path in (exported / "edge").glob("*.tflite"):
        operations = lite.operations(path.read_bytes())
        assert operations["UNIDIRECTIONAL_SEQUENCE_LSTM"] == 2
        assert "WHILE" not in operations


def test_the_card_compares_classes_and_calibration(exported):
    card = json.loads((exported / "card.json").read_text())
    for row in card["engines"]:
        assert row["changed_classes"] <= 0.01
        assert 0 <= row["expected_calibration_error"] < 0.5
    text = (exported / "card.md").read_text()
    assert "`changed classes` is the fraction of texts whose class differs" in text
