"""Quality of captions, by pycocoevalcap: BLEU, ROUGE-L and CIDEr-D."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.cider.cider_scorer import CiderScorer, cook_refs, cook_test
from pycocoevalcap.rouge.rouge import Rouge

MAX_NGRAM = 4


def score(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict:
    """Scores one caption of each image against its references.

    Args:
        captions: The captions, words separated by spaces.
        references: The reference captions of each image, written alike.

    Returns:
        `bleu_1` to `bleu_4` and `rouge_l`, from 0 to 1; `cider`, CIDEr-D, from 0 to 10;
        and `exact`, the fraction of captions that are equal to a reference.
    """
    ours = {i: [caption] for i, caption in enumerate(captions)}
    theirs = {i: list(each) for i, each in enumerate(references)}
    bleu, _ = Bleu(MAX_NGRAM).compute_score(theirs, ours, verbose=0)
    rouge_l, _ = Rouge().compute_score(theirs, ours)
    cider, _ = Cider().compute_score(theirs, ours)
    pairs = zip(captions, references, strict=True)
    return {
        **{f"bleu_{n}": float(value) for n, value in enumerate(bleu, start=1)},
        "rouge_l": float(rouge_l),
        "cider": float(cider),
        "exact": float(np.mean([caption in each for caption, each in pairs])),
    }


def ciders(captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Returns the CIDEr-D of each caption; the arguments are those of `score`.

    Words that many of these images' references have count little.
    """
    ours = {i: [caption] for i, caption in enumerate(captions)}
    theirs = {i: list(each) for i, each in enumerate(references)}
    _, values = Cider().compute_score(theirs, ours)
    return values


def variety(captions: Sequence[str], known: Iterable[str]) -> dict:
    """Returns how varied captions are.

    Args:
        captions: The captions.
        known: The captions that the model was trained on.

    Returns:
        `distinct`, the number of different captions, as a fraction of all; `novel`, the
        fraction of captions that are not among the known ones; and `words`, the mean
        length.
    """
    counts = Counter(captions)
    known = set(known)
    return {
        "distinct": len(counts) / len(captions),
        "novel": float(np.mean([caption not in known for caption in captions])),
        "words": float(np.mean([len(caption.split()) for caption in captions])),
    }


class TrainingCider:
    """CIDEr-D where the training captions say which words are rare.

    Args:
        references: The captions of each training image.
    """

    def __init__(self, references: Sequence[Sequence[str]]):
        corpus = CiderScorer()
        corpus.crefs = [cook_refs(each) for each in references]
        corpus.compute_doc_freq()
        self.references = corpus.crefs
        self.document_frequency = corpus.document_frequency

    def __call__(self, captions: Sequence[str], images: Sequence[int]) -> np.ndarray:
        """Returns the CIDEr-D of each caption.

        Args:
            captions: The captions.
            images: The number of the training image of each.
        """
        number, values = len(self.references), []
        for start in range(0, len(captions), number):
            part = slice(start, start + number)
            scorer = CiderScorer()
            scorer.document_frequency = self.document_frequency
            scorer.ctest = [cook_test(caption) for caption in captions[part]]
            asked = [self.references[image] for image in images[part]]
            # Only their number matters behind those that are asked for.
            scorer.crefs = asked + self.references[len(asked) :]
            values += scorer.compute_cider()
        return np.array(values)


class ValidationCider(keras.callbacks.Callback):
    """Adds the scores of greedy captions to the metrics of every epoch.

    The metrics are called `val_cider` and `val_bleu_4`.

    Args:
        write: Returns a caption of each validation image by the model in training.
        references: The reference captions of each image.
    """

    def __init__(
        self, write: Callable[[], list[str]], references: Sequence[Sequence[str]]
    ):
        super().__init__()
        self.write = write
        self.references = references

    def on_epoch_end(self, epoch, logs=None):
        """Writes the captions and scores them."""
        scores = score(self.write(), self.references)
        for name in ("cider", "bleu_4"):
            logs[f"val_{name}"] = scores[name]
