"""The built-in data set: numbers in words, in any two languages of num2words."""

import numpy as np
from num2words import CONVERTER_CLASSES, num2words

from apps.common.errors import BadInput, closest, flag

MAX_DIGITS = 6


def numbers(
    source_language: str, target_language: str, num_pairs: int = 6000, seed: int = 0
) -> list[tuple[str, str]]:
    """Returns pairs of a whole number's words in both languages.

    Args:
        source_language: A language code of num2words, such as `en`.
        target_language: A language code of num2words, such as `de`.
        num_pairs: Number of pairs; no number occurs twice.
        seed: Seed of the random choice.

    Raises:
        BadInput: num2words does not know one of the languages.
    """
    for setting, language in (
        ("source_column", source_language),
        ("target_column", target_language),
    ):
        if language not in CONVERTER_CLASSES:
            raise BadInput(
                f"{flag(setting)} {language} is not a language of num2words"
                f"{closest(language, CONVERTER_CLASSES)}"
            )
    random = np.random.default_rng(seed)
    chosen: dict[int, None] = {}
    while len(chosen) < num_pairs:
        # Each number of digits is equally likely, until there are no more of them.
        digits = random.integers(1, MAX_DIGITS + 1)
        chosen[int(random.integers(10**digits))] = None
    return [
        (num2words(n, lang=source_language), num2words(n, lang=target_language))
        for n in chosen
    ]
