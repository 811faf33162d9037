import pytest

from apps.common.errors import BadInput
from apps.speech_recognition.config import Config
from apps.speech_recognition.tokenizer import (
    load_tokenizer,
    make_tokenizer,
    save_tokenizer,
)

TEXTS = ["yes", "no yes", "go on", "ten to one", "on and on", "not one"] * 5


def make(kind, texts=TEXTS, **settings):
    return make_tokenizer(texts, Config("", token=kind, **settings))


@pytest.mark.parametrize("kind", ["character", "subword", "word"])
def test_texts_come_back(tmp_path, kind):
    tokenizer = make(kind, vocabulary_size=30)
    save_tokenizer(tokenizer, tmp_path)
    for each in (tokenizer, load_tokenizer(tmp_path)):
        assert each.kind == kind
        assert each.tokens[0] == ""
        for text in TEXTS:
            ids = each.encode(text)
            assert 0 not in ids
            assert max(ids) < len(each)
            assert each.decode(ids) == text


def test_tokens():
    assert make("character").tokens == ["", *" adeghnosty".replace("h", "")]
    words = make("word")
    assert words.tokens[:3] == ["", " and", " go"]
    assert len(words.encode("ten to one")) == 3
    subwords = make("subword", vocabulary_size=30)
    assert len(subwords.encode("one")) < 3


def test_what_has_no_token_is_left_out():
    characters, words = make("character"), make("word")
    assert characters.decode(characters.encode("yes, no!")) == "yes no"
    assert characters.unknown("yes, no!") == [",", "!"]
    assert words.decode(words.encode("yes maybe no")) == "yes no"
    assert words.unknown("yes maybe no") == ["maybe"]
    assert make("subword", vocabulary_size=30).unknown("yes, no") == []


def test_empty_texts_are_refused():
    with pytest.raises(BadInput, match="are empty; write what is said"):
        make("character", ["", ""])
