"""Invented words and names, built from syllables and always the same."""

import random

ONSETS = "b br d dr f g gr h j k l m n p r s sh t th tr v w z".split()
VOWELS = "a a a e e e i i o o o u u ai ea ia io".split()
CODAS = [""] * 12 + "l l m n n r r s nd rn st".split()
NUM_WORDS = 6000


def syllable(rng: random.Random) -> str:
    """Returns one pronounceable syllable."""
    return rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS)


def distinct_words(rng: random.Random, count: int, taken: set[str]) -> list[str]:
    """Returns `count` new words of two or three syllables; adds them to `taken`."""
    words = []
    while len(words) < count:
        word = "".join(syllable(rng) for _ in range(rng.choice((2, 2, 2, 3))))
        if 4 <= len(word) <= 9 and word not in taken:
            taken.add(word)
            words.append(word)
    return words


class Lexicon:
    """Disjoint pools of invented words; the same for every run."""

    def __init__(self, num_words: int = NUM_WORDS):
        rng, taken = random.Random("lexicon"), set()
        self.words = distinct_words(rng, num_words, taken)
        self.first_names = [w.capitalize() for w in distinct_words(rng, 400, taken)]
        self.last_names = [w.capitalize() for w in distinct_words(rng, 1200, taken)]
        self.place_names = [w.capitalize() for w in distinct_words(rng, 800, taken)]
        self.ship_names = [w.capitalize() for w in distinct_words(rng, 800, taken)]
        self.strangers = [w.capitalize() for w in distinct_words(rng, 800, taken)]
