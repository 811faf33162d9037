"""The built-in data set: sentences of a small grammar, in three classes."""

import numpy as np

NOUNS = (
    *("acting", "bar", "battery", "bed", "breakfast", "camera", "coffee", "cook"),
    *("ending", "film", "food", "garden", "hotel", "music", "plot", "price"),
    *("room", "screen", "service", "soup", "sound", "staff", "story", "view"),
)
ADJECTIVES = {
    "negative": (
        *("awful", "bad", "boring", "dreadful", "poor", "sad", "terrible", "ugly"),
    ),
    "neutral": (
        *("average", "common", "ordinary", "plain", "regular", "standard", "usual"),
    ),
    "positive": (
        *("brilliant", "charming", "fine", "good", "great", "lovely", "nice", "superb"),
    ),
}


def sentences(num_sentences: int = 3000, seed: int = 0) -> list[tuple[str, str]]:
    """Returns different sentences with their classes, the same number of each class.

    A negation reverses the adjective after it. Of two clauses, the one after `but`, or
    the one without `although`, decides the class. Bags of words cannot tell the classes
    apart; the order of the words can.

    Args:
        num_sentences: Number of sentences.
        seed: Seed of the random choices.

    Returns:
        Pairs of a sentence and its class, `negative`, `neutral` or `positive`.
    """
    random = np.random.default_rng(seed)
    classes: dict[str, str] = {}
    while len(classes) < num_sentences:
        name = tuple(ADJECTIVES)[len(classes) % len(ADJECTIVES)]
        classes[make_sentence(name, random)] = name
    return list(classes.items())


def make_sentence(name: str, random: np.random.Generator) -> str:
    """Returns a sentence of this class."""
    main = make_clause(name, random)
    other_name = random.choice([each for each in ADJECTIVES if each != name])
    other = make_clause(other_name, random)
    form = random.choice(
        [
            "{main}",
            "{other} but {main}",
            "although {other} , {main}",
            "{main} although {other}",
            "they say that {other} , but i found that {main}",
            "{main} , even though {other}",
        ]
    )
    return form.format(main=main, other=other)


def make_clause(name: str, random: np.random.Generator) -> str:
    """Returns a clause of this class, about one thing."""
    thing = f"the {random.choice(NOUNS)}"
    degree = random.choice(["", "", "very ", "really ", "quite "])
    if name == "neutral":
        good, bad = (
            random.choice(ADJECTIVES[each]) for each in ("positive", "negative")
        )
        plain = random.choice(ADJECTIVES["neutral"])
        forms = [
            f"{thing} was {degree}{plain}",
            f"{thing} was neither {good} nor {bad}",
            f"{thing} was neither {bad} nor {good}",
        ]
        return random.choice(forms)
    opposite_name = {"negative": "positive", "positive": "negative"}[name]
    adjective, opposite = (
        random.choice(ADJECTIVES[each]) for each in (name, opposite_name)
    )
    forms = [
        f"{thing} was {degree}{adjective}",
        f"{thing} was so {adjective}",
        f"{thing} was not {degree}{opposite}",
        f"{thing} was never {opposite}",
        f"{thing} was anything but {opposite}",
        f"nobody would call {thing} {opposite}",
    ]
    return random.choice(forms)
