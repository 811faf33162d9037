import keras
import numpy as np
import pytest
import tensorflow as tf

from apps.common.errors import BadInput
from apps.common.text import PADDING
from apps.sentiment_analysis.data import make_sentences
from apps.sentiment_analysis.model import (
    build_model,
    initial_embedding,
    load_classifier,
    with_attention,
    without_padding,
)

LENGTHS = (9, 6, 4, 2, 1)


@pytest.fixture(scope="module")
def model():
    """Weights are large, so that every step matters."""
    keras.utils.set_random_seed(0)
    model = build_model(
        50, 3, embedding_size=8, units=6, attention_units=5, dropout=0.5
    )
    random = np.random.default_rng(0)
    model.set_weights([w + random.normal(0, 0.7, w.shape) for w in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def tokens():
    random = np.random.default_rng(1)
    tokens = random.integers(1, 50, (len(LENGTHS), 9)).astype("int32")
    for row, length in zip(tokens, LENGTHS, strict=True):
        row[length:] = PADDING
    return tokens


def alone(model, tokens):
    """The answers for each text without the others, and without padding."""
    return [
        model(row[None, :length]) for row, length in zip(tokens, LENGTHS, strict=True)
    ]


def test_padding_changes_no_score(model, tokens):
    expected = np.concatenate(alone(model, tokens))
    np.testing.assert_allclose(model(tokens), expected, atol=1e-6)
    wider = np.pad(tokens, ((0, 0), (0, 20)))
    np.testing.assert_allclose(model(wider), expected, atol=1e-6)
    np.testing.assert_allclose(expected.sum(axis=1), 1, rtol=1e-5)
    assert np.ptp(expected, axis=0).min() > 0.05


def test_the_model_without_padding_is_the_same(model, tokens):
    twin = without_padding(model)
    np.testing.assert_allclose(
        np.concatenate(alone(twin, tokens)), model(tokens), atol=1e-6
    )
    assert [w.shape for w in twin.weights] == [w.shape for w in model.weights]


def test_without_padding_the_first_piece_is_one_like_others(model):
    """It has no mask: nothing in it compares with the number of padding."""
    tokens = np.array([[PADDING, 5, 7]], "int32")
    attention = with_attention(without_padding(model))(tokens)["attention"]
    assert attention.numpy().min() > 0


def test_attention_sums_to_one_and_leaves_padding(model, tokens):
    answers = with_attention(model)(tokens)
    np.testing.assert_array_equal(answers["scores"], model(tokens))
    attention = answers["attention"].numpy()
    assert attention.shape == tokens.shape
    assert (attention >= 0).all()
    assert (attention[tokens == PADDING] == 0).all()
    np.testing.assert_allclose(attention.sum(axis=1), 1, rtol=1e-5)
    for row, length, single in zip(
        attention, LENGTHS, alone(with_attention(model), tokens), strict=True
    ):
        np.testing.assert_allclose(row[:length], single["attention"][0], atol=1e-6)
    assert attention[0].std() > 0.01


def test_the_order_of_words_matters(model, tokens):
    forwards, backwards = tokens[:1], tokens[:1, ::-1]
    difference = np.abs(model(forwards) - model(backwards)).max()
    assert difference > 1e-2


def test_both_ends_are_read(model, tokens):
    """Attention's question is what either direction has read at its end."""
    expected = model(tokens).numpy()
    for place in (0, LENGTHS[1] - 1):
        changed = tokens.copy()
        changed[1, place] = changed[1, place] % 49 + 1
        difference = np.abs(model(changed) - expected).max(axis=1)
        assert difference[1] > 1e-3
        assert np.delete(difference, 1).max() < 1e-6


def test_nothing_but_padding_gives_finite_scores(model):
    answers = with_attention(model)(np.zeros((2, 4), "int32"))
    assert np.isfinite(answers["scores"]).all()
    assert (answers["attention"].numpy() == 0).all()


def test_dropout_is_for_training_alone(model, tokens):
    np.testing.assert_array_equal(model(tokens), model(tokens))
    first, second = (model(tokens, training=True).numpy() for _ in range(2))
    assert np.abs(first - second).max() > 1e-3


def test_a_saved_model_comes_back(model, tokens, tmp_path):
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(tokens), model(tokens), atol=1e-6)
    twin = without_padding(again)
    np.testing.assert_allclose(twin(tokens[:1]), model(tokens[:1]), atol=1e-6)


def test_a_classifier_answers_alike_alone_and_among_others(run):
    classifier = load_classifier(run)
    texts = [text for text, _ in make_sentences(40, seed=7)]
    together = classifier(texts)
    for i, text in enumerate(texts):
        answer = classifier([text])
        steps = answer["tokens"].shape[1]
        np.testing.assert_array_equal(answer["classes"][0], together["classes"][i])
        for name in ("scores", "attention"):
            mine = together[name][i][:steps]
            np.testing.assert_allclose(mine, answer[name][0], atol=1e-5)
        assert together["tokens"][i][:steps].tolist() == answer["tokens"][0].tolist()
        assert not any(together["tokens"][i][steps:])
        assert not together["attention"][i][steps:].any()


def test_a_classifier_names_the_best_class_first(run):
    classifier = load_classifier(run)
    answers = classifier(["the soup was not good", "the soup was so good", ""])
    assert [row[0] for row in answers["classes"][:2]] == [b"negative", b"positive"]
    assert (np.diff(answers["scores"], axis=1) <= 0).all()
    for row in answers["classes"]:
        assert sorted(row) == [b"negative", b"neutral", b"positive"]
    pieces = [token.decode() for token in answers["tokens"][0] if token]
    assert "".join(pieces).replace("▁", " ") == " the soup was not good"
    assert answers["tokens"][2][0] == b"<unk>"

    tokens = classifier.tokenizer(tf.constant(["the soup was not good"])).to_tensor()
    scores = classifier.tensors(tokens)["scores"][0].numpy()
    np.testing.assert_allclose(np.sort(scores)[::-1], answers["scores"][0], atol=1e-5)
    assert scores.argmax() == 0  # In the order of the class names.


VOCABULARY = ["<pad>", "<unk>", "▁good", "▁bad", "bad", "!", "▁!", "▁new"]
WORDS = ["bad", "good", "!", "other"]
VECTORS = np.array([[1, 2], [3, -4], [5, 6], [7, 8]], "float32")


@pytest.fixture
def word_vectors(tmp_path):
    np.savez(tmp_path / "words.npz", words=np.array(WORDS), vectors=VECTORS)
    lines = [
        f"{word} {' '.join(map(str, row))}"
        for word, row in zip(WORDS, VECTORS, strict=True)
    ]
    (tmp_path / "words.txt").write_text("\n".join(lines) + "\n", "utf-8")
    return tmp_path


@pytest.mark.parametrize("name", ["words.npz", "words.txt"])
def test_word_vectors_are_put_where_they_belong(name, word_vectors):
    path = str(word_vectors / name)
    embedding, known = initial_embedding(VOCABULARY, 5, (path,), seed=3)
    random, none = initial_embedding(VOCABULARY, 5, (), seed=3)
    assert (embedding.shape, embedding.dtype) == ((8, 5), "float32")
    assert (known, none) == (4, 0)
    scaled = VECTORS * (0.3 / VECTORS.std())
    rows = {"▁good": 1, "▁bad": 0, "!": 2, "▁!": 2}
    for piece, row in zip(VOCABULARY, embedding, strict=True):
        if piece in rows:
            np.testing.assert_allclose(row[:2], scaled[rows[piece]], rtol=1e-5)
    # All else is random: other pieces, and what the vectors do not fill.
    for i, piece in enumerate(VOCABULARY):
        start = 2 if piece in rows else 0
        np.testing.assert_array_equal(embedding[i, start:], random[i, start:])
    assert 0.05 < random.std() < 0.15
    other, _ = initial_embedding(VOCABULARY, 5, (), seed=4)
    assert (other != random).all()


def test_several_word_vectors_lie_side_by_side(word_vectors):
    np.savez(
        word_vectors / "more.npz",
        words=np.array(["new", "good"]),
        vectors=np.array([[1, -1, 0], [2, 0, -2]], "float32"),
    )
    paths = tuple(str(word_vectors / name) for name in ("words.npz", "more.npz"))
    embedding, known = initial_embedding(VOCABULARY, 6, paths, seed=0)
    assert known == 5
    good = embedding[VOCABULARY.index("▁good")]
    np.testing.assert_allclose(good[:2] / good[0], [1, -4 / 3], rtol=1e-5)
    np.testing.assert_allclose(good[2:5] / good[2], [1, 0, -1], atol=1e-6)
    new = embedding[VOCABULARY.index("▁new")]
    np.testing.assert_allclose(new[2:5] / new[2], [1, -1, 0], atol=1e-6)
    with pytest.raises(BadInput, match=r"--embedding-size 4 .*more\.npz take 5"):
        initial_embedding(VOCABULARY, 4, paths, seed=0)


def test_words_that_look_like_the_end_of_a_line_are_words(tmp_path):
    """GloVe's vectors of tweets have some."""
    path = tmp_path / "words.txt"
    path.write_text("good 1 2\n\x85 3 4\n\u2028 5 6\nnew 7 8\n", "utf-8", newline="\n")
    assert initial_embedding(VOCABULARY, 2, (str(path),), seed=0)[1] == 2


def pack(**arrays):
    def write(path):
        with path.open("wb") as file:
            np.savez(file, **arrays)

    return write


def cut(path):
    pack(words=np.array(WORDS), vectors=VECTORS)(path)
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    pack(words=np.array(WORDS), vectors=np.zeros((4, 50)))(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def single_array(path):
    with path.open("wb") as file:
        np.save(file, VECTORS)


BROKEN = {
    "junk": ("a.npz", lambda path: path.write_bytes(b"junk")),
    "empty": ("a.npz", lambda path: path.touch()),
    "cut": ("a.npz", cut),
    "flipped": ("a.npz", flip),
    "single array": ("a.npz", single_array),
    "other names": ("a.npz", pack(names=np.array(WORDS), vectors=VECTORS)),
    "flat": ("a.npz", pack(words=np.array(["good"]), vectors=np.arange(3.0))),
    "too few": ("a.npz", pack(words=np.array(WORDS), vectors=VECTORS[:2])),
    "objects": ("a.npz", pack(words=np.array(WORDS, object), vectors=VECTORS)),
    "empty text": ("a.txt", lambda path: path.touch()),
    "only words": ("a.txt", lambda path: path.write_text("good\nbad\n")),
    "prose": ("a.txt", lambda path: path.write_text("this is not one\n")),
    "uneven": ("a.txt", lambda path: path.write_text("good 1 2\nbad 3\n")),
    "binary": ("a.txt", lambda path: path.write_bytes(b"\xff\xfe\x00\x01")),
    "folder": ("a.txt", lambda path: path.mkdir()),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_holds_no_word_vectors_is_refused(case, tmp_path):
    name, write = BROKEN[case]
    write(tmp_path / name)
    with pytest.raises(BadInput, match=rf"--word-vectors .*{name} holds no word"):
        initial_embedding(VOCABULARY, 9, (str(tmp_path / name),), seed=0)
