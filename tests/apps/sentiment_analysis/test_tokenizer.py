import json
import unicodedata

import numpy as np
import pytest
import sentencepiece
import tensorflow as tf

from apps.common.text import PADDING, UNKNOWN
from apps.sentiment_analysis import edge
from apps.sentiment_analysis.embedded import sentences
from apps.sentiment_analysis.tokenizer import (
    CLEANING,
    Tokenizer,
    normalize,
    train_tokenizer,
)

# Letters, punctuation and names of emoji, so that few tokens are unknown.
TEXTS = [
    *(text for text, _ in sentences(300)),
    *["the quick brown fox jumps over 13 lazy dogs & 28 cats, 'so' \"cool\"!? #5"] * 9,
    *["😀 👍 ❤ grinning face thumbs up heavy black heart café café user http"] * 9,
    *["hi @ 9:47 @ 6:05 : @"] * 9,
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 400)


@pytest.fixture(scope="module")
def on_device(tokenizer):
    """The tokenizer of the bundle's program."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    cleaning = json.loads(json.dumps(CLEANING))
    return lambda text: edge.tokenize(text, cleaning, processor)


def in_graph(tokenizer, texts):
    return tokenizer(tf.constant(texts)).to_list()


def normalized(tokenizer, text):
    """Returns the text that the tokens spell."""
    vocabulary = tokenizer.vocabulary()
    tokens = [vocabulary[token_id] for token_id in in_graph(tokenizer, [text])[0]]
    return "".join(tokens).replace("▁", " ").strip()


NASTY = {
    "empty": "",
    "spaces": " \u00a0\u3000\u2003 ",
    "unknown": "\ufffd",
    "user names": "@some_1 RT @a: hi,@b me@mail.com .@c @ @@d @é x@y",
    "links": "http://a.b/c?d=é#f HTTPS://no https://www.x.yz/~q) www. www.a,b",
    "emoji": "😀👍🏽👨‍👩‍👧‍👦❤️☺︎🏳️‍🌈🇩🇪🤷🏻‍♀️ great😍",
    "entities": "&amp; &lt;3 &#39; &#x2019; &#X27; &quot; &nosuch; &amp &;",
    "escapes": "don\\u2019t \\u00e9 \\u00E9 \\n \\x41 \\u \\ud83d\\ude00",
    "decomposed": "cafe\u0301 nai\u0308ve \u1e69 s\u0323\u0307 e\u0301\u0327 \u0301x",
    "repeated letters": "sooooo"
    + "o" * 40
    + " YEEEESSSS!!!!!!!! ??!!?? aaa"
    + "b" * 15,
    "hashtags": "#HappyBirthday #NBAFinals iPhone McDonaldS ÄrgerÜber",
    "control": "a\x01b\x07c\x1bd\x7fe\x85f\u200bg\u202eh\ufeffi\x0bj\x0ck",
    "zero": "a\x00b",
    "lines": "good\nday\tto\r\nyou\u2028and\u2029me",
    "scripts": "你好 мир שלום مرحبا हिन्दी 한국어 각 ไทย 日本語ｶﾀｶﾅ",
    "compatible": "ＧＯＯＤ ﬁne ½ ™ 𝓰𝓸𝓸𝓭 ẞ İi ſ Ⅷ ①",
    "quotes": "“what” ‘a’ «day» it’s „so“",
    "meta": "▁a ▁ <unk> <pad> </s>",
    "outside Unicode's first plane": "\U0010ffff \ue000 \U000e0041 \uffff",
    "long": "what a lovely day " * 2000,
    "one long word": "a1" * 5000,
}


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_graph_and_device_give_the_same_token_ids(text, tokenizer, on_device):
    token_ids = in_graph(tokenizer, [text])[0]
    assert token_ids == on_device(text)
    assert PADDING not in token_ids


def test_graph_and_device_agree_on_random_mixtures(tokenizer, on_device):
    parts = [*"aBc ,.!?@#_&;:/\\'1\n\t\u0301\u200d\ufe0f", *NASTY.values()][:-2]
    random = np.random.default_rng(0)
    texts = ["".join(random.choice(parts, random.integers(1, 12))) for _ in range(1000)]
    assert in_graph(tokenizer, texts) == [on_device(text) for text in texts]


def test_graph_and_device_agree_on_every_character(tokenizer, on_device):
    codes = [*range(0xD800), *range(0xE000, 0x20000), *range(0x20000, 0x110000, 97)]
    texts = [f"a{chr(code)}b" for code in codes]
    assert in_graph(tokenizer, texts) == [on_device(text) for text in texts]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("great😀day", "great grinning face day"),
        ("👍🏽", "thumbs up sign"),
        ("❤️", "heavy black heart"),
        ("cats &amp; dogs", "cats & dogs"),
        ("&#39;so&#x27; &quot;cool&quot;", "'so' \"cool\""),
        ("it\\u2019s it’s", "it's it's"),
        ("cafe\u0301 CAFÉ", "café café"),
        ("soooooo cooool!!!!!!", "soo cool!!"),
        ("#HappyDay", "#happy day"),
        ("see https://t.co/a?b=c&d now", "see http now"),
        ("hi @some_body: me@mail", "hi user : me@mail"),
        ("ＧＯＯＤ ﬁne", "good fine"),
        ("a\u200bb\u202ec", "abc"),
        ("good\u00a0\u3000 day", "good day"),
        ("good\x7fday\x85", "good day"),
        ("good\nday\tto\r\nyou", "good day to you"),
        ("good\u2028day\u2029", "good day"),
        ("good\ufffdday", "good day"),
        ('"a ""cool"" day" ', 'a "cool" day'),
        ("see HTTPS://t.co/a now", "see http now"),
        ("it&#039;s", "it's"),
        ("\\ud83d\\ude00 so", "grinning face so"),
        ("s" + "o" * 32, "soo"),
    ],
)
def test_texts_are_normalized(text, expected, tokenizer):
    assert normalized(tokenizer, text) == expected


def test_emoji_become_their_names():
    assert normalize("⭐") == " white medium star "
    assert normalize("⏰") == " alarm clock "
    assert normalize("→") == "→"


def test_a_text_without_tokens_becomes_the_unknown_token(tokenizer):
    texts = ["", "  ", "\ufffd", "good"]
    empty, spaces, unknown, good = in_graph(tokenizer, texts)
    assert empty == spaces == unknown == [UNKNOWN]
    assert good not in ([], [UNKNOWN])
    assert in_graph(tokenizer, tf.constant([], tf.string)) == []


@pytest.mark.parametrize(
    "junk", [b"\xff\xfe", b"\xc3", b"\xed\xa0\xbd", b"\xf0\x9f\x98", b"\x80\xbf"]
)
def test_bytes_that_are_not_utf8_become_spaces(junk, tokenizer):
    spaced, plain = in_graph(tokenizer, [b"good" + junk + b"day", b"good day"])
    assert spaced == plain
    assert in_graph(tokenizer, [junk]) == [[UNKNOWN]]


def test_the_model_file_holds_the_whole_tokenizer(tokenizer):
    again = Tokenizer(tokenizer.model)
    assert again.vocabulary() == tokenizer.vocabulary()
    assert in_graph(again, TEXTS[-2:]) == in_graph(tokenizer, TEXTS[-2:])
    assert len(tokenizer) == len(tokenizer.vocabulary()) <= 400


def test_few_tokens_of_the_training_texts_are_unknown(tokenizer):
    token_ids = np.concatenate(in_graph(tokenizer, TEXTS))
    assert np.mean(token_ids == UNKNOWN) < 0.01


def test_letters_stay_letters():
    for code in [*range(0x20, 0xD800), *range(0xE000, 0x20000)]:
        replacement = normalize(chr(code))
        assert "\ufffd" not in replacement
        if unicodedata.category(chr(code)) in ("Lu", "Ll"):
            assert replacement.strip() == replacement != ""
