"""Measures an exported model: held-out perplexity and greedy exact match.

Reads the Hugging Face layout with transformers, as anyone else would, in float32.
"""

import argparse
import json
import math
import random
from collections import defaultdict
from itertools import chain
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from corpus import DOMAINS, document, invented_world
from probes import (
    Probe,
    fact_probes,
    phalanx_probes,
    recall_probes,
    story_probes,
    sum_probes,
    tool_probes,
)

PAD, BATCH = 0, 64


def batched(items: list) -> list[list]:
    """Cuts a list into batches."""
    return [items[i : i + BATCH] for i in range(0, len(items), BATCH)]


def padded(rows: list[list[int]], left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ids and attention mask, [rows, longest]."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), PAD)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        place = slice(longest - len(row), longest) if left else slice(0, len(row))
        ids[i, place], mask[i, place] = torch.tensor(row), 1
    return ids, mask


class Evaluation:
    """One model, with its tokenizer, under measurement."""

    def __init__(self, folder: Path, num_entities: int, num_samples: int):
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.model = self.load(folder)
        self.num_entities, self.num_samples = num_entities, num_samples
        self.lexicon, self.world = invented_world(num_entities)

    @staticmethod
    def load(folder: Path):
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def held_out(self, domain: str) -> list[list[int]]:
        """Documents drawn with a seed that training does not use."""
        rng = random.Random(f"held-out {domain}")
        texts = (
            document(domain, rng, self.num_entities) for _ in range(self.num_samples)
        )
        return sorted(map(self.encode, texts), key=len)

    @torch.inference_mode()
    def perplexity(self, domain: str) -> float:
        """Per token, over whole documents."""
        total, count = 0.0, 0
        for rows in batched(self.held_out(domain)):
            ids, mask = padded(rows, left=False)
            log_p = self.model(ids).logits[:, :-1].log_softmax(-1)
            nll = -log_p.gather(2, ids[:, 1:, None]).squeeze(2) * mask[:, 1:]
            total, count = total + nll.sum().item(), count + mask[:, 1:].sum().item()
        return math.exp(total / count)

    @torch.inference_mode()
    def agreement(self, draft, domain: str) -> float:
        """Share of held-out positions where the draft's best token is the model's."""
        same, count = 0, 0
        for rows in batched(self.held_out(domain)):
            ids, mask = padded(rows, left=False)
            best = self.model(ids).logits.argmax(-1)
            equal = (best == draft(ids).logits.argmax(-1)) & mask.bool()
            same, count = same + equal.sum().item(), count + mask.sum().item()
        return same / count

    @torch.inference_mode()
    def accuracy(self, probes: list[Probe]) -> dict[str, float]:
        """Greedy exact match by group."""
        right, asked = defaultdict(int), defaultdict(int)
        probes = sorted(probes, key=lambda p: (len(p.prompt), len(p.expected)))
        for batch in batched(probes):
            ids, mask = padded([self.encode(p.prompt) for p in batch], left=True)
            budget = max(len(self.encode(p.expected)) for p in batch)
            output = self.model.generate(
                ids, attention_mask=mask, max_new_tokens=budget, do_sample=False
            )[:, ids.shape[1] :]
            for probe, row in zip(batch, output.tolist(), strict=True):
                text = self.tokenizer.decode(row, skip_special_tokens=False)
                asked[probe.group] += 1
                right[probe.group] += text.startswith(probe.expected)
        return {group: round(right[group] / asked[group], 4) for group in asked}

    def probes(self) -> list[Probe]:
        """All but the recall probes."""
        n = self.num_samples
        return list(
            chain(
                fact_probes(self.world),
                phalanx_probes(),
                tool_probes(self.world, self.lexicon, n),
                story_probes(self.lexicon, n),
                sum_probes(n),
            )
        )

    def report(self, draft_folder: Path | None) -> dict:
        """Everything that is measured, in one dictionary."""
        recall = recall_probes(
            self.lexicon, self.tokenizer, max(1, self.num_samples // 2)
        )
        report = {
            "num_parameters": self.model.num_parameters(),
            "num_entities": self.num_entities,
            "num_facts": sum(len(e.facts) for e in self.world.entities),
            "held_out_perplexity": {d: round(self.perplexity(d), 3) for d in DOMAINS},
            "greedy_exact_match": self.accuracy(self.probes()),
            "recall_by_distance": self.accuracy(list(recall)),
        }
        if draft_folder:
            draft = self.load(draft_folder)
            report["draft_agreement"] = {
                d: round(self.agreement(draft, d), 4) for d in DOMAINS
            }
        return report


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="exported folder")
    parser.add_argument("--draft", type=Path, help="exported folder of the draft")
    parser.add_argument("--entities", type=int, default=200)
    parser.add_argument("--samples", type=int, default=200, help="per kind of probe")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    evaluation = Evaluation(args.model, args.entities, args.samples)
    text = json.dumps(evaluation.report(args.draft), indent=2) + "\n"
    if args.out:
        args.out.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
