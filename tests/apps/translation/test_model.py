import keras
import numpy as np
import pytest
import tensorflow as tf

from apps.common.search import length_penalty
from apps.common.text import PADDING
from apps.translation.data import load_split
from apps.translation.model import (
    NO_WORDS,
    EncoderDecoder,
    State,
    Translator,
    alignments,
    load_tokenizers,
    load_translator,
    most_steps,
    save_tokenizers,
)
from apps.translation.tokenizer import END, END_PIECE, START, train_tokenizer

SIZES = {
    "embedding_size": 8,
    "encoder_units": 5,
    "decoder_units": 6,
    "attention_units": 4,
    "embedding_dropout": 0.0,
    "dropout": 0.0,
}
# Lengths of sentences and of their translations, padded to 7 and to 6.
LENGTHS = ((7, 4), (3, 6), (1, 2))


def make_model(source=20, target=None, **changes):
    """Weights are large, so that everything matters.

    `keras.utils.set_random_seed` would empty TensorFlow's cache of kernels, and with it
    all tokenizers.
    """
    model = EncoderDecoder(source, target, **{**SIZES, **changes})
    model([np.ones((1, 2), "int32")] * 2)
    random = np.random.default_rng(0)
    for weight in model.trainable_variables:
        weight.assign(random.normal(0, 0.7, weight.shape))
    return model


@pytest.fixture(scope="module")
def tokens():
    random = np.random.default_rng(1)
    source, target = (random.integers(4, 17, (3, size)) for size in (7, 6))
    target[:, 0] = START
    for i, (read, written) in enumerate(LENGTHS):
        source[i, read:] = PADDING
        target[i, written:] = PADDING
    return source.astype("int32"), target.astype("int32")


@pytest.fixture(
    scope="module",
    params=[("additive", None), ("multiplicative", 17), ("none", None)],
    ids=["additive", "multiplicative, two vocabularies", "none"],
)
def model(request):
    attention, target = request.param
    return make_model(20, target, attention=attention)


def step_by_step(model, source, target):
    """Logits and attention of each step, as a search would ask for them."""
    memory = model.encode(source)
    state = State(*(each[:, None] for each in model.begin(memory)))
    logits, attention = [], []
    for time in range(target.shape[1]):
        embedded = model.target_embedding(target[:, time, None])
        readout, state, weights = model.step(embedded, state, memory)
        logits.append(model.choose(readout)[:, 0])
        attention.append(weights[:, 0])
    return np.stack(logits, 1), np.stack(attention, 1)


def test_what_is_trained_is_what_a_search_asks_for(model, tokens):
    logits, _ = step_by_step(model, *tokens)
    found = model(tokens)
    assert found.shape == (3, 6, model.arguments["target_vocabulary"] or 20)
    np.testing.assert_allclose(found, logits, atol=1e-5)
    assert logits.std() > 0.3


def test_padding_changes_nothing(model, tokens):
    expected = model(tokens).numpy()
    wider = [np.pad(each, ((0, 0), (0, 9))) for each in tokens]
    np.testing.assert_allclose(model(wider)[:, :6], expected, atol=1e-5)
    for i, (read, written) in enumerate(LENGTHS):
        source, target = (each[i : i + 1] for each in tokens)
        alone = model([source[:, :read], target[:, :written]])
        np.testing.assert_allclose(expected[i, :written], alone[0], atol=1e-5)


def test_without_padding_is_read_the_same(model, tokens):
    memory = model.encode(tokens[0])
    for i, (read, _) in enumerate(LENGTHS):
        alone = model.encode(tokens[0][i : i + 1, :read], padded=False)
        assert alone.mask is None
        for name in ("values", "keys"):
            mine = getattr(memory, name)[i, :read]
            np.testing.assert_allclose(mine, getattr(alone, name)[0], atol=1e-5)
        np.testing.assert_allclose(memory.summary[i], alone.summary[0], atol=1e-5)
        mean = np.mean(alone.values[0], axis=0)
        np.testing.assert_allclose(alone.summary[0], mean, atol=1e-5)


def test_attention_sums_to_one_and_leaves_padding(model, tokens):
    _, attention = step_by_step(model, *tokens)
    assert attention.shape == (3, 6, 7)
    if model.attention is None:
        assert (attention == 0).all()
        return
    np.testing.assert_allclose(attention.sum(axis=2), 1, rtol=1e-5)
    for row, (read, _) in zip(attention, LENGTHS, strict=True):
        assert (row[:, :read] > 0).all()
        assert (row[:, read:] == 0).all()
    assert attention[0].std() > 0.01


def test_hypotheses_do_not_touch_each_other(model, tokens):
    """The axis of beams is only one more axis of examples."""
    memory = model.encode(tokens[0])
    random = np.random.default_rng(3)
    shapes = [(3, 4, each.shape[-1]) for each in model.begin(memory)]
    state = State(*(random.normal(size=s).astype("float32") for s in shapes))
    embedded = random.normal(size=(3, 4, 8)).astype("float32")
    together = model.step(embedded, state, memory)
    for k in range(4):
        part = slice(k, k + 1)
        alone = model.step(
            embedded[:, part], State(*(each[:, part] for each in state)), memory
        )
        for mine, theirs in zip(
            *map(keras.tree.flatten, (together, alone)), strict=True
        ):
            np.testing.assert_allclose(mine[:, part], theirs, atol=1e-5)


def test_the_decoder_reads_what_the_last_piece_was_chosen_by(model, tokens):
    memory = model.encode(tokens[0])
    state = State(*(each[:, None] for each in model.begin(memory)))
    assert not state.readout.numpy().any()  # At first by nothing.
    embedded = model.target_embedding(tokens[1][:, :1])
    readout, after, _ = model.step(embedded, state, memory)
    np.testing.assert_array_equal(after.readout, readout)
    other, _, _ = model.step(embedded, state._replace(readout=readout), memory)
    assert np.abs(other - readout).max(axis=2).min() > 1e-3


def test_every_piece_read_matters(model, tokens):
    source, target = tokens
    expected = model(tokens).numpy()
    for place in range(3):
        changed = source.copy()
        changed[1, place] = changed[1, place] % 16 + 1
        difference = np.abs(model([changed, target]) - expected).max(axis=(1, 2))
        assert difference[1] > 1e-3
        assert max(difference[0], difference[2]) < 1e-6


def test_only_what_was_written_before_matters(model, tokens):
    source, target = tokens
    expected = model(tokens).numpy()
    changed = target.copy()
    changed[0, 2] = changed[0, 2] % 16 + 1
    difference = np.abs(model([source, changed])[0] - expected[0]).max(axis=1)
    assert difference[:2].max() < 1e-6
    assert difference[2:4].min() > 1e-3


def test_a_saved_model_comes_back(model, tokens, tmp_path):
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(tokens), model(tokens), atol=1e-6)
    assert again.arguments == model.arguments


def test_languages_share_their_embedding_unless_they_have_their_own(tokens):
    joint, own = make_model(20), make_model(20, 17)
    assert joint.source_embedding is joint.target_embedding
    assert own.source_embedding.embeddings.shape == (20, 8)
    assert own.target_embedding.embeddings.shape == (17, 8)
    assert joint.count_params() == own.count_params() - 17 * 8


def test_dropout_is_for_training_alone(tokens):
    model = make_model(embedding_dropout=0.5, dropout=0.5)
    np.testing.assert_array_equal(model(tokens), model(tokens))
    first, second = (model(tokens, training=True).numpy() for _ in range(2))
    assert np.abs(first - second).max() > 1e-3


def test_all_weights_learn(model, tokens):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(tokens, training=True) ** 2)
    variables = [weight.value for weight in model.trainable_variables]
    for gradient in tape.gradient(loss, variables):
        assert np.abs(tf.convert_to_tensor(gradient)).max() > 0


def guess_by_guess(model, source, target):
    """Logits where every piece but the first is the decoder's own guess."""
    memory = model.encode(source)
    state = State(*(each[:, None] for each in model.begin(memory)))
    piece, logits = target[:, :1], []
    for _ in range(target.shape[1]):
        readout, state, _ = model.step(model.target_embedding(piece), state, memory)
        logits.append(model.choose(readout)[:, 0].numpy())
        piece = logits[-1].argmax(-1)[:, None]
    return np.stack(logits, 1)


def test_the_decoder_is_left_to_its_guesses_as_often_as_it_is_not_told(tokens):
    model, plain = make_model(scheduled=True), make_model()
    expected = plain(tokens).numpy()
    guessed = guess_by_guess(plain, *tokens)
    assert np.abs(guessed - expected).max() > 0.1
    np.testing.assert_allclose(model(tokens, training=True), expected, atol=1e-5)
    model.told.assign(0.0)
    np.testing.assert_allclose(model(tokens, training=True), guessed, atol=1e-5)
    model.told.assign(0.5)
    between = [model(tokens, training=True).numpy() for _ in range(2)]
    assert np.abs(between[0] - between[1]).max() > 1e-3
    for logits in between:
        np.testing.assert_allclose(logits[:, 0], expected[:, 0], atol=1e-5)
    # Otherwise it is told everything.
    np.testing.assert_allclose(model(tokens), expected, atol=1e-5)


# From here on: text in, translations out.


@pytest.fixture(scope="module")
def translator(run):
    return load_translator(run)


@pytest.fixture(scope="module")
def sentences(config):
    return load_split(config, "test").sources[:8]


@pytest.fixture(scope="module")
def answers(translator, sentences):
    return translator.predictor()(sentences)


def test_translations_differ_and_are_mostly_right(translator, config):
    pairs = load_split(config, "test")
    found = translator.predictor()(pairs.sources)["translations"]
    assert len(set(found)) > 50
    exact = [
        translation.decode() == target
        for translation, target in zip(found, pairs.targets, strict=True)
    ]
    assert np.mean(exact) > 0.2


def by_hand(translator, model, text):
    """The likeliest piece at each step, by the model as it is trained."""
    source = translator.source_tokenizer(tf.constant([text])).to_tensor().numpy()
    written = [START]
    while written[-1] != END and len(written) <= most_steps(source.shape[1]):
        logits = model([source, tf.constant([written])])[0, -1].numpy()
        logits[list(NO_WORDS)] = -np.inf
        written.append(int(logits.argmax()))
    pieces = [token for token in written[1:] if token != END]
    ragged = tf.ragged.constant([pieces], tf.int32, ragged_rank=1)
    return translator.target_tokenizer.detokenize(ragged)[0].numpy()


def test_greedy_is_the_likeliest_piece_at_each_step(translator, sentences):
    found = translator.predictor("greedy")(sentences)["translations"]
    model = tf.function(translator.model, reduce_retracing=True)
    for text, translation in list(zip(sentences, found, strict=True))[:3]:
        assert translation == by_hand(translator, model, text)


def test_scores_are_what_the_model_thinks_of_the_translation(
    translator, sentences, answers
):
    vocabulary = [piece.encode() for piece in translator.target_tokenizer.vocabulary()]
    for i, text in enumerate(sentences[:4]):
        source = translator.source_tokenizer(tf.constant([text])).to_tensor()
        written = [vocabulary.index(piece) for piece in answers["pieces"][i] if piece]
        logits = translator.model([source, np.array([[START, *written]])])[0].numpy()
        logits[:, list(NO_WORDS)] = -np.inf
        each = tf.nn.log_softmax(logits).numpy()
        total = sum(each[t, token] for t, token in enumerate([*written, END]))
        expected = total / length_penalty(len(written) + 1, translator.length_penalty)
        assert answers["scores"][i] == pytest.approx(float(expected), abs=1e-4)


def test_a_beam_finds_what_is_at_least_as_likely_as_greed_does(
    translator, config, answers, sentences
):
    greedy = translator.predictor("greedy")(sentences)
    assert answers["scores"].mean() >= greedy["scores"].mean() - 1e-5
    assert (answers["scores"] <= 0).all()


def test_translations_are_alike_alone_and_among_others(translator, sentences, answers):
    for i, text in enumerate(sentences):
        alone = translator.predictor()([text])
        assert alone["translations"][0] == answers["translations"][i]
        assert alone["scores"][0] == pytest.approx(answers["scores"][i], abs=1e-4)
        mine, theirs = alignments(answers)[i], alignments(alone)[0]
        assert mine[:2] == theirs[:2]
        np.testing.assert_allclose(mine[2], theirs[2], atol=1e-4)


def test_pieces_are_what_was_read_and_written(translator, sentences, answers):
    assert answers["translations"].shape == answers["scores"].shape == (8,)
    source, target, attention = (
        answers[name].shape for name in ("source_pieces", "pieces", "attention")
    )
    assert attention == (8, target[1], source[1])
    for text, translation, (read, written, weights) in zip(
        sentences, answers["translations"], alignments(answers), strict=True
    ):
        assert read[-1] == END_PIECE
        assert "".join(read[:-1]).replace("▁", " ").strip() == text
        joined = "".join(written).replace("▁", " ").strip()
        assert joined == translation.decode()
        np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-4)
    for i, (read, written, _) in enumerate(alignments(answers)):
        assert not answers["attention"][i, len(written) :].any()
        assert not answers["attention"][i, :, len(read) :].any()


def test_long_texts_are_translated_in_parts(translator, sentences, run, config):
    most = config.max_tokens // 2
    first = ". ".join(sentences) + "."  # One word each, which ends a sentence.
    last = " ".join([*sentences, *sentences, *sentences[:2]])
    text = f"{first} {last}"
    assert len(text.split()) > most
    cut = " ".join(last.split()[:most]), " ".join(last.split()[most:])
    parts = [f"{sentence}." for sentence in sentences] + [part for part in cut if part]
    expected = translator.predictor()(parts)
    found = translator.predictor()([sentences[0], text])
    joined = b" ".join(expected["translations"])
    assert found["translations"][1] == joined
    mean = expected["scores"].mean()
    assert found["scores"][1] == pytest.approx(float(mean), abs=1e-4)
    read, written, attention = alignments(found)[1]
    assert read.count(END_PIECE) == len(parts)
    row = column = 0
    outside = np.ones(attention.shape, bool)
    for part_read, part_written, part in alignments(expected):
        rows = slice(row, row + len(part_written))
        columns = slice(column, column + len(part_read))
        assert read[columns] == part_read
        assert written[rows] == part_written
        np.testing.assert_allclose(attention[rows, columns], part, atol=1e-4)
        outside[rows, columns] = False
        row, column = rows.stop, columns.stop
    assert (row, column) == attention.shape
    assert not attention[outside].any()


def test_of_nothing_the_translation_is_nothing(translator):
    for signature in ("serving_default", "greedy"):
        translate = translator.predictor(signature)
        for texts in ([""], [" \n\u200b", "vier"], ["", ""]):
            found = translate(texts)
            assert found["translations"][0] == b""
            read, written, attention = alignments(found)[0]
            assert (read, written) == ([END_PIECE], [])
            assert attention.shape == (0, 1)
            assert np.isfinite(found["scores"]).all()
        assert found["attention"].shape == (2, 0, 1)


def test_what_is_no_word_is_never_written(translator, config):
    model = make_model(len(translator.target_tokenizer))
    pairs = load_split(config, "test")
    random = Translator(model, *translator.tokenizers, beam_size=4)
    tokens = random.source_tokenizer(tf.constant(pairs.sources[:30])).to_tensor()
    assert not np.isin(random.search(tokens).tokens, NO_WORDS).any()
    memory = model.encode(tokens)
    state = State(*(each[:, None] for each in model.begin(memory)))
    log_probs, _, _ = random.step(np.full((30, 1), START), state, memory)
    assert np.isneginf(log_probs.numpy()[..., list(NO_WORDS)]).all()
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=-1), 1, rtol=1e-5)


def test_what_never_ends_is_cut(translator, sentences):
    endless = Translator(translator.model, *translator.tokenizers, beam_size=2)
    endless.ruled_out += tf.one_hot(END, len(translator.target_tokenizer), -np.inf, 0.0)
    ragged = translator.source_tokenizer(tf.constant(sentences))
    found = endless.search(ragged.to_tensor())
    expected = 2 * ragged.row_lengths() + 10
    np.testing.assert_array_equal(found.lengths[:, 0], expected)


def test_numbers_of_pieces_are_translated_alike(translator, sentences, answers):
    tokens = translator.source_tokenizer(tf.constant(sentences)).to_tensor()
    found = {name: value.numpy() for name, value in translator.tensors(tokens).items()}
    np.testing.assert_allclose(found["scores"], answers["scores"], atol=1e-5)
    vocabulary = np.array(translator.target_tokenizer.vocabulary())
    for i, row in enumerate(found["tokens"]):
        length = int((row != PADDING).sum())
        assert not row[length:].any()
        pieces = [piece.decode() for piece in answers["pieces"][i] if piece]
        assert vocabulary[row[:length]].tolist() == pieces
        assert not found["attention"][i, length:].any()
        sums = found["attention"][i, :length].sum(axis=1)
        np.testing.assert_allclose(sums, 1, rtol=1e-4)


@pytest.fixture(scope="module")
def two_tokenizers(config):
    pairs = load_split(config, "train")
    return [train_tokenizer(pairs.sources, 60), train_tokenizer(pairs.targets, 70)]


def test_each_language_can_have_its_own_pieces(two_tokenizers):
    source, target = map(len, two_tokenizers)
    assert source != target
    translator = Translator(make_model(source, target), *two_tokenizers, beam_size=2)
    found = translator.predictor()(["siebenundvierzig", "zwei"])
    for text, translation, (read, written, _) in zip(
        ("siebenundvierzig", "zwei"),
        found["translations"],
        alignments(found),
        strict=True,
    ):
        assert "".join(read) == f"▁{text}{END_PIECE}"
        joined = "".join(written).replace("▁", " ").strip()
        assert joined == translation.decode().strip()
        assert set(written) <= set(two_tokenizers[1].vocabulary())


def test_a_vocabulary_that_both_share_is_written_once(two_tokenizers, tmp_path):
    save_tokenizers(two_tokenizers, tmp_path)
    names = {"source.model", "target.model"}
    assert {path.name for path in tmp_path.iterdir()} == names
    again = load_tokenizers(tmp_path)
    assert [each.model for each in again] == [each.model for each in two_tokenizers]
    joint = tmp_path / "joint"
    joint.mkdir()
    save_tokenizers(two_tokenizers[:1] * 2, joint)
    assert [path.name for path in joint.iterdir()] == ["source.model"]
    one, other = load_tokenizers(joint)
    assert one is other
