# ruff: noqa: E501 - sentences stay on one line
"""A story grammar: a hero, a place, something wanted or feared, attempts, an end that follows from them.

Every plot in `seekling.data.plots` is a short script over a `Tale`. ``tell("a|b|c")`` writes one of the wordings, filled in with
the tale's people and things: ``{hero}``, ``{hero.he}``, ``{toy.a}`` (with its article), ``{place}``.
"""

from seekling.data.generate import Dice

GIRLS = "Lily Mia Anna Rosa Lucy Ella Nora Ruby Zoe Ivy Maya Clara Sara Emma Lena Tess Mei Nina Amy Kate".split()
BOYS = "Tom Ben Max Sam Leo Jack Tim Oscar Finn Noah Hugo Luke Peter Amir Ravi Will Dan Eli Theo Joe".split()
ANIMALS = (
    "fox rabbit bear mouse duck cat dog squirrel hedgehog frog owl goat pig deer turtle kitten puppy lamb mole beaver".split()
)
ANIMAL_NAMES = "Pip Bobo Fern Hazel Moss Nibbles Poppy Tilly Bramble Daisy Rusty Clover Biscuit Willow Pepper Button".split()
LITTLE = "little small young".split()
NATURE = "kind curious cheerful clever gentle merry friendly polite".split()
RUNNERS = ("fox", "rabbit", "deer", "dog", "cat", "squirrel", "goat")
FEELINGS = "happy glad proud cheerful".split()
COLOURS = "red blue green yellow white brown purple orange pink grey".split()
TOYS = "ball kite drum boat doll train hat scarf bell book cup basket whistle button box lantern".split()
FOODS = "apple pear cake pie carrot cookie bun plum peach sandwich".split()
OUTSIDE = (
    "the park|the forest|the meadow|the garden|the river|the hill|the farm|the beach|the old bridge|the pond|the big tree"
).split("|")
AT = {
    "the garden": "in",
    "the forest": "in",
    "the meadow": "in",
    "the park": "in",
    "the hill": "on",
    "the farm": "on",
    "the beach": "on",
}
NEAR = {
    "the park": "under a bench|behind the swings|beside the slide|near the gate",
    "the forest": "under a pile of leaves|behind a big tree|beside a mossy stone|near the path",
    "the meadow": "in the tall grass|among the flowers|behind a rock|near the fence",
    "the garden": "under a rose bush|behind the shed|among the cabbages|beside the wall",
    "the river": "between two stones|under the bridge|on the sand|among the reeds",
    "the hill": "behind a rock|under a small tree|in the tall grass|near the path",
    "the farm": "behind the barn|in the hay|under the cart|beside the well",
    "the beach": "in the sand|behind a rock|under a shell|near the boats",
    "the old bridge": "under the bridge|between two stones|in the mud|near the path",
    "the pond": "among the reeds|on a flat stone|under a willow|in the mud",
    "the big tree": "among the roots|under the leaves|behind the trunk|in the grass",
}
WEATHER = "sunny|warm|cold|windy|bright|cloudy|quiet|misty".split("|")
TIMES = "One morning|One day|One afternoon|One {weather} day|One {weather} morning|Early one morning|After lunch".split("|")
FAMILY = "mother father grandmother grandfather sister brother aunt uncle".split()


class Being:
    """Somebody: ``{x}`` the name, ``{x.he}``, ``{x.him}``, ``{x.his}`` and with a capital; ``{x.kind}`` girl, fox …"""

    def __init__(self, name: str, kind: str, male: bool) -> None:
        self.name, self.kind, self.male = name, kind, male
        self.he, self.him, self.his = ("he", "him", "his") if male else ("she", "her", "her")
        self.He, self.His = self.he.capitalize(), self.his.capitalize()
        self.a = article(kind)

    def __str__(self) -> str:
        return self.name


class Thing:
    """An object: ``{x}`` "red ball", ``{x.a}`` "a red ball", ``{x.noun}`` "ball"."""

    def __init__(self, noun: str, adjective: str = "") -> None:
        self.noun = noun
        self.full = f"{adjective} {noun}".strip()
        self.a = article(self.full)

    def __str__(self) -> str:
        return self.full


def article(noun: str) -> str:
    """ "a fox", "an owl"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


class Tale:
    """The text so far, with who and what it is about."""

    def __init__(self, dice: Dice, about: str | None = None) -> None:
        self.dice = dice
        self.paragraphs: list[list[str]] = [[]]
        self.words: dict[str, object] = {}
        self.used: set[str] = set()
        self.words["hero"] = self.hero = self.being(about)
        self.words["friend"] = self.friend = self.being("animal" if self.is_animal(self.hero) and dice.chance(0.9) else None)
        self.words["place"] = self.place = dice.one(OUTSIDE)
        self.words["at"] = f"{AT.get(self.place, 'near')} {self.place}"
        self.words["weather"] = dice.one(WEATHER)
        self.words["nature"] = dice.one(NATURE)
        self.words["glad"] = dice.one(FEELINGS)
        family = dice.one(FAMILY)
        self.words["elder"] = Being(family, family, family in ("father", "grandfather", "brother", "uncle"))

    @staticmethod
    def is_animal(being: Being) -> bool:
        return being.kind not in ("girl", "boy")

    def being(self, about: str | None = None) -> Being:
        """A new somebody: of kind ``about``, any animal ("animal"), or anybody."""
        dice = self.dice
        if about == "animal" or about in ANIMALS or (about is None and dice.chance(0.4)):
            kind = about if about in ANIMALS else dice.one([a for a in ANIMALS if a not in self.used])
            name = dice.one([n for n in ANIMAL_NAMES if n not in self.used])
            self.used |= {str(kind), name}
            return Being(name, str(kind), dice.chance(0.5))
        male = about == "boy" if about in ("boy", "girl") else dice.chance(0.5)
        name = dice.one([n for n in (BOYS if male else GIRLS) if n not in self.used])
        self.used.add(name)
        return Being(name, "boy" if male else "girl", male)

    def thing(self, nouns: list[str], coloured: float = 0.7) -> Thing:
        return Thing(self.dice.one(nouns), self.dice.one(COLOURS) if self.dice.chance(coloured) else "")

    def set(self, **words: object) -> None:
        self.words.update(words)

    def pick(self, options: str) -> str:
        """One of ``a|b|c``, filled in."""
        return self.dice.one(options.split("|")).format_map(self.words)

    def tell(self, *sentences: str) -> None:
        """Write one wording of each."""
        for options in sentences:
            text = self.pick(options)
            first = 1 if text[0] == '"' else 0
            self.paragraphs[-1].append(text[:first] + text[first].upper() + text[first + 1 :])

    def maybe(self, share: float, *sentences: str) -> None:
        if self.dice.chance(share):
            self.tell(*sentences)

    def turn(self) -> None:
        """A new paragraph."""
        self.paragraphs.append([])

    def text(self) -> str:
        return "\n\n".join(" ".join(sentences) for sentences in self.paragraphs if sentences)


def story(dice: Dice, about: str | None = None) -> str:
    """A story, about a hero of the given kind ("fox", "girl") when one is asked for."""
    from seekling.data.plots import PLOTS

    tale = Tale(dice, about)
    opening(tale)
    dice.one(PLOTS)(tale)
    return tale.text()


def opening(tale: Tale) -> None:
    """Who the story is about, and who is with them."""
    tale.set(little=tale.dice.one(LITTLE))
    if tale.dice.chance(0.5):
        tale.tell(
            "once upon a time there was a {little} {hero.kind} named {hero}.|there was once a {little} {hero.kind} called {hero}.|"
            "in a small house near {place} lived a {little} {hero.kind} named {hero}.|"
            "a {little} {hero.kind} named {hero} lived near {place}.|near {place} there lived a {little} {hero.kind}. {hero.His} name was {hero}."
        )
        tale.maybe(
            0.4,
            "{hero} was very {nature}.|everyone liked {hero}, because {hero.he} was so {nature}.|{hero} loved to play outside.",
        )
    else:
        tale.tell(
            "{hero} was a {nature} {little} {hero.kind}.|once there was a {nature} {hero.kind} named {hero}.|"
            "this is a story about {hero}, a {nature} {little} {hero.kind}.|once upon a time there was a {nature} {hero.kind} called {hero}."
        )
        tale.maybe(0.3, "{hero} loved to play {at}.|{hero} lived in a small house near {place}.")
    tale.tell(
        "{hero.He} had a good friend, {friend.a} named {friend}.|{hero} and {hero.his} friend {friend} played together every day.|"
        "{hero.His} best friend was {friend.a} called {friend}.|{friend.a} named {friend} lived next door, and they were friends.|"
        + (
            "{hero} and {friend} the {friend.kind} were best friends."
            if tale.is_animal(tale.friend)
            else "{hero} and {friend} were best friends."
        )
    )


def when(tale: Tale, options: str) -> None:
    """A sentence that begins with a time."""
    time, rest = tale.pick("|".join(TIMES)), tale.pick(options)
    tale.tell(f"{time} {rest}".replace("{", "{{").replace("}", "}}").replace("|", " "))
