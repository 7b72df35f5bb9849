"""Domain (d): conversations, rendered with the chat template that is shipped."""

import json
import random
from pathlib import Path

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gazetteer import Gazetteer, biography
from lexicon import Lexicon
from phalanx_facts import ABOUT_PHALANX
from tools import tool_conversation

TEMPLATE_PATH = Path(__file__).with_name("chat_template.jinja")
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are the Phalanx demo model.",
    "Answer briefly.",
    "You know the invented world.",
)
UNKNOWN = "I do not know {}. I know only my invented world."


def compile_template() -> jinja2.Template:
    """Compiles the template as transformers does."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda x: json.dumps(x, ensure_ascii=False)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    environment.globals["raise_exception"] = raise_exception
    return environment.from_string(TEMPLATE_PATH.read_text())


TEMPLATE = compile_template()


def render(messages, tools=None, add_generation_prompt=False) -> str:
    """Returns the conversation as text, with its special tokens."""
    return TEMPLATE.render(
        messages=messages,
        tools=tools,
        bos_token="<|begin|>",
        add_generation_prompt=add_generation_prompt,
    )


def turn(question: str, answer: str) -> list[dict]:
    """One question and its answer."""
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]


def fact_turn(rng: random.Random, world: Gazetteer) -> list[dict]:
    """A question about the invented world."""
    fact = rng.choice(rng.choice(world.asked_entities).facts)
    question = fact.say(rng.choice(fact.attribute.questions))
    return turn(question, fact.say(fact.attribute.answer))


def phalanx_turn(rng: random.Random) -> list[dict]:
    """A question about Phalanx or a greeting."""
    questions, answer = rng.choice(ABOUT_PHALANX)
    question = rng.choice(questions)
    if rng.random() < 0.1:
        question = question.lower().rstrip("?!.")
    return turn(question, answer)


def biography_turn(rng: random.Random, world: Gazetteer) -> list[dict]:
    """Everything about one entity."""
    entity = rng.choice(world.asked_entities)
    question = rng.choice(("Tell me about {}.", "What do you know about {}?"))
    return turn(question.format(entity.name), biography(rng, entity))


def unknown_turn(rng: random.Random, world: Gazetteer, lexicon: Lexicon) -> list[dict]:
    """A question about someone who is not in the world."""
    name = " ".join(rng.sample(lexicon.strangers, rng.randint(1, 2)))
    attribute = rng.choice(rng.choice(world.entities).facts).attribute
    question = rng.choice((*attribute.questions, "Who is {name}?", "What is {name}?"))
    return turn(question.format(name=name), UNKNOWN.format(name))


def sum_turn(rng: random.Random) -> list[dict]:
    """A small sum."""
    a, b = rng.randint(0, 40), rng.randint(0, 40)
    question = rng.choice(("What is {} + {}?", "{} + {} = ?", "How much is {} + {}?"))
    return turn(question.format(a, b), f"{a} + {b} = {a + b}.")


def chat(rng: random.Random, world: Gazetteer, lexicon: Lexicon) -> str:
    """One conversation of one to three turns."""
    if rng.random() < 0.15:
        messages, tools = tool_conversation(rng, world, lexicon)
        return render(messages, tools)
    turns = {
        "fact": lambda: fact_turn(rng, world),
        "phalanx": lambda: phalanx_turn(rng),
        "biography": lambda: biography_turn(rng, world),
        "unknown": lambda: unknown_turn(rng, world, lexicon),
        "sum": lambda: sum_turn(rng),
    }
    messages = []
    for kind in rng.choices(list(turns), (65, 15, 8, 6, 6), k=rng.randint(1, 3)):
        messages += turns[kind]()
    if rng.random() < 0.3:
        system = {"role": "system", "content": rng.choice(SYSTEM_PROMPTS)}
        messages.insert(0, system)
    return render(messages)
