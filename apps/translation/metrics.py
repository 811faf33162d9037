"""How good translations are, by the field's own measures and libraries."""

import keras
import numpy as np
import sacrebleu
import sacremoses

from apps.common.predictors import in_batches

# Words of a sentence: the table by length has a row from each to the next.
LENGTHS = (1, 9, 12, 15, 20)
# The effective order lets single words be scored; elsewhere it changes nothing.
BLEU = sacrebleu.BLEU(effective_order=True)


def translate(predictor, sources, batch_size=50):
    """Asks a model for translations, of sentences of similar lengths together.

    Args:
        predictor: A function from a list of strings to named arrays, of which
            `translations` are encoded strings.
        sources: Strings.
        batch_size: Sentences per call.

    Returns:
        The translations, strings.
    """
    order = np.argsort([len(source) for source in sources], kind="stable")

    def translations_alone(texts):
        return {"translations": predictor(texts)["translations"]}

    answers = in_batches(translations_alone, [sources[i] for i in order], batch_size)
    translations = answers["translations"][np.argsort(order)]
    return [translation.decode() for translation in translations]


def score(translations, references, language="en"):
    """Scores translations of which one reference each is known.

    Args:
        translations: Strings.
        references: Strings.
        language: The language's code, by which Moses tokenizes; of others it knows
            only the general rules.

    Returns:
        From 0 to 100: `bleu`, sacreBLEU of the text as it is;
        `bleu_lowercased_tokenized`, of small letters and Moses' tokens, as older tables
        have it; and `chrf`. From 0 to 1 `exact`, the share of translations that equal
        the reference. Then the `signatures` of the first three.
    """
    measures = {
        "bleu": BLEU,
        "bleu_lowercased_tokenized": sacrebleu.BLEU(
            lowercase=True, tokenize="none", force=True, effective_order=True
        ),
        "chrf": sacrebleu.CHRF(),
    }
    texts = dict.fromkeys(measures, (translations, references))
    texts["bleu_lowercased_tokenized"] = [
        moses_tokens(side, language) for side in (translations, references)
    ]
    values = {
        name: measure.corpus_score(texts[name][0], [texts[name][1]]).score
        for name, measure in measures.items()
    }
    pairs = zip(translations, references, strict=True)
    signatures = {
        name: measure.get_signature().format() for name, measure in measures.items()
    }
    signatures["bleu_lowercased_tokenized"] += f" after Moses ({language})"
    return {
        **values,
        "exact": float(np.mean([ours == theirs for ours, theirs in pairs])),
        "signatures": signatures,
    }


def moses_tokens(texts, language):
    """Returns texts with plain punctuation and spaces between their tokens."""
    normalizer = sacremoses.MosesPunctNormalizer(language)
    tokenizer = sacremoses.MosesTokenizer(language)
    return [
        tokenizer.tokenize(normalizer.normalize(text), escape=False, return_str=True)
        for text in texts
    ]


def by_length(sources, translations, references):
    """Returns the BLEU of short sentences and of long ones.

    Returns:
        For each of `LENGTHS` that occurs: `words` of the sentences, as a range in
        words, their number `sentences`, and `bleu`.
    """
    groups = np.digitize([len(source.split()) for source in sources], LENGTHS)
    rows = []
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        start = LENGTHS[max(group, 1) - 1]
        words = f"{start} or more"
        if group < len(LENGTHS):
            words = f"{start} to {LENGTHS[group] - 1}"
        bleu = BLEU.corpus_score(
            [translations[i] for i in members], [[references[i] for i in members]]
        )
        rows.append({"words": words, "sentences": len(members), "bleu": bleu.score})
    return rows


def worst(translations, references, most):
    """Returns the indices of the translations with the lowest chrF, the worst first."""
    chrf = sacrebleu.CHRF()
    scores = [
        chrf.sentence_score(ours, [theirs]).score
        for ours, theirs in zip(translations, references, strict=True)
    ]
    return np.argsort(scores, kind="stable")[:most]


class ValidationBleu(keras.callbacks.Callback):
    """Adds to every epoch's metrics the BLEU of greedy translations, `val_bleu`.

    Args:
        translator: A `model.Translator` of the model that is trained.
        pairs: The `data.Pairs` to translate.
    """

    def __init__(self, translator, pairs):
        super().__init__()
        self.predictor = translator.predictor("greedy")
        self.pairs = pairs

    def on_epoch_end(self, epoch, logs=None):
        """Translates and scores."""
        translations = translate(self.predictor, self.pairs.sources)
        bleu = BLEU.corpus_score(translations, [self.pairs.targets])
        logs["val_bleu"] = bleu.score
