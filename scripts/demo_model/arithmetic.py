"""Domain (e): sums and counting."""

import random

from stories import THINGS


def sums(rng: random.Random) -> str:
    """A few additions, subtractions and products."""
    lines = []
    for _ in range(rng.randint(3, 8)):
        kind = rng.choice("++-*")
        limit = 12 if kind == "*" else rng.choice((20, 100))
        a, b = rng.randint(0, limit), rng.randint(0, limit)
        if kind == "-":
            a, b = max(a, b), min(a, b)
        result = {"+": a + b, "-": a - b, "*": a * b}[kind]
        lines.append(f"{a} {kind} {b} = {result}")
    return "\n".join(lines)


def counting(rng: random.Random) -> str:
    """Counting up or down in equal steps."""
    step, start, count = rng.randint(1, 5), rng.randint(0, 60), rng.randint(5, 15)
    numbers = [start + step * i for i in range(count)]
    if rng.random() < 0.3:
        numbers.reverse()
    way = "up" if numbers[0] < numbers[-1] else "down"
    first, last = numbers[0], numbers[-1]
    listed = ", ".join(map(str, numbers))
    return f"Count {way} from {first} to {last} in steps of {step}: {listed}."


def word_problem(rng: random.Random) -> str:
    """Adding and taking away things, told in words."""
    thing, total = rng.choice(THINGS) + "s", rng.randint(1, 20)
    text = f"There are {total} {thing} on the table."
    for _ in range(rng.randint(1, 3)):
        change = rng.randint(1, 9)
        if rng.random() < 0.5 and change <= total:
            total -= change
            text += f" We take {change} away. Now there are {total} {thing}."
        else:
            total += change
            text += f" We add {change} more. Now there are {total} {thing}."
    return text


def arithmetic(rng: random.Random) -> str:
    """One document of the domain."""
    return rng.choices((sums, counting, word_problem), (5, 2, 2))[0](rng)
