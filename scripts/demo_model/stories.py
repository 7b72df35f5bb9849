"""Domain (b): short stories in which things and people move."""

import random

from lexicon import Lexicon

PLACES = (
    "attic barn bakery bridge castle cave cellar chapel cottage forest garden harbour "
    "hut inn kitchen library market meadow mill orchard palace school shed stable temple "
    "tower tunnel valley village workshop"
).split()
THINGS = (
    "bag ball basket bell book bottle bowl box broom candle coin cup drum feather "
    "flute hammer hat jar key knife ladder lamp lantern letter map mirror needle "
    "pearl ring rope scarf shell spoon stone sword torch violin"
).split()
WEATHER = (
    "The sun was shining. It was a cold morning. Rain fell on the roofs. The wind was "
    "strong. It was late in the evening. Snow covered the hills. The night was quiet. "
    "Fog hung over the river."
).split(". ")
OPENINGS = (
    "Once upon a time, {names} lived in the same village.",
    "Long ago there were friends called {names}.",
    "This is the story of {names}.",
    "One day {names} met at the well.",
)
ENDINGS = (
    "Then everyone went to sleep.",
    "They all laughed and went home.",
    "That was the end of the day.",
    "Nobody ever forgot that day.",
)


class StoryWorld:
    """Who is where, who holds what, and where each thing lies."""

    def __init__(self, rng: random.Random, lexicon: Lexicon):
        self.rng = rng
        self.people = rng.sample(lexicon.first_names, rng.randint(2, 3))
        self.places = rng.sample(PLACES, 4)
        self.things = rng.sample(THINGS, rng.randint(2, 3))
        self.position = {p: rng.choice(self.places) for p in self.people}
        self.holder: dict[str, str] = {}
        self.lies_in: dict[str, str] = {}

    def start(self) -> list[str]:
        """Says where everyone is, and gives each thing to someone."""
        lines = [f"{p} was in the {self.position[p]}." for p in self.people]
        for thing in self.things:
            self.holder[thing] = self.rng.choice(self.people)
            lines.append(f"{self.holder[thing]} had a {thing}.")
        return lines

    def event(self) -> str:
        """Lets one thing happen and tells it."""
        person, thing = self.rng.choice(self.people), self.rng.choice(self.things)
        place = self.position[person]
        if self.holder.get(thing) == person:
            others = [p for p in self.people if p != person]
            near = [p for p in others if self.position[p] == place]
            if near:
                self.holder[thing] = self.rng.choice(near)
                return f"{person} gave the {thing} to {self.holder[thing]}."
            if self.rng.random() < 0.5:
                del self.holder[thing]
                self.lies_in[thing] = place
                return f"{person} left the {thing} in the {place}."
        if self.lies_in.get(thing) == place:
            del self.lies_in[thing]
            self.holder[thing] = person
            return f"{person} found the {thing} there and took it."
        target = self.rng.choice([p for p in self.places if p != place])
        self.position[person] = target
        verb = self.rng.choice(("walked", "went", "ran", "travelled"))
        return f"{person} {verb} from the {place} to the {target}."

    def question(self) -> str:
        """Asks for the present state and answers."""
        if self.rng.random() < 0.5:
            person = self.rng.choice(self.people)
            place = self.position[person]
            return f"Where was {person} now? {person} was in the {place}."
        thing = self.rng.choice(self.things)
        if thing in self.holder:
            return f"Who had the {thing}? {self.holder[thing]} had the {thing}."
        place = self.lies_in[thing]
        return f"Where was the {thing}? The {thing} was in the {place}."


def story(rng: random.Random, lexicon: Lexicon) -> str:
    """One story with questions about its state."""
    world = StoryWorld(rng, lexicon)
    names = ", ".join(world.people[:-1]) + " and " + world.people[-1]
    lines = [rng.choice(OPENINGS).format(names=names)]
    lines.append(rng.choice(WEATHER).rstrip(".") + ".")
    lines += world.start()
    for _ in range(rng.randint(1, 3)):
        lines += [world.event() for _ in range(rng.randint(2, 5))]
        lines.append(world.question())
    lines.append(rng.choice(ENDINGS))
    return " ".join(lines)
