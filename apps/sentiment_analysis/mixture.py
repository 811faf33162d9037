"""How much each branch of the model contributes to its scores."""

from typing import NamedTuple

import numpy as np
from scipy.special import log_softmax

# Weights of the network, the safest one first, and temperatures, likewise. The linear
# branch has chosen nothing on the validation texts; the network has chosen its epoch.
NETWORK_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
TEMPERATURES = (1.0, 0.7, 0.5, 1.4, 2.0)
# A later one must be better by more than so many standard errors of the difference.
NUM_STANDARD_ERRORS = 2
MIN_TEXTS = 30  # Fewer texts choose nothing.


class Mixture(NamedTuple):
    """A weighted sum of the log probabilities of both branches, divided by a number.

    Attributes:
        network: The weight of the network, from 0 to 1; the rest is the linear branch.
        temperature: The number.
    """

    network: float
    temperature: float

    def logits(self, network: np.ndarray, linear: np.ndarray) -> np.ndarray:
        """Returns the mixture of the logits of both branches, `(texts, classes)`."""
        mixed = self.network * log_softmax(network, axis=1)
        mixed += (1 - self.network) * log_softmax(linear, axis=1)
        return mixed / self.temperature


def choose_mixture(
    network: np.ndarray, linear: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> Mixture:
    """Returns the mixture with the smallest log loss on validation texts.

    Few texts cannot tell mixtures apart: the first one of the lists above that is not
    significantly worse than the best is chosen. Fewer than 30 choose the first ones.

    Args:
        network: The logits of the network, `(texts, classes)`.
        linear: The logits of the linear branch, `(texts, classes)`.
        labels: The classes, int `(texts,)`.
        weights: The weights of the texts, `(texts,)`.
    """

    def losses(mixture):
        scores = log_softmax(mixture.logits(network, linear), axis=1)
        return -weights * scores[np.arange(len(labels)), labels]

    def first_of_the_best(mixtures):
        all_losses = [losses(mixture) for mixture in mixtures]
        best = min(all_losses, key=np.mean)
        for mixture, each in zip(mixtures, all_losses, strict=True):
            difference = each - best
            error = difference.std() / np.sqrt(len(labels))
            if difference.mean() <= NUM_STANDARD_ERRORS * error:
                return mixture

    if len(labels) < MIN_TEXTS:
        return Mixture(NETWORK_WEIGHTS[0], TEMPERATURES[0])
    chosen = first_of_the_best([Mixture(weight, 1.0) for weight in NETWORK_WEIGHTS])
    return first_of_the_best([chosen._replace(temperature=t) for t in TEMPERATURES])
