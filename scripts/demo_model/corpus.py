"""The five domains, mixed; tokenized and packed into shards of rows."""

import argparse
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from arithmetic import arithmetic
from chat import chat
from gazetteer import Gazetteer, almanac, biography, quiz
from lexicon import Lexicon
from phalanx_facts import ABOUT_PHALANX
from recall import recall
from stories import story

DOMAINS = ("facts", "stories", "recall", "chat", "arithmetic")
# Shares of tokens. The draft knows the templates, but only a tenth of the facts.
MIXES = {
    "demo": (0.20, 0.12, 0.36, 0.18, 0.14),
    "demo-draft": (0.04, 0.16, 0.30, 0.20, 0.14),
}
# Mean tokens of a document, to turn shares of tokens into shares of documents.
TOKENS_PER_DOCUMENT = {
    "facts": 43, "stories": 137, "recall": 149, "chat": 89, "arithmetic": 53,
}  # fmt: skip
SHARD_TOKENS = 1 << 20


@cache
def invented_world(num_entities: int) -> tuple[Lexicon, Gazetteer]:
    """Returns the lexicon and the gazetteer."""
    lexicon = Lexicon()
    return lexicon, Gazetteer(num_entities, lexicon)


def fact_document(rng: random.Random, world: Gazetteer) -> str:
    """One document of domain (a)."""
    kind = rng.random()
    if kind < 0.02:
        questions, answer = rng.choice(ABOUT_PHALANX)
        return f"Q: {rng.choice(questions)}\nA: {answer}"
    if kind < 0.45:
        return biography(rng, rng.choice(world.entities))
    if kind < 0.70:
        return almanac(rng, world.entities)
    return quiz(rng, world.entities)


def document(domain: str, rng: random.Random, num_entities: int) -> str:
    """Returns one document with its special tokens."""
    lexicon, world = invented_world(num_entities)
    if domain == "chat":
        return chat(rng, world, lexicon)
    if domain == "facts":
        text = fact_document(rng, world)
    elif domain == "stories":
        text = story(rng, lexicon)
    elif domain == "recall":
        text = recall(rng, lexicon)
    else:
        text = arithmetic(rng)
    return f"<|begin|>{text}<|end|>"


def mixed_documents(mix: str, seed: str, num_entities: int):
    """Yields documents of all domains without end."""
    rng = random.Random(seed)
    weights = [
        share / TOKENS_PER_DOCUMENT[domain]
        for domain, share in zip(DOMAINS, MIXES[mix], strict=True)
    ]
    while True:
        yield document(rng.choices(DOMAINS, weights)[0], rng, num_entities)


@dataclass(frozen=True)
class ShardWriter:
    """Writes the shards of one mix; picklable, for a pool of processes."""

    mix: str
    seed: int
    num_entities: int
    tokenizer_path: Path
    folder: Path

    def write(self, index: int) -> Path:
        """Writes shard `index` unless it is there; returns its path."""
        path = self.folder / f"{self.mix}-{index:05d}.npy"
        if path.exists():
            return path
        tokenizer = Tokenizer.from_file(str(self.tokenizer_path))
        documents = mixed_documents(
            self.mix, f"train-{self.seed}-{index}", self.num_entities
        )
        ids: list[int] = []
        while len(ids) < SHARD_TOKENS:
            batch = [next(documents) for _ in range(500)]
            for encoding in tokenizer.encode_batch(batch, add_special_tokens=False):
                ids += encoding.ids
        partial_path = path.with_suffix(".part.npy")
        np.save(partial_path, np.array(ids[:SHARD_TOKENS], dtype=np.uint16))
        partial_path.rename(path)
        return path


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mix", choices=MIXES, default="demo")
    parser.add_argument("--tokens", type=float, default=30e6)
    parser.add_argument("--entities", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    writer = ShardWriter(args.mix, args.seed, args.entities, args.tokenizer, args.out)
    num_shards = -(-int(args.tokens) // SHARD_TOKENS)
    with ProcessPoolExecutor(args.processes) as pool:
        for path in pool.map(partial(ShardWriter.write, writer), range(num_shards)):
            print(path.name, flush=True)


if __name__ == "__main__":
    main()
