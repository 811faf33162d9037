"""Quality of translations: BLEU and chrF by sacreBLEU."""

from collections.abc import Sequence

import keras
import numpy as np
import sacrebleu
import sacremoses

from apps.common.limits import MAX_INPUTS
from apps.common.predictors import in_batches
from apps.common.text import quote_refused

# The rows of the table by length begin at these numbers of words.
LENGTHS = (1, 9, 12, 15, 20)
# The effective order allows sentences of fewer than four tokens.
BLEU = sacrebleu.BLEU(effective_order=True)


def translate(
    predictor, sources: Sequence[str], batch_size: int = MAX_INPUTS
) -> list[str]:
    """Translates sentences, in batches of similar lengths.

    Args:
        predictor: As returned by `load_predictor`.
        sources: The sentences.
        batch_size: Sentences per call.

    Raises:
        BadInput: The model refuses a sentence.
    """
    order = np.argsort([len(source) for source in sources], kind="stable")

    def only_translations(texts):
        return {"translations": predictor(texts)["translations"]}

    texts = [sources[i] for i in order]
    with quote_refused(texts):
        answers = in_batches(only_translations, texts, batch_size)
    translations = answers["translations"][np.argsort(order)]
    return [translation.decode() for translation in translations]


def score(
    translations: Sequence[str], references: Sequence[str], language: str = "en"
) -> dict:
    """Scores translations against one reference each.

    Args:
        translations: The translations.
        references: The reference translations.
        language: Language code for the Moses tokenizer. Unknown languages are tokenized
            by its general rules.

    Returns:
        From 0 to 100: `bleu`, sacreBLEU of the text as it is;
        `bleu_lowercased_tokenized`, BLEU of lower-cased Moses tokens, as in older
        tables; and `chrf`. From 0 to 1: `exact`, the fraction of translations equal to
        the reference. `signatures`: how sacreBLEU computed the first three.
    """
    measures = {
        "bleu": BLEU,
        "bleu_lowercased_tokenized": sacrebleu.BLEU(
            lowercase=True, tokenize="none", force=True, effective_order=True
        ),
        "chrf": sacrebleu.CHRF(),
    }
    texts = {name: [translations, references] for name in measures}
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


def moses_tokens(texts: Sequence[str], language: str) -> list[str]:
    """Returns texts with normalized punctuation, their tokens separated by spaces."""
    normalizer = sacremoses.MosesPunctNormalizer(language)
    tokenizer = sacremoses.MosesTokenizer(language)
    return [
        tokenizer.tokenize(normalizer.normalize(text), escape=False, return_str=True)
        for text in texts
    ]


def by_length(
    sources: Sequence[str], translations: Sequence[str], references: Sequence[str]
) -> list[dict]:
    """Returns the BLEU of sentences grouped by length.

    Returns:
        A row for each range of `LENGTHS` that occurs: `words`, the range; `sentences`,
        their number; and `bleu`.
    """
    groups = np.digitize([len(source.split()) for source in sources], LENGTHS)
    rows = []
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group).tolist()
        start = LENGTHS[max(group, 1) - 1]
        words = f"{start} or more"
        if group < len(LENGTHS):
            words = f"{start} to {LENGTHS[group] - 1}"
        bleu = BLEU.corpus_score(
            [translations[i] for i in members], [[references[i] for i in members]]
        )
        rows.append({"words": words, "sentences": len(members), "bleu": bleu.score})
    return rows


def worst(
    translations: Sequence[str], references: Sequence[str], num_worst: int
) -> np.ndarray:
    """Returns the indices of the translations with the lowest chrF, worst first."""
    chrf = sacrebleu.CHRF()
    scores = [
        chrf.sentence_score(ours, [theirs]).score
        for ours, theirs in zip(translations, references, strict=True)
    ]
    return np.argsort(scores, kind="stable")[:num_worst]


class ValidationBleu(keras.callbacks.Callback):
    """Adds the BLEU of greedy translations to the metrics of every epoch.

    The metric is called `val_bleu`.

    Args:
        predictor: Translates greedily with the model in training.
        pairs: The validation pairs.
    """

    def __init__(self, predictor, pairs):
        super().__init__()
        self.predictor = predictor
        self.pairs = pairs

    def on_epoch_end(self, epoch, logs=None):
        """Translates the pairs and scores the translations."""
        translations = translate(self.predictor, self.pairs.sources)
        bleu = BLEU.corpus_score(translations, [self.pairs.targets])
        logs["val_bleu"] = bleu.score
