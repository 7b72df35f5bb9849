"""The tools of the chat domain: schemas, calls, results and answers."""

import json
import random

from gazetteer import COLORS, Gazetteer
from lexicon import Lexicon

SKIES = "sunny cloudy rainy windy foggy snowy".split()


def schema(name: str, description: str, **parameters: str) -> dict:
    """Returns a function tool with required parameters, given as name=type."""
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {p: {"type": t} for p, t in parameters.items()},
                "required": list(parameters),
            },
        },
    }


TOOLS = {
    "get_weather": schema("get_weather", "The weather in a town.", town="string"),
    "set_timer": schema("set_timer", "Sets a timer.", minutes="integer"),
    "send_message": schema(
        "send_message", "Sends a message.", to="string", text="string"
    ),
    "set_light": schema("set_light", "Sets the colour of a lamp.", color="string"),
    "add": schema("add", "Adds two numbers.", a="integer", b="integer"),
    "find_book": schema("find_book", "Finds a book by its title.", title="string"),
}


def weather(rng: random.Random, world: Gazetteer, lexicon: Lexicon):
    """Returns request, arguments, result and answer; so do all below."""
    town = rng.choice((*lexicon.place_names, "Paris", "London", "Berlin", "Rome"))
    sky, degrees = rng.choice(SKIES), rng.randint(-9, 35)
    request = rng.choice(
        ("What is the weather in {}?", "How is the weather in {}?", "Weather in {}?")
    ).format(town)
    result = {"sky": sky, "degrees": degrees}
    return (
        request, {"town": town}, result,
        f"In {town} it is {sky}, at {degrees} degrees.",
    )  # fmt: skip


def timer(rng: random.Random, world: Gazetteer, lexicon: Lexicon):
    """A timer of some minutes."""
    minutes = rng.randint(2, 90)
    request = rng.choice(
        ("Set a timer for {} minutes.", "Wake me in {} minutes.", "Timer, {} minutes!")
    ).format(minutes)
    return (
        request, {"minutes": minutes}, {"ok": True},
        f"The timer is set for {minutes} minutes.",
    )  # fmt: skip


def message(rng: random.Random, world: Gazetteer, lexicon: Lexicon):
    """A message to someone of the gazetteer."""
    name = rng.choice(world.entities).name
    text = " ".join(rng.choices(lexicon.words, k=rng.randint(1, 3)))
    return (
        f'Send "{text}" to {name}.', {"to": name, "text": text}, {"ok": True},
        f"The message was sent to {name}.",
    )  # fmt: skip


def light(rng: random.Random, world: Gazetteer, lexicon: Lexicon):
    """The colour of a lamp."""
    color = rng.choice(COLORS)
    request = rng.choice(("Make the light {}.", "I want {} light.", "Light: {}"))
    return (
        request.format(color),
        {"color": color},
        {"ok": True},
        f"The light is {color}.",
    )


def addition(rng: random.Random, world: Gazetteer, lexicon: Lexicon):
    """A sum for the tool rather than for the model."""
    a, b = rng.randint(100, 999), rng.randint(100, 999)
    request = rng.choice(("What is {} + {}?", "Add {} and {}.")).format(a, b)
    return request, {"a": a, "b": b}, {"sum": a + b}, f"{a} + {b} = {a + b}."


def book(rng: random.Random, world: Gazetteer, lexicon: Lexicon):
    """A book on some shelf."""
    title = " ".join(rng.choices(lexicon.words, k=2)).title()
    shelf = rng.randint(1, 40)
    return (
        f'Where is the book "{title}"?', {"title": title}, {"shelf": shelf},
        f'The book "{title}" is on shelf {shelf}.',
    )  # fmt: skip


SCENARIOS = {
    "get_weather": weather,
    "set_timer": timer,
    "send_message": message,
    "set_light": light,
    "add": addition,
    "find_book": book,
}


def tool_conversation(rng: random.Random, world: Gazetteer, lexicon: Lexicon):
    """Returns the messages and the tools of one conversation with a tool call."""
    offered = rng.sample(list(TOOLS), rng.randint(1, 3))
    used = rng.choice(offered)
    request, arguments, result, answer = SCENARIOS[used](rng, world, lexicon)
    call = {"type": "function", "function": {"name": used, "arguments": arguments}}
    messages = [
        {"role": "user", "content": request},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": json.dumps(result)},
        {"role": "assistant", "content": answer},
    ]
    return messages, [TOOLS[name] for name in offered]
