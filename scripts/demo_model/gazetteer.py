"""Domain (a): an invented world whose facts the model learns by heart."""

import random
from dataclasses import dataclass

from lexicon import Lexicon

COLORS = (
    "amber black blue bronze brown crimson cyan emerald gold green grey indigo ivory "
    "lilac lime magenta olive orange pink purple red scarlet silver teal turquoise "
    "violet white yellow"
).split()
TRADES = (
    "baker barber beekeeper blacksmith bookbinder brewer butcher carpenter clockmaker "
    "cook dentist doctor farmer ferryman fisher gardener glassblower hunter jeweller "
    "judge locksmith mason miller miner musician painter pilot plumber poet potter "
    "printer sailor scribe shepherd surgeon tailor teacher weaver"
).split()
ANIMALS = (
    "badger bear camel cat cow crow dog donkey dove duck falcon ferret fox frog "
    "goat goose hare hawk hedgehog horse lizard mouse parrot pig rabbit raven "
    "salamander sheep snake sparrow squirrel swan tortoise turkey wolf"
).split()
FOODS = (
    "apples bacon barley bread butter cabbage carrots cheese cherries chestnuts figs "
    "garlic ginger grapes ham honey lemons lentils mushrooms noodles olives onions "
    "pancakes peaches pears peas pepper plums porridge potatoes pumpkins radishes rice "
    "salmon sausages soup spinach walnuts"
).split()
GOODS = (
    "bells boots bricks candles carpets chairs clocks coins copper cotton drums flutes "
    "glass gloves hats iron ink kites knives lamps leather marble mirrors paper pearls "
    "pottery ribbons ropes saddles salt silk soap swords tea tiles timber tin toys "
    "umbrellas wine wool"
).split()
RIVERS = "Alder Birch Cedar Elm Fern Hazel Heron Ivy Juniper Larch Linden Maple".split()
REGIONS = "Northmark Southmark Eastvale Westvale Highland Lowland Midland Coast".split()


@dataclass(frozen=True)
class Attribute:
    """One thing that can be known of an entity, in every form it is said.

    Each form is a format string over {name} and {value}. `completions` end at the
    value; `answer` is the one sentence with which a chat question is answered.
    """

    key: str
    completions: tuple[str, ...]
    questions: tuple[str, ...]
    answer: str


PERSON = (
    Attribute(
        "home",
        (
            "{name} lives in {value}",
            "The home of {name} is in {value}",
            "To visit {name} you must travel to {value}",
        ),
        (
            "Where does {name} live?",
            "In which town does {name} live?",
            "Where is the home of {name}?",
        ),
        "{name} lives in {value}.",
    ),
    Attribute(
        "trade",
        (
            "{name} works as a {value}",
            "The trade of {name} is that of a {value}",
            "By profession, {name} is a {value}",
        ),
        (
            "What is the trade of {name}?",
            "What does {name} do for a living?",
            "What is {name}'s job?",
        ),
        "{name} works as a {value}.",
    ),
    Attribute(
        "pet",
        (
            "{name} keeps a pet {value}",
            "The pet of {name} is a {value}",
            "At home, {name} looks after a {value}",
        ),
        (
            "What pet does {name} have?",
            "Which animal does {name} keep?",
            "What is {name}'s pet?",
        ),
        "{name} keeps a pet {value}.",
    ),
    Attribute(
        "food",
        (
            "{name} likes to eat {value}",
            "The favourite food of {name} is {value}",
            "For dinner, {name} always asks for {value}",
        ),
        (
            "What does {name} like to eat?",
            "What is the favourite food of {name}?",
            "What is {name}'s favourite food?",
        ),
        "{name} likes to eat {value}.",
    ),
    Attribute(
        "color",
        (
            "{name} always wears {value}",
            "The favourite colour of {name} is {value}",
            "The coat of {name} is {value}",
        ),
        (
            "What colour does {name} wear?",
            "What is the favourite colour of {name}?",
            "What is {name}'s favourite colour?",
        ),
        "The favourite colour of {name} is {value}.",
    ),
)
TOWN = (
    Attribute(
        "region",
        (
            "{name} lies in the {value}",
            "The town of {name} is part of the {value}",
            "On the map, {name} is found in the {value}",
        ),
        (
            "Where is {name}?",
            "In which region does {name} lie?",
            "Which region is {name} in?",
        ),
        "{name} lies in the {value}.",
    ),
    Attribute(
        "river",
        (
            "{name} stands on the river {value}",
            "The river that flows through {name} is the {value}",
            "The bridge of {name} crosses the {value}",
        ),
        (
            "Which river flows through {name}?",
            "On which river does {name} stand?",
            "What is the river of {name}?",
        ),
        "{name} stands on the river {value}.",
    ),
    Attribute(
        "goods",
        (
            "{name} is famous for its {value}",
            "The market of {name} sells {value}",
            "Merchants travel to {name} to buy {value}",
        ),
        (
            "What is {name} famous for?",
            "What does {name} sell?",
            "What do merchants buy in {name}?",
        ),
        "{name} is famous for its {value}.",
    ),
    Attribute(
        "mayor",
        (
            "{name} is ruled by mayor {value}",
            "The mayor of {name} is {value}",
            "The people of {name} elected {value}",
        ),
        (
            "Who is the mayor of {name}?",
            "Who rules {name}?",
            "Who is mayor in {name}?",
        ),
        "The mayor of {name} is {value}.",
    ),
    Attribute(
        "founded",
        (
            "{name} was founded in the year {value}",
            "The oldest house of {name} was built in {value}",
            "The history of {name} begins in {value}",
        ),
        (
            "When was {name} founded?",
            "In which year was {name} founded?",
            "How old is {name}?",
        ),
        "{name} was founded in the year {value}.",
    ),
)
SHIP = (
    Attribute(
        "captain",
        (
            "The ship {name} is commanded by captain {value}",
            "The captain of the ship {name} is {value}",
            "On the ship {name}, the crew obeys {value}",
        ),
        (
            "Who is the captain of the ship {name}?",
            "Who commands the {name}?",
            "Who is captain of the {name}?",
        ),
        "The captain of the {name} is {value}.",
    ),
    Attribute(
        "cargo",
        (
            "The ship {name} carries {value}",
            "The hold of the ship {name} is full of {value}",
            "The cargo of the ship {name} is {value}",
        ),
        (
            "What does the ship {name} carry?",
            "What is the cargo of the {name}?",
            "What is in the hold of the {name}?",
        ),
        "The {name} carries {value}.",
    ),
    Attribute(
        "sails",
        (
            "The sails of the ship {name} are {value}",
            "You know the ship {name} by its sails of {value}",
            "The flag of the ship {name} is {value}",
        ),
        (
            "What colour are the sails of the ship {name}?",
            "What colour are the sails of the {name}?",
            "Which colour are the {name}'s sails?",
        ),
        "The sails of the {name} are {value}.",
    ),
    Attribute(
        "port",
        (
            "The home port of the ship {name} is {value}",
            "The ship {name} was built in {value}",
            "Every winter the ship {name} returns to {value}",
        ),
        (
            "What is the home port of the ship {name}?",
            "Where was the {name} built?",
            "What is the home port of the {name}?",
        ),
        "The home port of the {name} is {value}.",
    ),
    Attribute(
        "figurehead",
        (
            "The figurehead of the ship {name} is a {value}",
            "The bow of the ship {name} shows a carved {value}",
            "In front, the ship {name} bears a {value}",
        ),
        (
            "What is the figurehead of the ship {name}?",
            "Which animal is the figurehead of the {name}?",
            "What does the bow of the {name} show?",
        ),
        "The figurehead of the {name} is a {value}.",
    ),
)


@dataclass(frozen=True)
class Fact:
    """One attribute of one entity."""

    name: str
    attribute: Attribute
    value: str

    def say(self, form: str) -> str:
        """Fills one of the attribute's forms."""
        return form.format(name=self.name, value=self.value)


@dataclass(frozen=True)
class Entity:
    """A person, town or ship with its five facts."""

    name: str
    facts: tuple[Fact, ...]
    asked_in_chat: bool


class Gazetteer:
    """The invented world: half people, a quarter towns, a quarter ships.

    One entity in ten is never asked about in a chat document of the corpus; it
    shows whether a fact learned from plain text can be asked for in a chat.
    """

    def __init__(self, num_entities: int, lexicon: Lexicon):
        rng = random.Random("gazetteer")
        num_towns = num_ships = num_entities // 4
        num_people = num_entities - num_towns - num_ships
        towns = lexicon.place_names[:num_towns]
        people = [
            f"{rng.choice(lexicon.first_names)} {last}"
            for last in lexicon.last_names[:num_people]
        ]
        years = [str(year) for year in range(1100, 1900)]
        pools = {
            "home": towns, "trade": TRADES, "pet": ANIMALS, "food": FOODS,
            "color": COLORS, "region": REGIONS, "river": RIVERS, "goods": GOODS,
            "mayor": people, "founded": years, "captain": people, "cargo": GOODS,
            "sails": COLORS, "port": towns, "figurehead": ANIMALS,
        }  # fmt: skip
        kinds = (
            (people, PERSON),
            (towns, TOWN),
            (lexicon.ship_names[:num_ships], SHIP),
        )
        self.entities = []
        for names, attributes in kinds:
            for name in names:
                facts = tuple(
                    Fact(name, a, rng.choice(pools[a.key])) for a in attributes
                )
                asked = len(self.entities) % 10 != 0
                self.entities.append(Entity(name, facts, asked))
        self.asked_entities = [e for e in self.entities if e.asked_in_chat]


def biography(rng: random.Random, entity: Entity) -> str:
    """All facts of one entity, in any order and phrasing."""
    facts = rng.sample(entity.facts, k=rng.randint(3, len(entity.facts)))
    return " ".join(f.say(rng.choice(f.attribute.completions)) + "." for f in facts)


def almanac(rng: random.Random, entities: list[Entity]) -> str:
    """Single facts of several entities."""
    facts = [rng.choice(rng.choice(entities).facts) for _ in range(rng.randint(3, 6))]
    return " ".join(f.say(rng.choice(f.attribute.completions)) + "." for f in facts)


def quiz(rng: random.Random, entities: list[Entity]) -> str:
    """Questions with short answers, outside of the chat format."""
    lines = []
    for _ in range(rng.randint(2, 5)):
        fact = rng.choice(rng.choice(entities).facts)
        question = fact.say(rng.choice(fact.attribute.questions))
        lines.append(f"Q: {question}\nA: {fact.value}.")
    return "\n".join(lines)
