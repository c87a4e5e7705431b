# ruff: noqa: E501 - sentences stay on one line
"""The plots of generated stories. Each writes its middle and end into a `Tale` whose opening is done."""

from seekling.data.more_plots import honest, newcomer, quarrel, rain, seed, sleepless, visit, wish
from seekling.data.stories import FOODS, NEAR, RUNNERS, TOYS, Tale, Thing, when


def lost_thing(tale: Tale) -> None:
    tale.set(toy=tale.thing(TOYS))
    tale.tell(
        "{hero} had {toy.a}. {hero.He} took it everywhere.|{hero}'s favourite thing was {toy.a}.|{hero.His} {elder} had given {hero.him} {toy.a}, and {hero.he} loved it."
    )
    tale.turn()
    when(tale, "{hero} went to {place} to play.|{hero} took the {toy.noun} to {place}.|{hero} and {friend} went to {place}.")
    tale.tell(
        "when it was time to go home, the {toy.noun} was gone!|{hero.He} ran and jumped and laughed. But then the {toy.noun} was gone.|then {hero} looked down. Where was the {toy.noun}?"
    )
    tale.tell(
        '"oh no!" cried {hero}. "I have lost my {toy.noun}!"|{hero} felt sad and began to cry.|"where is my {toy.noun}?" said {hero}. {hero.He} was very sad.'
    )
    first, second = tale.dice.some(NEAR[tale.place].split("|"), 2)
    tale.set(first=first, second=second)
    tale.turn()
    tale.tell(
        '{friend} said, "Do not cry. I will help you look."|{friend} heard {hero.him} and came to help at once.|"I will help you," said {friend}. "We will find it together."'
    )
    tale.tell(
        "they looked {first}, but it was not there.|first they looked {first}. No {toy.noun}.|{hero} looked {first}. There was only {small}.".replace(
            "{small}", tale.dice.one(["a snail", "a stone", "an old shoe", "a leaf"])
        )
    )
    tale.tell(
        'then {friend} looked {second}. "Here it is!" {friend.he} shouted.|then they looked {second}, and there was the {toy}!|at last {hero} saw something {second}. It was the {toy}!'
    )
    tale.turn()
    tale.tell(
        '"thank you, {friend}!" said {hero}.|{hero} hugged {friend}. "You are a good friend," {hero.he} said.|{hero} was so {glad}. "Thank you for helping me," {hero.he} said.'
    )
    tale.tell(
        "from that day on, {hero} took good care of the {toy.noun}.|they played with the {toy.noun} until the sun went down.|they walked home together, and {hero} held the {toy.noun} tight."
    )


def hungry_stranger(tale: Tale) -> None:
    tale.set(food=Thing(tale.dice.one(FOODS)), stranger=tale.being("animal"))
    tale.set(trouble=tale.pick("hungry|cold and hungry|tired and hungry|wet and hungry"))
    tale.turn()
    when(
        tale,
        "{hero} was walking to {place} with {food.a} in {hero.his} bag.|{hero.his} {elder} gave {hero} {food.a}. {hero} took it to {place}.|{hero} sat down near {place} to eat {food.a}.",
    )
    tale.tell(
        "there {hero.he} met {stranger.a} who looked very sad.|{stranger.a} sat beside the path and cried.|behind a stone {hero.he} saw {stranger.a}. It was {stranger}, and {stranger.he} was crying."
    )
    tale.tell('"what is wrong?" asked {hero}.|"why are you sad?" {hero} asked.|"hello," said {hero}. "Why do you cry?"')
    tale.tell(
        '"I am {trouble}," said the {stranger.kind}. "I have not eaten all day."|"my name is {stranger}, and I am {trouble}," said the {stranger.kind}.|"I am so {trouble}," said {stranger}. "I have nothing to eat."'
    )
    tale.turn()
    tale.tell(
        "{hero} looked at the {food}. {hero.He} was hungry too.|{hero} thought about it. {hero.He} had only one {food}.|{hero} wanted to eat the {food} alone, but {hero.he} felt sorry for {stranger}."
    )
    tale.tell(
        'then {hero.he} broke the {food} in two. "Here," {hero.he} said. "Half is for you."|"we can share," said {hero}, and {hero.he} gave {stranger} half of the {food}.|{hero} smiled. "Please take some of my {food}," {hero.he} said.'
    )
    tale.tell(
        "they ate together, and the {food} tasted better than ever.|the {stranger.kind} ate it all and smiled.|{stranger} ate and ate, and soon {stranger.he} felt better."
    )
    tale.turn()
    if tale.dice.chance(0.5):
        tale.set(gift=tale.thing(TOYS))
        tale.tell(
            "the next day, {stranger} came to {hero}'s house. {stranger.He} had {gift.a} for {hero}.|a week later {stranger} came back and gave {hero} {gift.a}."
        )
        tale.tell(
            '"this is for you," said {stranger}, "because you were kind to me."|"you helped me," {stranger.he} said, "and I did not forget."'
        )
    tale.tell(
        "from then on, {hero} and {stranger} were friends.|{hero} had a new friend, and that made {hero.him} {glad}.|and {hero} learned that sharing makes two people happy."
    )


def afraid(tale: Tale) -> None:
    fear, event, brave = tale.dice.one(
        (
            ("the dark", "the lamp went out|the candle went out|it was very dark outside", "the stars are like little lamps"),
            (
                "thunder",
                "there was a big storm|the thunder went boom|a storm came",
                "thunder is only noise, and it cannot hurt us",
            ),
            (
                "the deep water",
                "{hero.his} friends went to swim|everyone jumped into the water",
                "we can start where it is shallow",
            ),
            ("high places", "{friend} climbed up a tree|{hero.his} hat was stuck in a tree", "we can go up one step at a time"),
            (
                "the big dog next door",
                "the big dog came out of its house|the big dog barked at the gate",
                "the dog only wants to play",
            ),
        )
    )
    tale.set(fear=fear, reason=brave)
    tale.tell("but {hero} was afraid of {fear}.|there was one thing {hero} did not like: {hero.he} was afraid of {fear}.")
    tale.turn()
    tale.set(event=tale.pick(event))
    tale.tell(
        "one night {event}.|one evening {event}."
        if fear in ("the dark", "thunder")
        else "one day {event}.|one {weather} day {event}."
    )
    tale.tell(
        "{hero} began to shake. {hero.He} wanted to hide.|{hero} hid under the table.|{hero.He} shut {hero.his} eyes tight."
        if fear in ("the dark", "thunder")
        else "{hero} began to shake. {hero.He} wanted to run away.|{hero} stood still and did not dare to move."
    )
    tale.tell(
        '{hero.His} {elder} came and sat down beside {hero.him}. "What is wrong?" {elder.he} asked.|{friend} took {hero.his} hand. "Are you afraid?" {friend.he} asked.'
    )
    tale.tell('"I am afraid of {fear}," said {hero} in a small voice.|{hero} nodded. "Yes," {hero.he} said.')
    tale.tell(
        '"I was afraid too, once," was the answer. "But {reason}. Come, I will stay with you."|"do not worry. You know, {reason}. We will do it together."'
    )
    tale.turn()
    tale.tell(
        "{hero} took a deep breath.|{hero} was still afraid, but {hero.he} wanted to try.|slowly {hero} opened {hero.his} eyes."
    )
    tale.tell(
        "{hero.He} counted to three. One, two, three!|{hero.He} took one small step, and then one more.|{hero.He} held on tight and tried."
    )
    tale.tell("and it was not so bad after all.|nothing bad happened. It was even a little bit fun.")
    tale.tell(
        '"I did it!" {hero} shouted.|"look at me!" said {hero}. "I am not afraid!"|{hero} laughed. "I was brave," {hero.he} said.'
    )
    tale.tell("that night {hero} slept well.|{hero} was very proud.|everyone was proud of {hero}.")


def making(tale: Tale) -> None:
    made, parts, trouble = tale.dice.one(
        (
            ("a tree house", "wood|nails|a rope", "the wind blew it down"),
            ("a boat", "wood|a big leaf|some string", "water came in and it sank"),
            ("a snowman", "snow|a carrot|two stones", "the sun came out and it began to melt"),
            ("a kite", "paper|two sticks|some string", "the wind tore the paper"),
            ("a sand castle", "sand|shells|a bucket of water", "a big wave washed it away"),
            ("a bird house", "wood|a hammer|some paint", "the roof fell off"),
            ("a bridge over the stream", "stones|logs|a rope", "one log rolled away"),
        )
    )
    one, two, three = tale.dice.some(parts.split("|"), 3)
    tale.set(made=made, made_the="the " + made.removeprefix("a "), one=one, two=two, three=three, trouble=trouble)
    tale.turn()
    when(tale, "{hero} wanted to make {made}.|{hero} had an idea. {hero.He} would make {made}!")
    tale.tell(
        '"will you help me?" {hero.he} asked {friend}. "Yes!" said {friend}.|"I will help you," said {friend}.|{hero} asked {friend} to help, and {friend} said yes.'
    )
    tale.tell(
        "{hero} brought {one}, and {friend} brought {two}. They also found {three}.|first they got {one}. Then they got {two}. Last of all they found {three}.|they needed {one}, {two} and {three}."
    )
    tale.tell("they worked all morning, and soon {made_the} was ready.|they worked and worked until it was done.")
    tale.turn()
    tale.tell("but then {trouble}.|just then {trouble}!|they were so happy. But suddenly {trouble}.")
    tale.tell(
        '"oh no," said {hero}. "All our work is gone."|{hero} sat down and cried. "It is broken," {hero.he} said.|"I give up," said {hero}.'
    )
    tale.tell(
        '"we can try again," said {friend}. "Now we know how to do it better."|"do not be sad," said {friend}. "Two can do more than one. Let us try again."|but {friend} said, "We made it once. We can make it again."'
    )
    tale.turn()
    tale.tell(
        "so they started again, and this time they were very careful.|they began again. It took a long time, but they did not stop."
    )
    tale.tell(
        "when the sun went down, {made_the} was better than before.|at last it was done, and it was strong and beautiful."
    )
    tale.tell(
        '"we did it!" they shouted.|{hero} and {friend} were very proud.|{hero} smiled. "I am glad we did not give up," {hero.he} said.'
    )


def warned(tale: Tale) -> None:
    rule, deed, result, rescue = tale.dice.one(
        (
            ("Do not go into the forest alone", "went into the forest alone", "soon {hero.he} did not know the way home", "found {hero.him} and took {hero.him} home"),
            ("Do not eat all the cookies", "ate all the cookies", "soon {hero.his} tummy hurt very much", "made {hero.him} some warm tea"),
            ("Do not climb the old wall", "climbed the old wall", "a stone broke off and {hero.he} fell down", "put a bandage on {hero.his} knee"),
            ("Do not touch the paint", "opened the paint", "the paint fell on the floor and made a big mess", "helped {hero.him} to clean it up"),
            ("Do not open the gate", "opened the gate", "all the sheep ran out into the road", "helped {hero.him} to bring them back"),
            ("Do not stay out late", "stayed out late", "it got dark and {hero.he} could not see the path", "came with a lantern"),
        )
    )  # fmt: skip
    tale.set(rule=rule, deed=deed, result=result.format_map(tale.words), rescue=rescue.format_map(tale.words))
    tale.turn()
    when(tale, '{hero.his} {elder} said, "{rule}."|{hero.his} {elder} had to go out. "{rule}," {elder.he} said.')
    tale.tell('"yes," said {hero}. "I promise."|{hero} said that {hero.he} would be good.|"I will not," said {hero}.')
    tale.tell(
        "but after a while {hero} was bored, and {hero.he} {deed}.|but when {hero} was alone, {hero.he} forgot and {deed}.|but {hero} did not listen. {hero.He} {deed}."
    )
    tale.tell("then {result}.|at first it was fun. But {result}.")
    tale.tell('"help!" cried {hero}.|{hero} began to cry.|{hero} was sorry now. "What have I done?" {hero.he} said.')
    tale.turn()
    tale.tell("{hero.His} {elder} heard {hero.him} and {rescue}.|luckily {hero.his} {elder} came and {rescue}.")
    tale.tell('"I am sorry," said {hero}. "I did not listen to you."|"I am so sorry," said {hero}. "I broke my promise."')
    tale.tell(
        '"I am glad that you told me," said {hero.his} {elder}. "Next time you will know better."|{hero.His} {elder} hugged {hero.him}. "I said it because I love you," {elder.he} said.|"I am not angry," said {hero.his} {elder}. "But please listen next time."'
    )
    tale.tell(
        "and after that, {hero} always kept {hero.his} promise.|{hero} never did it again.|from that day on {hero} was more careful."
    )


def race(tale: Tale) -> None:
    tale.set(
        way=tale.pick("to {place}|around {place}|to {place} and back"),
        fast=tale.being(tale.dice.one([kind for kind in RUNNERS if kind not in tale.used])),
    )
    tale.tell(
        "{hero} was not very fast. But {fast} the {fast.kind} could run like the wind.|{fast} the {fast.kind} was the fastest of all."
    )
    tale.turn()
    when(tale, '{fast} laughed at {hero}. "You are so slow!" {fast.he} said.|{fast} said, "Nobody can run as fast as I can."')
    tale.tell('"let us have a race," said {hero}.|"I am slow, but I do not give up," said {hero}. "Let us race."')
    tale.tell(
        "they would run {way}. All the animals came to see it.|the race was {way}. {friend} counted to three. One, two, three, go!"
    )
    tale.turn()
    tale.tell("{fast} ran very fast and was soon far ahead.|{fast} was soon out of sight.")
    tale.tell(
        '"I have a lot of time," {fast} thought. {fast.He} lay down under a tree and fell asleep.|{fast} stopped to eat some berries. "{hero} is still far away," {fast.he} thought.|{fast} stopped to talk to everyone {fast.he} met.'
    )
    tale.tell(
        "{hero} went on, step by step.|{hero} did not stop. {hero.He} went on and on.|{hero} was tired, but {hero.he} kept going."
    )
    tale.tell("when {fast} looked up, {hero} was almost there. {fast} ran as fast as {fast.he} could, but it was too late.")
    tale.turn()
    tale.tell("{hero} won the race! Everyone cheered.|{hero} came in first, and everyone clapped.")
    tale.tell('"I am sorry that I was so proud," said {fast}.|{fast} was not happy, but {fast.he} said, "Well done, {hero}."')
    tale.tell(
        '"thank you," said {hero}. "Shall we run together tomorrow?"|{hero} smiled. "Slow and steady is good too," {hero.he} said.'
    )


def gift(tale: Tale) -> None:
    made, stuff = tale.dice.one(
        (("a card", "paper and paint"), ("a necklace", "shells and string"), ("a cake", "flour, eggs and milk"),
         ("a crown of flowers", "flowers and grass"), ("a small boat", "wood and a leaf"), ("a song", "words and a tune"))
    )  # fmt: skip
    tale.set(made=made, stuff=stuff)
    tale.turn()
    tale.tell(
        "tomorrow was {friend}'s birthday, and {hero} had no present.|it was almost {friend}'s birthday. {hero} wanted to give {friend.him} something nice."
    )
    tale.tell(
        '{hero} had no money. "What can I do?" {hero.he} thought.|{hero} looked in the shop, but everything cost too much.'
    )
    tale.tell(
        '"you can make something," said {hero.his} {elder}. "A present from the heart is the best."|{hero.His} {elder} said, "It does not have to be big. Make something yourself."'
    )
    tale.tell("so {hero} took {stuff} and made {made}.|{hero} found {stuff}. {hero.He} worked all day and made {made}.")
    tale.maybe(0.5, "it was not perfect, but it was made with love.|it was a lot of work, but {hero} did not mind.")
    tale.turn()
    tale.tell("the next day {hero} went to {friend}'s party.|on the birthday {hero} knocked on {friend}'s door.")
    tale.tell("the others had brought big presents, and {hero} felt shy.|{hero} was a little afraid. Would {friend} like it?")
    tale.tell('"this is for you," {hero} said. "I made it myself."|"happy birthday!" said {hero}, and gave {friend} {made}.')
    tale.tell(
        '{friend}\'s eyes shone. "It is the best present of all!" {friend.he} said.|{friend} hugged {hero}. "I love it," {friend.he} said. "Thank you!"'
    )
    tale.tell("and {hero} was the happiest one at the party.|{hero} went home with a warm heart.")


def egg(tale: Tale) -> None:
    bird, called = tale.dice.one(
        (("a duckling", "duckling"), ("a little bird", "little bird"), ("a chick", "chick"), ("a tiny turtle", "turtle"))
    )
    tale.set(
        bird=bird,
        called=called,
        colour=tale.dice.one(("white", "blue", "brown", "green")),
        near=tale.dice.one(NEAR[tale.place].split("|")),
    )
    tale.turn()
    when(
        tale,
        "{hero} found {colour_an} egg {near}.|{hero} was playing {at}. There, {near}, lay {colour_an} egg.".replace(
            "{colour_an}", f"a {tale.words['colour']}"
        ),
    )
    tale.tell(
        '"whose egg is this?" asked {hero}. Nobody answered.|{hero} looked around, but there was no nest.|"you must be cold," {hero} said to the egg.'
    )
    tale.tell("{hero.He} put it in {hero.his} hat and took it home.|{hero.He} carried it home very carefully.")
    tale.tell("{hero} kept the egg warm day and night.|every day {hero} put it in the sun, and every night under a blanket.")
    tale.maybe(0.6, '"nothing happens," said {friend}. "You must wait," said {hero}.|{friend} came to look at it every day.')
    tale.turn()
    tale.tell("one morning there was a sound. Crack!|on the third day {hero} heard something. Crick, crack!")
    tale.tell("the egg broke, and out came {bird}.|a small head looked out. It was {bird}!")
    tale.tell('"hello," said {hero}. "I am {hero}."|"welcome to the world," whispered {hero}.')
    tale.tell("the {called} followed {hero} everywhere.|{hero} gave it food and water, and it grew and grew.")
    tale.turn()
    tale.tell(
        "when summer came, the {called} was big and strong. It was time to say goodbye.|one day the {called} met others of its kind and wanted to go with them."
    )
    tale.tell(
        '{hero} was sad and {glad} at the same time. "Come and see me," {hero.he} said.|"goodbye, my friend," said {hero}.'
    )
    tale.tell("and every spring the {called} came back to {place}.|and it never forgot {hero}.")


PLOTS = (
    lost_thing,
    hungry_stranger,
    afraid,
    making,
    warned,
    race,
    gift,
    egg,
    quarrel,
    seed,
    visit,
    wish,
    rain,
    honest,
    newcomer,
    sleepless,
)
