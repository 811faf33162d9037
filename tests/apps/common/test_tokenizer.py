import unicodedata

import numpy as np
import pytest
import sentencepiece
import tensorflow as tf

from apps.common.errors import BadInput
from apps.common.text import PADDING, UNKNOWN, UNKNOWN_TOKEN
from apps.common.tokenizer import (
    END,
    END_TOKEN,
    START,
    Tokenizer,
    normalize,
    train_tokenizer,
)
from tests.apps.translation.conftest import make_pairs

TEXTS = [text for pair in make_pairs(200) for text in pair]
TEXTS += ["Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich."] * 9
TEXTS += [
    "the quick brown fox jumps over 13 (lazy) dogs & 28 cats, 'so' \"cool\"!?"
] * 9


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 300)


def ids_of(tokenizer, texts):
    return tokenizer(tf.constant(texts)).to_list()


def joined(tokenizer, rows):
    """The texts of rows that end with `END`."""
    assert all(row[-1] == END for row in rows)
    words = tf.ragged.constant([row[:-1] for row in rows], tf.int32, ragged_rank=1)
    return [text.decode() for text in tokenizer.detokenize(words).numpy()]


def test_texts_come_back(tokenizer):
    rows = ids_of(tokenizer, TEXTS)
    assert joined(tokenizer, rows) == TEXTS
    for row in rows:
        assert row.index(END) == len(row) - 1
        assert not {PADDING, UNKNOWN, START} & set(row)


def test_tokens_are_longer_than_letters(tokenizer):
    (row,) = ids_of(tokenizer, ["siebenhundertdreiundvierzig"])
    assert len(row) < 10
    vocabulary = tokenizer.vocabulary()
    tokens = [vocabulary[token_id] for token_id in row]
    assert "".join(tokens) == f"▁siebenhundertdreiundvierzig{END_TOKEN}"


def test_special_tokens_have_fixed_ids(tokenizer):
    vocabulary = tokenizer.vocabulary()
    assert vocabulary[PADDING] == "<pad>"
    assert vocabulary[UNKNOWN] == UNKNOWN_TOKEN
    assert vocabulary[START] == "<s>"
    assert vocabulary[END] == END_TOKEN
    assert len(tokenizer) == len(vocabulary) <= 300


def test_special_tokens_in_a_text_are_letters(tokenizer):
    for text in ("<s> </s> <pad> <unk>", "▁two ▁"):
        (row,) = ids_of(tokenizer, [text])
        assert not {PADDING, START, END} & set(row[:-1])


def test_empty_text_is_the_end_token_only(tokenizer):
    texts = ["", "  ", "\u200b\ufeff", " \u00a0\u3000"]
    assert ids_of(tokenizer, texts) == [[END]] * 4
    assert joined(tokenizer, [[END]]) == [""]
    assert ids_of(tokenizer, tf.constant([], tf.string)) == []


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("ｔｗｏ ｄｏｇｓ", "two dogs"),
        ("zwo\u0308lf", "zwölf"),
        ("two\u00a0\u2003dogs", "two dogs"),
        ("do\u00adgs", "dogs"),
        ("do\u200bgs\u200d \u2060two\ufeff", "dogs two"),
        ("so…", "so..."),
        ("\u200etwo\u200f dogs", "two dogs"),
        ("two  \t dogs\r\n", "two dogs"),
        ("ﬁne", "fine"),
    ],
)
def test_texts_that_look_alike_have_the_same_tokens(text, same, tokenizer):
    one, other = ids_of(tokenizer, [text, same])
    assert one == other
    assert joined(tokenizer, [one]) == [unicodedata.normalize("NFKC", same)]


def test_upper_and_lower_case_differ(tokenizer):
    one, other = ids_of(tokenizer, ["Two dogs", "two dogs"])
    assert one != other


@pytest.mark.parametrize(
    "junk", [b"\xff\xfe", b"\xc3", b"\xed\xa0\xbd", b"\xf0\x9f\x98", b"\x80\xbf"]
)
def test_bytes_that_are_not_utf8_count_as_a_space(junk, tokenizer):
    spaced, plain = ids_of(tokenizer, [b"two" + junk + b"dogs", b"two dogs"])
    assert spaced == plain
    assert ids_of(tokenizer, [junk]) == [[END]]


def test_characters_are_normalized_as_python_does():
    """The program of the edge bundle uses Python's table."""
    codes = [*range(0x20, 0xD800), *range(0xE000, 0x20000), 0x2F800, 0x10FFFF]
    known = [chr(code) for code in codes if unicodedata.category(chr(code)) != "Cn"]
    texts = [f"a{letter}b" for letter in known]
    mine = [text.decode() for text in normalize(tf.constant(texts)).numpy()]
    theirs = [unicodedata.normalize("NFKC", text) for text in texts]
    assert mine == [text.replace("\N{REPLACEMENT CHARACTER}", " ") for text in theirs]


def test_unknown_characters_are_one_unknown_token(tokenizer):
    (row,) = ids_of(tokenizer, ["two 你好 dogs"])
    assert row.count(UNKNOWN) == 1
    again = joined(tokenizer, [[token_id for token_id in row if token_id != UNKNOWN]])
    assert again[0].split() == ["two", "dogs"]


def test_sampled_segmentations_are_of_the_same_text(tokenizer):
    sample = tokenizer.sampler(0.2)
    texts = TEXTS[:40]
    plain = ids_of(tokenizer, texts)
    draws = [sample(tf.constant(texts)).to_list() for _ in range(3)]
    assert plain != draws[0] != draws[1] != draws[2]
    for draw in draws:
        assert joined(tokenizer, draw) == texts
    lengths = [sum(map(len, rows)) for rows in (plain, *draws)]
    assert (
        min(lengths) == lengths[0]
    )  # The most probable segmentation has the fewest tokens.


def test_a_higher_alpha_varies_less(tokenizer):
    text = tf.constant(TEXTS[:1] * 200)
    (most_probable,) = ids_of(tokenizer, TEXTS[:1])
    fractions = [
        np.mean([row == most_probable for row in tokenizer.sampler(e)(text).to_list()])
        for e in (0.1, 5.0)
    ]
    assert fractions[0] < 0.75
    assert fractions[0] + 0.15 < fractions[1]


def test_an_alpha_of_zero_does_not_vary(tokenizer):
    assert tokenizer.sampler(0) is tokenizer
    assert tokenizer.sampler(0.0) is tokenizer


def test_the_sampler_normalizes_too(tokenizer):
    sample = tokenizer.sampler(0.2)
    rows = sample(tf.constant([b"zwo\xcc\x88lf\xe2\x80\x8b \xff dogs"] * 5)).to_list()
    assert set(joined(tokenizer, rows)) == {"zwölf dogs"}


def test_a_tokenizer_is_loaded_from_its_file(tokenizer):
    again = Tokenizer(tokenizer.model)
    assert again.vocabulary() == tokenizer.vocabulary()
    assert ids_of(again, TEXTS[:20]) == ids_of(tokenizer, TEXTS[:20])
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    for text, row in zip(TEXTS[:20], ids_of(tokenizer, TEXTS[:20]), strict=True):
        assert [*processor.encode(text), END] == row
        assert processor.decode(row[:-1]) == text


def test_a_saved_model_keeps_two_tokenizers_apart(tokenizer, tmp_path):
    tokenizers = [tokenizer, train_tokenizer(TEXTS[:200], 60)]
    texts = TEXTS[:3]
    expected = [ids_of(each, texts) for each in tokenizers]
    assert expected[0] != expected[1]
    module = tf.Module()
    module.resources = [each.sentencepiece for each in tokenizers]
    module.read = tf.function(
        lambda texts: [each(texts) for each in tokenizers],
        input_signature=[tf.TensorSpec([None], tf.string)],
    )
    tf.saved_model.save(module, tmp_path)
    again = tf.saved_model.load(tmp_path).read(tf.constant(texts))
    assert [each.to_list() for each in again] == expected


def test_texts_without_letters_are_refused():
    with pytest.raises(BadInput, match="no vocabulary can be learned"):
        train_tokenizer(["\u200b", " "], 100)


# Words


@pytest.fixture(scope="module")
def words():
    return train_tokenizer(
        ["a dog's tail", "a red t-shirt", "a dog runs"] * 3, 12, "word"
    )


def test_words_are_whole_tokens(words):
    (row,) = ids_of(words, ["a dog's tail"])
    vocabulary = words.vocabulary()
    tokens = [vocabulary[token_id] for token_id in row]
    assert tokens == ["▁a", "▁dog's", "▁tail", END_TOKEN]
    texts = ["a red t-shirt", "a tail", ""]
    assert joined(words, ids_of(words, texts)) == texts


def test_rare_words_are_unknown():
    texts = ["a dog", "a dog", "a cat"] * 5 + ["a zebra"]
    # Four special tokens, and three words.
    tokenizer = train_tokenizer(texts, 7, "word")
    assert tokenizer.vocabulary()[4:] == ["▁a", "▁dog", "▁cat"]
    rows = ids_of(tokenizer, ["a zebra", "zebra dog", "dogs"])
    assert rows == [[4, UNKNOWN, END], [UNKNOWN, 5, END], [UNKNOWN, END]]


def test_words_have_the_same_special_tokens(words):
    special = ["<pad>", UNKNOWN_TOKEN, "<s>", END_TOKEN]
    assert words.vocabulary()[:4] == special
    assert [PADDING, UNKNOWN, START, END] == [0, 1, 2, 3]
    assert len(words) == 4 + 7
    (row,) = ids_of(words, ["<s> </s> <pad>"])
    assert row == [UNKNOWN, END]  # Unknown words in sequence are one token.
