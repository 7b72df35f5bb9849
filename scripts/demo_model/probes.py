"""Prompts with the one right continuation, for greedy exact match."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

from tokenizers import Tokenizer

from chat import render, turn
from gazetteer import Gazetteer
from lexicon import Lexicon
from phalanx_facts import ABOUT_PHALANX
from recall import key_value_list
from stories import StoryWorld
from tools import tool_conversation

END_OF_TURN = "<|im_end|>"
DISTANCE_BINS = (32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Probe:
    """A greedy continuation of `prompt` must start with `expected`."""

    group: str
    prompt: str
    expected: str


def question_prompt(question: str) -> str:
    """A chat with one question, ready for the answer."""
    message = {"role": "user", "content": question}
    return render([message], add_generation_prompt=True)


def fact_probes(world: Gazetteer) -> Iterator[Probe]:
    """Every fact, as a completion and as a chat question.

    Entities that no chat of the corpus asks about are a group of their own.
    """
    rng = random.Random("fact probes")
    for entity in world.entities:
        suffix = "" if entity.asked_in_chat else ", entity never asked in chat"
        for fact in entity.facts:
            form = rng.choice(fact.attribute.completions)
            before = form.removesuffix(" {value}")
            yield Probe("completion", f"<|begin|>{fact.say(before)}", f" {fact.value}.")
            question = fact.say(rng.choice(fact.attribute.questions))
            answer = fact.say(fact.attribute.answer)
            yield Probe(
                f"chat{suffix}", question_prompt(question), answer + END_OF_TURN
            )


def phalanx_probes() -> Iterator[Probe]:
    """Every hand-written question, in every phrasing."""
    for questions, answer in ABOUT_PHALANX:
        for question in questions:
            yield Probe("phalanx", question_prompt(question), answer + END_OF_TURN)


def tool_probes(world: Gazetteer, lexicon: Lexicon, count: int) -> Iterator[Probe]:
    """Unseen requests: the call itself, then the answer from the tool's result."""
    rng = random.Random("tool probes")
    for _ in range(count):
        messages, tools = tool_conversation(rng, world, lexicon)
        call = messages[1]["tool_calls"][0]["function"]
        arguments = json.dumps(call["arguments"], ensure_ascii=False)
        yield Probe(
            "tool call",
            render(messages[:1], tools, add_generation_prompt=True),
            f'<tool_call>{{"name": "{call["name"]}", "arguments": {arguments}}}'
            f"</tool_call>{END_OF_TURN}",
        )
        yield Probe(
            "tool answer",
            render(messages[:3], tools, add_generation_prompt=True),
            messages[3]["content"] + END_OF_TURN,
        )


def story_probes(lexicon: Lexicon, count: int) -> Iterator[Probe]:
    """Unseen stories that end with a question about their state."""
    rng = random.Random("story probes")
    for _ in range(count):
        world = StoryWorld(rng, lexicon)
        lines = world.start() + [world.event() for _ in range(rng.randint(3, 8))]
        question, answer = world.question().split("? ")
        prompt = " ".join((*lines, question + "?"))
        yield Probe("story question", f"<|begin|>{prompt}", f" {answer}")


def sum_probes(count: int) -> Iterator[Probe]:
    """Sums of numbers below 41, asked in chat."""
    rng = random.Random("sum probes")
    for _ in range(count):
        a, b = rng.randint(0, 40), rng.randint(0, 40)
        question, answer = turn(f"What is {a} + {b}?", f"{a} + {b} = {a + b}.")
        yield Probe(
            "sum", question_prompt(question["content"]), answer["content"] + END_OF_TURN
        )


def recall_probes(
    lexicon: Lexicon, tokenizer: Tokenizer, per_bin: int
) -> Iterator[Probe]:
    """Key-value recall, grouped by the distance from value to question in tokens."""
    rng, missing = random.Random("recall probes"), dict.fromkeys(DISTANCE_BINS, per_bin)
    while any(missing.values()):
        pairs = key_value_list(rng, lexicon, rng.choice((3, 6, 12, 25, 50, 90)))
        key, value = rng.choice(pairs)
        listed = "\n".join(f"{k}: {v}" for k, v in pairs)
        prompt = (
            f"<|begin|>Remember these words.\n{listed}\nNow say them again.\n{key}:"
        )
        after = prompt[prompt.index(f"{key}: ") :]
        distance = len(tokenizer.encode(after, add_special_tokens=False))
        for limit in DISTANCE_BINS:
            if distance <= limit:
                if missing[limit] > 0:
                    missing[limit] -= 1
                    yield Probe(f"up to {limit} tokens", prompt, f" {value}\n")
                break
