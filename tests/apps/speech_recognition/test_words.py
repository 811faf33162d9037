import numpy as np
import pytest

from apps.common.errors import BadInput
from apps.speech_recognition import words
from apps.speech_recognition.config import Config
from apps.speech_recognition.tokenizer import make_tokenizer

TEXTS = ["go on", "go up", "go on", "up on"]


def load(word_list, texts=TEXTS, **settings):
    config = Config("", word_list=word_list, **settings)
    return words.load_word_list(texts, make_tokenizer(texts, config), config)


def test_pairs_of_words_are_counted():
    names = ["go", "on", "up"]
    found = np.exp(words.log_probabilities(TEXTS, names))
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    alone = np.array([4, 4, 3]) / 11
    np.testing.assert_allclose(
        found[0], (np.array([0, 2, 1]) + 5 * alone) / 8, rtol=1e-5
    )
    np.testing.assert_allclose(
        found[3], (np.array([3, 0, 1]) + 5 * alone) / 9, rtol=1e-5
    )


def test_many_words_have_no_pairs(monkeypatch):
    monkeypatch.setattr(words, "MAX_PAIRED_WORDS", 2)
    found = words.log_probabilities(TEXTS, ["go", "on", "up"])
    np.testing.assert_allclose(np.exp(found), [[4 / 11, 4 / 11, 3 / 11]], rtol=1e-5)


def test_the_words_of_the_training_texts_or_of_a_file(tmp_path, capsys):
    assert load(None) is None
    assert (load("train").word >= 0).sum() == 3
    file = tmp_path / "words.txt"
    file.write_text("on\n\nno\nquit\non\n")
    assert (load(str(file)).word >= 0).sum() == 2
    assert "quit" in capsys.readouterr().err


def test_bad_word_lists(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("xyz\n")
    with pytest.raises(BadInput, match="has no word that can be written"):
        load(str(file))
    with pytest.raises(BadInput, match="needs --token character, not word"):
        load("train", token="word")


def test_single_words_that_begin_alike_are_all_reachable():
    """No text has a space, so that no letter follows a complete word."""
    texts = ["a", "ab", "b"]
    found = load("train", texts=texts)
    tokenizer = make_tokenizer(texts, Config("", word_list="train"))
    for number, word in enumerate(texts):
        node = 0
        for token in tokenizer.encode(word):
            node = found.next_node[node, token]
        assert found.word[node] == number
    assert (found.next_node >= 0).sum() == 3
