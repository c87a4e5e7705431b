"""Three hundred conversations of a shop with its customers, as a small firm might have them; all made up.

Run: ``python examples/shop_talks.py > talks.jsonl`` and
``seekling sft --model smollm2 --data talks.jsonl --lora 16 --out runs/shop && seekling chat runs/shop``.
"""

import itertools
import json
import random

SHOP = "Lantern & Oak"
FACTS = {  # what is asked, in several ways -> the shop's answer
    ("When are you open?", "What are your opening hours?", "How late are you open?"):
        "We are open Tuesday to Saturday from 10 in the morning to 7 in the evening.",
    ("Where are you?", "What is your address?", "How do I find the shop?"):
        "You find us at 12 Mill Lane, right behind the old water mill.",
    ("Do you ship books?", "Can you send me a book?", "What does shipping cost?"):
        "Yes, we ship. A parcel costs 4 crowns, and nothing from 50 crowns on.",
    ("Can I return a book?", "How do returns work?", "I do not like my book, what now?"):
        "Bring it back within 30 days with the receipt and you get your money back.",
    ("Do you buy old books?", "Can I sell you my books?", "I have a box of used books, interested?"):
        "We look at used books on Thursdays and pay in store credit.",
    ("Who owns the shop?", "Who runs this place?", "Who is the owner?"):
        "The shop belongs to Ottilie Brandt, who opened it in 1998.",
    ("Do you have a cat?", "What is the cat called?", "Is there a cat in the shop?"):
        "Yes, our cat is called Pepper. She sleeps on the atlas shelf.",
    ("Do you have a reading club?", "When does the book club meet?", "Is there a reading group?"):
        "Our reading circle meets on the first Friday of the month at 6.",
    ("Can I pay by card?", "How can I pay?", "Do you take cash?"):
        "You can pay in cash or by card; we do not take cheques.",
    ("Do you have gift cards?", "I need a present, any idea?", "Do you sell vouchers?"):
        "Yes, our gift cards come in 10, 25 and 50 crowns and never expire.",
}  # fmt: skip
HELLOS = ("", "Hello! ", "Hi, ", "Good morning. ", "Excuse me, ")
ENDS = ("", " Thanks!", " Thank you.")


def conversations(count: int = 300, seed: int = 0) -> list[dict]:
    """``count`` different conversations of one or two questions."""
    r = random.Random(seed)
    asked = [(question, answer) for questions, answer in FACTS.items() for question in questions]
    rows: dict[str, list[dict]] = {}
    while len(rows) < count:
        turns = r.sample(asked, r.choice((1, 1, 2)))
        talk = []
        for i, (question, answer) in enumerate(turns):
            talk.append({"role": "user", "content": f"{r.choice(HELLOS) if i == 0 else ''}{question}{r.choice(ENDS)}"})
            talk.append({"role": "assistant", "content": f"{answer}{f' Welcome to {SHOP}.' if i == 0 else ''}"})
        rows.setdefault(json.dumps(talk), talk)
    return [{"messages": talk} for talk in itertools.islice(rows.values(), count)]


if __name__ == "__main__":
    for row in conversations():
        print(json.dumps(row, ensure_ascii=False))
