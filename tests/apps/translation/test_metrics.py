import numpy as np
import pytest
import sacrebleu
import sacremoses

from apps.translation import metrics
from apps.translation.data import Examples

REFERENCES = [
    "Ein Mann schläft auf einer grünen Bank.",
    "Zwei Hunde laufen durch den Schnee, und ein Kind lacht.",
    "Nein!",
    "Eine Frau mit rotem Hut liest die „Zeitung“.",
]
TRANSLATIONS = [
    "Ein Mann schläft auf einer grünen Bank.",
    "zwei hunde rennen durch den Schnee und das Kind lacht.",
    "Nein .",
    "Eine Frau mit rotem Hut liest eine Zeitung.",
]


def test_scores_are_those_of_sacrebleu():
    scores = metrics.score(TRANSLATIONS, REFERENCES, "de")
    bleu = sacrebleu.corpus_bleu(TRANSLATIONS, [REFERENCES]).score
    chrf = sacrebleu.corpus_chrf(TRANSLATIONS, [REFERENCES]).score
    assert 20 < bleu < 90
    assert scores["bleu"] == pytest.approx(bleu)
    assert scores["chrf"] == pytest.approx(chrf)
    assert scores["exact"] == 1 / 4

    normalizer = sacremoses.MosesPunctNormalizer("de")
    tokenizer = sacremoses.MosesTokenizer("de")
    tokenized = [
        [
            " ".join(tokenizer.tokenize(normalizer.normalize(text), escape=False))
            for text in side
        ]
        for side in (TRANSLATIONS, REFERENCES)
    ]
    lowercased = sacrebleu.corpus_bleu(
        tokenized[0], [tokenized[1]], lowercase=True, tokenize="none", force=True
    ).score
    assert scores["bleu_lowercased_tokenized"] == pytest.approx(lowercased)
    assert lowercased != pytest.approx(bleu, abs=0.1)


def test_scores_carry_the_signatures_of_sacrebleu():
    signatures = metrics.score(TRANSLATIONS, REFERENCES, "de")["signatures"]
    assert set(signatures) == {"bleu", "bleu_lowercased_tokenized", "chrf"}
    assert "case:mixed" in signatures["bleu"]
    assert "tok:13a" in signatures["bleu"]
    lowercased = signatures["bleu_lowercased_tokenized"]
    assert "case:lc" in lowercased
    assert "tok:none" in lowercased
    assert lowercased.endswith(" after Moses (de)")
    for signature in signatures.values():
        assert f"version:{sacrebleu.__version__}" in signature


def test_moses_separates_punctuation_and_normalizes_quotes():
    (german,) = metrics.moses_tokens(["Er sagte: „So ist's“, z.B. um 3,5%."], "de")
    assert german.split()[:4] == ["Er", "sagte", ":", '"']
    assert "&" not in german
    (french,) = metrics.moses_tokens(["L'homme n'a pas d'eau."], "fr")
    assert french == "L' homme n' a pas d' eau ."


def test_unknown_languages_are_tokenized_like_english():
    text = ["Dr. Who is so-called, he said (in 3.5 min.)."]
    assert metrics.moses_tokens(text, "target") == metrics.moses_tokens(text, "en")
    assert metrics.score(["a b"], ["a b"], "target")["bleu_lowercased_tokenized"] > 99


def test_single_words_can_be_scored():
    scores = metrics.score(["ja"], ["ja"])
    for name in ("bleu", "bleu_lowercased_tokenized", "chrf"):
        assert scores[name] == pytest.approx(100)
    assert scores["exact"] == 1
    scores = metrics.score(["ja", ""], ["nein", "ja"])
    assert scores["bleu"] == scores["exact"] == 0


def test_sentences_are_grouped_by_length():
    sources = ["a " * n for n in (1, 8, 9, 11, 12, 14, 15, 19, 20, 90)]
    references = [f"das ist der Satz Nummer {i} von zehn" for i in range(10)]
    translations = list(references)
    for i in (2, 3, 9):
        translations[i] = "es ist der Satz Nummer drei von zehn"
    rows = metrics.by_length(sources, translations, references)
    assert [(row["words"], row["sentences"]) for row in rows] == [
        ("1 to 8", 2),
        ("9 to 11", 2),
        ("12 to 14", 2),
        ("15 to 19", 2),
        ("20 or more", 2),
    ]
    for number, row in enumerate(rows):
        part = slice(2 * number, 2 * number + 2)
        bleu = sacrebleu.corpus_bleu(translations[part], [references[part]]).score
        assert row["bleu"] == pytest.approx(bleu)
        assert (row["bleu"] < 99) == (number in (1, 4))


def test_empty_groups_have_no_row():
    rows = metrics.by_length(["a b", " ".join("a" * 13)], ["x", "x"], ["x", "x"])
    assert [row["words"] for row in rows] == ["1 to 8", "12 to 14"]


def test_the_worst_come_first():
    references = ["der rote Hut", "der grüne Hut", "das Haus", "ja"]
    translations = ["der rote Hut", "der graue Hut", "ein Baum", "ja"]
    assert metrics.worst(translations, references, 3).tolist() == [2, 1, 0]


def test_sentences_are_batched_by_length_and_keep_their_order():
    asked = []

    def predictor(texts):
        asked.append(texts)
        translations = [text.upper().encode() for text in texts]
        # Only the translations are joined; the attention differs in shape.
        return {
            "translations": np.array(translations, object),
            "attention": np.zeros((len(texts), len(texts[0]))),
        }

    sources = ["ccc", "ü", "bb", "dddd", "a"]
    assert metrics.translate(predictor, sources, 2) == ["CCC", "Ü", "BB", "DDDD", "A"]
    assert asked == [["ü", "a"], ["bb", "ccc"], ["dddd"]]


def test_each_epoch_has_the_bleu_of_its_translations():
    def predictor(texts):
        translation = b"das ist so ein Satz"
        return {"translations": np.array([translation] * len(texts), object)}

    pairs = Examples(["a", "b"], ["das ist so ein Satz", "das ist gar kein Satz"])
    callback = metrics.ValidationBleu(predictor, pairs)
    logs = {"loss": 1.0}
    callback.on_epoch_end(0, logs)
    expected = sacrebleu.corpus_bleu(["das ist so ein Satz"] * 2, [pairs.targets]).score
    assert logs == {"loss": 1.0, "val_bleu": pytest.approx(expected)}
    assert 10 < expected < 90
