import pytest
from num2words import num2words

from apps.common.errors import BadInput
from apps.translation.embedded import numbers


def test_pairs_are_a_number_in_both_languages():
    pairs = numbers("en", "de", 3000)
    assert len(set(pairs)) == len(pairs) == 3000
    german = {num2words(n): num2words(n, lang="de") for n in range(0, 1000, 3)}
    known = [pair for pair in pairs if pair[0] in german]
    assert len(known) > 100
    assert all(german[source] == target for source, target in known)
    assert any("hundred thousand" in source for source, _ in pairs)
    assert not any("million" in source for source, _ in pairs)


def test_pairs_depend_only_on_the_seed():
    pairs = numbers("en", "de", 50)
    assert numbers("en", "de", 40) == pairs[:40]
    assert numbers("en", "de", 50, seed=1) != pairs
    french = numbers("en", "fr", 50)
    assert [source for source, _ in french] == [source for source, _ in pairs]
    assert [target for _, target in french] != [target for _, target in pairs]


def test_unknown_languages_are_refused():
    with pytest.raises(BadInput, match="--source-column xx is not a language of num2"):
        numbers("xx", "de", 1)
    with pytest.raises(BadInput, match="--target-column source is not a language"):
        numbers("de", "source", 1)
