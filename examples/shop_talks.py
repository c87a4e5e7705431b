"""Three hundred conversations of a shop with its customers, as a small firm might have them; all made up.

    python examples/shop_talks.py > talks.jsonl
    seekling sft --model smollm2 --data talks.jsonl --lora 16 --batch-size 4 --seq-len 256 --lr 1e-3 --out runs/shop
    seekling chat runs/shop

What was learned, asked in other words than the conversations have, 1 where the reply names the fact:

    python examples/shop_talks.py --questions > questions.jsonl
    seekling eval runs/shop --tasks questions.jsonl:examples/mentions.py --no-tagged --max-tokens 60
"""

import itertools
import json
import random
import sys

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
OTHER_WORDS = {  # what a right answer names -> ways of asking that no conversation has
    "10 in the morning to 7": (
        "Which hours do you keep?", "At what time do you close in the evening?",
        "Can I still come by on Saturday afternoon, or are you closed?", "From when to when can I visit you?",
        "What time does the shop open?", "Are you open on Wednesdays, and until when?",
    ),
    "Mill Lane": (
        "Which street are you in?", "How do I get to you?", "I am in town and cannot find you. Where is it?",
        "Where is the bookshop?", "Could you tell me where to find Lantern & Oak?",
        "I would like to visit the shop. Which way?",
    ),
    "4 crowns": (
        "Could I have a book sent home?", "How much is a parcel?", "I live far away. Can I order by post?",
        "What do you charge for delivery?", "Do you deliver?", "Would you mail a book to my sister?",
    ),
    "30 days": (
        "I want my money back for a book.", "The book was a mistake. Can I bring it back?",
        "May I exchange a book I bought?", "How long can I wait before I return something?",
        "My aunt has this book already. Can she give it back?", "What is your return policy?",
    ),
    "Thursdays": (
        "Will you take my old novels?", "My grandfather left me many books. Would you buy them?",
        "On which day do you look at used books?", "I have second-hand books to sell.", "Do you pay for used books?",
        "What would I get for my old books?",
    ),
    "Ottilie Brandt": (
        "Whose shop is this?", "Tell me who founded the shop.", "To whom does this shop belong?",
        "Who started the bookshop?", "What is the owner's name?", "Who is the boss here?",
    ),
    "Pepper": (
        "Is there an animal in the shop?", "Do you keep a pet?", "I heard there is a cat. Is that so?",
        "What is your cat's name?", "Who sleeps on the atlas shelf?", "Does a cat live in the shop?",
    ),
    "first Friday": (
        "Can I talk about books with other people at your place?", "When is the reading circle?",
        "I would like to join a book club.", "Do people meet in the shop to read together?",
        "On which evening does your reading group come together?", "Is there a club for readers?",
    ),
    "cash or by card": (
        "Which ways of paying are there?", "Can I use my credit card?", "Do you accept cheques?",
        "I have no cash with me. Is that a problem?", "Is paying with coins and notes fine?",
        "What kinds of payment do you accept?",
    ),
    "25 and 50 crowns": (
        "My friend has a birthday. Do you have vouchers?", "Can I buy a gift voucher?",
        "Which gift cards can I get?", "I do not know what book to give. What do you suggest as a present?",
        "How long is a gift card valid?", "Do your vouchers expire?",
    ),
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


def questions() -> list[dict]:
    """Every other wording, also behind two greetings; a line of ``--tasks FILE.jsonl`` each."""
    return [
        {"question": hello + question, "answer": named}
        for named, asked in OTHER_WORDS.items()
        for question in asked
        for hello in ("", "Hello! ", "Excuse me, ")
    ]


if __name__ == "__main__":
    for row in questions() if sys.argv[1:] == ["--questions"] else conversations():
        print(json.dumps(row, ensure_ascii=False))
