"""Domain (c): recall of key-value pairs and copying of spans, from context only."""

import random

from lexicon import Lexicon


def key_value_list(rng: random.Random, lexicon: Lexicon, num_pairs: int):
    """Returns distinct invented keys with invented values."""
    keys = rng.sample(lexicon.words, num_pairs)
    return [(key, rng.choice(lexicon.words)) for key in keys]


def key_value_recall(rng: random.Random, lexicon: Lexicon, num_pairs: int) -> str:
    """A list of pairs, then some of them again in another order."""
    pairs = key_value_list(rng, lexicon, num_pairs)
    again = rng.sample(pairs, min(len(pairs), rng.randint(3, 8)))
    listed = "\n".join(f"{key}: {value}" for key, value in pairs)
    asked = "\n".join(f"{key}: {value}" for key, value in again)
    return f"Remember these words.\n{listed}\nNow say them again.\n{asked}"


def repeated_span(rng: random.Random, lexicon: Lexicon) -> str:
    """A random span, told two or three times."""
    span = " ".join(rng.choices(lexicon.words, k=rng.randint(4, 24)))
    return "\n".join(["Copy this.", *[span] * rng.randint(2, 3)])


def recall(rng: random.Random, lexicon: Lexicon) -> str:
    """One document of the domain; one list in six is long."""
    if rng.random() < 0.4:
        return repeated_span(rng, lexicon)
    low, high = (24, 80) if rng.random() < 1 / 6 else (3, 16)
    return key_value_recall(rng, lexicon, rng.randint(low, high))
