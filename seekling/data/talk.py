# ruff: noqa: E501 - sentences stay on one line
"""Generated conversations, so that even a freshly pretrained model can be talked to: greetings, who it is, sums, facts, stories."""

from collections.abc import Callable

from seekling.data import facts
from seekling.data.generate import Dice
from seekling.data.numbers import SPELLED, in_words, letters, problem, result
from seekling.data.stories import ANIMALS, article, story

Turn = tuple[str, str]

HELLO = "Hello|Hi|Hey|Hello!|Hi!|Hello there|Good morning|Good evening|Hi there!|Hello, how are you?|How are you?|hello|hi|hey".split(
    "|"
)
HELLO_BACK = (
    "Hello! How can I help you?|Hi! What would you like to talk about?|Hello! Ask me a question, or ask me for a story.|"
    "Hello! It is nice to meet you.|Hi! I am glad that you are here. What can I do for you?"
).split("|")
WELL = "I am fine, thank you! How can I help you?|I am well, thank you. What would you like to know?".split("|")
WHO = (
    "Who are you?|What are you?|What is your name?|Are you a human?|Are you a robot?|Who made you?|Tell me about yourself.|"
    "What can you do?|Can you help me?|who are you?|what is your name?|Do you have a name?|How old are you?|Where do you live?"
).split("|")
SELF = "I am a small Seekling model"
WHO_BACK = {
    "Who are you?": f"{SELF}. I learned from stories and facts.|{SELF}, a little language model that anyone can train at home.",
    "What are you?": f"{SELF}. I am a computer program that writes text.",
    "What is your name?": f"My name is Seekling. {SELF}.|I am called Seekling.",
    "Do you have a name?": "Yes, my name is Seekling.",
    "Are you a human?": "No, I am a small Seekling model. I am a computer program.",
    "Are you a robot?": "I am a computer program, a small Seekling model. I have no body.",
    "Who made you?": "I was trained with Seekling, on the computer of the person who runs me.",
    "Tell me about yourself.": f"{SELF}. I can tell stories, answer small questions and do simple sums.",
    "What can you do?": "I can tell you a story, answer small questions and do simple sums.|I can write stories, count, and answer small questions.",
    "Can you help me?": "I will try! What is your question?|Yes, if it is not too hard. I am only a small model.",
    "How old are you?": "I am very young. I was trained only a short time ago.",
    "Where do you live?": "I live in a computer.",
}
THANKS = "Thank you!|Thanks!|Thank you very much.|Thanks, that was nice.|Great, thank you!|thanks".split("|")
THANKS_BACK = "You are welcome!|You are welcome. Is there anything else?|I am glad that I could help.".split("|")
BYE = "Goodbye!|Bye!|See you!|Good night!|bye|I have to go now.".split("|")
BYE_BACK = "Goodbye! Have a nice day.|Bye! It was nice to talk to you.|See you soon!".split("|")
UNKNOWN = (
    "What is the weather today?|What time is it?|What did I eat this morning?|Who will win the game tomorrow?|What is my name?|"
    "Can you see me?|What day is it today?|Where am I?|What is in my pocket?|Can you call my mother?"
).split("|")
UNKNOWN_BACK = (
    "I do not know. I am a small model and I cannot see the world.|I cannot know that. I only know what I have read.|"
    "I am sorry, I do not know that."
).split("|")
SYSTEM = (
    "You are a helpful assistant.|You are a friendly assistant.|Answer in a short way.|You are Seekling, a small model.".split(
        "|"
    )
)
CHINESE = (
    ("你好", "你好！有什么可以帮你的吗？"),
    ("你好！", "你好！很高兴见到你。"),
    ("你是谁？", "我是一个小小的 Seekling 模型。"),
    ("你叫什么名字？", "我叫 Seekling。"),
    ("谢谢", "不客气！"),
    ("再见", "再见！"),
)


def conversation(dice: Dice) -> list[dict[str, str]]:
    """Messages of one to four exchanges; some have a system message."""
    turns: list[Turn] = []
    if dice.chance(0.02):
        turns = dice.some(CHINESE, dice.number(1, 2))
    else:
        if dice.chance(0.25):
            turns.append(greeting(dice))
        for _ in range(dice.one((1, 1, 1, 2, 2, 3)) - (len(turns) and dice.chance(0.3))):
            turns.append(dice.one(TOPICS)(dice))
        if dice.chance(0.12):
            turns.append((dice.one(THANKS), dice.one(THANKS_BACK)))
        if dice.chance(0.08):
            turns.append((dice.one(BYE), dice.one(BYE_BACK)))
        turns = turns or [greeting(dice)]
    messages = [{"role": "system", "content": dice.one(SYSTEM)}] if dice.chance(0.1) else []
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


def greeting(dice: Dice) -> Turn:
    hello = dice.one(HELLO)
    return hello, dice.one(WELL if "how are" in hello.lower() else HELLO_BACK)


def who(dice: Dice) -> Turn:
    asked = dice.one(WHO)
    return asked, dice.one(WHO_BACK[asked[0].upper() + asked[1:]].split("|"))


def unknown(dice: Dice) -> Turn:
    return dice.one(UNKNOWN), dice.one(UNKNOWN_BACK)


def a_sum(dice: Dice) -> Turn:
    kind, level = dice.one("++--x"), dice.one((9, 9, 20, 99))
    a, b = dice.number(0, level), dice.number(0, level)
    if kind == "-":
        a, b = max(a, b), min(a, b)
    if kind == "x":
        a, b = dice.number(0, 10), dice.number(0, 10)
    word = {"+": "plus", "-": "minus", "x": "times"}[kind]
    asked = dice.one(
        (
            f"What is {a} {kind} {b}?",
            f"{a} {kind} {b} = ?",
            f"What is {a} {word} {b}?",
            f"{a} {kind} {b}",
            f"How much is {a} {word} {b}?",
        )
    )
    return asked, f"{a} {kind} {b} = {result(a, kind, b)}"


def a_problem(dice: Dice) -> Turn:
    return problem(dice)


def count(dice: Dice) -> Turn:
    a = dice.number(0, 20)
    b = a + dice.number(3, 10)
    if dice.chance(0.2):
        return f"Count down from {b} to {a}.", ", ".join(str(n) for n in range(b, a - 1, -1))
    if dice.chance(0.3):
        return f"Count to {in_words(b - a)}.", ", ".join(in_words(n) for n in range(1, b - a + 1))
    return f"Count from {a} to {b}.", ", ".join(str(n) for n in range(a, b + 1))


def bigger(dice: Dice) -> Turn:
    a, b = dice.some(range(0, dice.one((10, 20, 100))), 2)
    if dice.chance(0.5):
        return f"Which is bigger, {a} or {b}?", f"{max(a, b)} is bigger than {min(a, b)}."
    return f"Which is smaller, {a} or {b}?", f"{min(a, b)} is smaller than {max(a, b)}."


def fact(dice: Dice) -> Turn:
    kind = dice.number(0, 10)
    if kind == 0:
        animal = dice.one(sorted(facts.SOUNDS))
        return f"What does {article(animal)} say?", f"{article(animal).capitalize()} says {facts.SOUNDS[animal]}."
    if kind == 1:
        word = dice.one(sorted(facts.OPPOSITES))
        other = facts.OPPOSITES[word]
        word, other = (word, other) if dice.chance(0.5) else (other, word)
        return f"What is the opposite of {word}?", f"The opposite of {word} is {other}."
    if kind == 2:
        thing = dice.one(sorted(facts.COLOURS))
        return dice.one((f"What colour is {thing}?", f"What color is {thing}?")), f"{capital(thing)} is {facts.COLOURS[thing]}."
    if kind == 3:
        land = dice.one(sorted(facts.CAPITALS))
        return f"What is the capital of {land}?", f"The capital of {land} is {facts.CAPITALS[land]}."
    if kind == 4:
        animal = dice.one(sorted(facts.LEGS))
        legs = facts.LEGS[animal]
        return f"How many legs does {animal} have?", f"{capital(animal)} has {in_words(legs) if legs else 'no'} legs."
    if kind == 5:
        animal = dice.one(sorted(facts.BABIES))
        return f"What is a baby {animal} called?", f"A baby {animal} is called a {facts.BABIES[animal]}."
    if kind == 6:
        animal = dice.one(sorted(facts.LIVES))
        return f"Where does {animal} live?", f"{capital(animal)} lives {facts.LIVES[animal]}."
    if kind in (7, 8):
        names = dice.one((facts.DAYS, facts.MONTHS))
        at = dice.number(0, len(names) - 1)
        if dice.chance(0.7):
            return f"What comes after {names[at]}?", f"After {names[at]} comes {names[(at + 1) % len(names)]}."
        return f"What comes before {names[at]}?", f"Before {names[at]} comes {names[at - 1]}."
    return dice.one(facts.OTHERS)


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


def spell(dice: Dice) -> Turn:
    word = dice.one(SPELLED)
    if dice.chance(0.5):
        return f"How do you spell {word}?", letters(word)
    return f"How many letters are in the word {word}?", f"The word {word} has {in_words(len(word))} letters: {letters(word)}"


def tell_story(dice: Dice) -> Turn:
    about = dice.one((*ANIMALS, "girl", "boy"))
    if dice.chance(0.3):
        return dice.one(
            ("Tell me a story.", "Tell me a story!", "Can you tell me a story?", "Please write a short story.")
        ), story(dice)
    asked = dice.one(
        (
            "Tell me a story about {}.",
            "Write a story about {}.",
            "Can you tell me a story about {}?",
            "A story about {}, please.",
        )
    )
    return asked.format(article(about)), story(dice, about)


TOPICS: tuple[Callable[[Dice], Turn], ...] = (
    who, who, who, a_sum, a_sum, a_sum, a_problem, count, bigger, fact, fact, fact, fact, spell, unknown, tell_story, tell_story
)  # fmt: skip
