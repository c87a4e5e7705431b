# ruff: noqa: E501 - sentences stay on one line
"""Further plots of generated stories; `seekling.data.plots` lists them all."""

from seekling.data.stories import FOODS, OUTSIDE, TOYS, Tale, Thing, when


def quarrel(tale: Tale) -> None:
    tale.set(toy=tale.thing(TOYS))
    tale.turn()
    when(tale, "{hero} and {friend} found {toy.a} near {place}.|{hero} and {friend} wanted to play with the same {toy}.")
    tale.tell(
        '"it is mine!" said {hero}. "No, it is mine!" said {friend}.|"give it to me!" shouted {hero}. "I saw it first!" said {friend}.'
    )
    broken = tale.dice.chance(0.5)
    tale.tell(
        "{hero} pulled, and {friend} pulled. Then the {toy.noun} broke.|both of them pulled hard, and the {toy.noun} broke in two."
        if broken
        else "they pulled and pulled until the {toy.noun} fell into the mud.|the {toy.noun} fell down, and now it was full of mud."
    )
    tale.tell("{friend} went home without a word, and {hero} was alone.|they were both angry and did not speak all day.")
    tale.turn()
    tale.tell("{hero} tried to play alone, but it was no fun.|that evening {hero} was sad. {hero.He} missed {friend}.")
    tale.tell(
        '"a friend is worth more than any {toy.noun}," said {hero.his} {elder}.|"why do you not go and say sorry?" asked {hero.his} {elder}.'
    )
    tale.tell(
        "so {hero} went to {friend}'s house and knocked on the door.|{hero} ran to {friend}'s house. On the way {hero.he} met {friend}, who was coming to see {hero.him}."
    )
    tale.tell(
        '"I am sorry," said {hero}. "I am sorry too," said {friend}.|"let us not fight any more," said {hero}, and {friend} nodded.'
    )
    tale.turn()
    tale.tell(
        "together they mended the {toy.noun}.|with a little glue they mended the {toy.noun}."
        if broken
        else "they washed the {toy.noun}, and it was as good as new.|together they cleaned the {toy.noun}."
    )
    tale.tell("after that they took turns. First {friend}, then {hero}.|now the {toy.noun} belonged to both of them.")
    tale.tell("and that was much more fun.|and they were friends again.|they played until it was dark.")


def seed(tale: Tale) -> None:
    plant, fruit = tale.dice.one(
        (
            ("a sunflower", "seeds"),
            ("an apple tree", "apples"),
            ("a pumpkin", "pumpkins"),
            ("a bean plant", "beans"),
            ("a strawberry plant", "strawberries"),
        )
    )
    tale.set(plant=plant, plant_the="the " + plant.split(" ", 1)[1], fruit=fruit)
    tale.turn()
    when(tale, "{hero.his} {elder} gave {hero} a seed.|{hero} found a little seed in {hero.his} pocket.")
    tale.tell(
        '"what will it be?" asked {hero}. "Put it in the ground and wait," said {hero.his} {elder}.|{hero} made a hole in the ground and put the seed in.'
    )
    tale.tell(
        "every day {hero} gave it water. But nothing happened.|{hero} looked at it every morning. The ground was still bare."
    )
    tale.tell(
        '"it will never grow," said {friend}.|{friend} laughed. "There is nothing there," {friend.he} said.|"maybe it is asleep," said {friend}.'
    )
    tale.tell("but {hero} did not give up.|but {hero} waited and gave it more water.")
    tale.turn()
    tale.tell("then the rain came, and after the rain came the sun.|after many days it was warm again.")
    tale.tell("one morning there was a small green leaf!|and one day {hero} saw a tiny green plant.")
    tale.tell("it grew bigger every day. It was {plant}!|week after week it grew. Now {hero} could see that it was {plant}.")
    tale.turn()
    tale.tell("in autumn there were many {fruit}.|when the summer was over, {plant_the} was full of {fruit}.")
    tale.tell(
        "{hero} gave some to {friend} and some to {hero.his} {elder}.|{hero} had so many that {hero.he} shared them with everyone."
    )
    tale.tell('"good things take time," said {hero.his} {elder}.|"you were right to wait," said {friend}.')
    tale.maybe(0.5, "and {hero} kept one seed for the next year.")


def visit(tale: Tale) -> None:
    tale.set(food=Thing(tale.dice.one(FOODS)), other=tale.being("animal"), granny=tale.pick("grandmother|grandfather|aunt"))
    tale.set(
        block=tale.pick(
            "a tree had fallen across the path|the bridge was broken|the path was full of water|a big stone lay on the path"
        )
    )
    tale.turn()
    when(
        tale,
        "{hero} went to see {hero.his} {granny}, who was ill.|{hero} took {food.a} to {hero.his} {granny}, who lived behind {place}.",
    )
    tale.tell("on the way {hero.he} met {other} the {other.kind}.|near {place} {hero.he} saw {other} the {other.kind}.")
    tale.tell(
        '"where are you going?" asked {other}. "To my {granny}," said {hero}.|"good morning," said {other}. "Where do you go so early?" "To see my {granny}," said {hero}.'
    )
    tale.tell(
        '"may I come with you?" asked {other}. "Of course," said {hero}.|"then I will come with you," said {other}. So they went on together.'
    )
    tale.turn()
    tale.tell("soon they had to stop, because {block}.|but then they saw that {block}.")
    tale.tell('"now we cannot go on," said {hero}.|"what shall we do?" asked {hero}.')
    tale.tell(
        '"I know another way," said {other}. "Follow me."|{other} had an idea. "We can go around it," {other.he} said.|"let us do it together," said {other}. They pushed and pulled, and at last they got across.'
    )
    tale.turn()
    tale.tell("before it was dark, they came to the house.|at last they saw the little house with its warm light.")
    tale.tell('"how nice that you came!" said {hero.his} {granny}.|{hero.His} {granny} was so happy to see them.')
    tale.tell("they ate and told stories by the fire.|they all had tea and told stories until late.")
    tale.tell("and soon {hero}'s {granny} felt much better.|{hero} was glad that {hero.he} had not gone alone.")


def wish(tale: Tale) -> None:
    tale.set(
        magic=tale.pick("a golden fish|a tiny fairy|an old wizard|a shining star"),
        want=tale.pick("a mountain of cake|a house full of toys|to be as big as a house|to fly like a bird"),
    )
    result = {
        "a mountain of cake": "{hero.he} ate and ate until {hero.he} could not eat any more, and {hero.he} had nobody to share it with",
        "a house full of toys": "there were so many toys that there was no room to play",
        "to be as big as a house": "{hero.he} was too big for {hero.his} bed, and everyone ran away",
        "to fly like a bird": "{hero.he} was high above the clouds, and it was cold and lonely there",
    }[str(tale.words["want"])]
    tale.set(result=result.format_map(tale.words))
    tale.turn()
    when(tale, "{hero} met {magic} near {place}.|{hero} helped {magic} who was stuck {at}.")
    tale.tell('"I will give you one wish," it said.|"you may make a wish," it said in a soft voice.')
    tale.tell(
        '{hero} thought and thought. "I want {want}!" {hero.he} said.|"then I wish for one thing," said {hero}. "I want {want}."'
    )
    tale.tell("and so it was.|there was a flash of light, and the wish came true.")
    tale.turn()
    tale.tell("at first {hero} was very {glad}. But soon {result}.|it was fun for a while. But then {result}.")
    tale.tell(
        '"this is not what I wanted," said {hero}.|{hero} was sad and thought of {friend}.|{hero} missed {hero.his} friend {friend}.'
    )
    tale.tell(
        'so {hero.he} went back. "Please take my wish away," {hero.he} said.|"please," {hero} called, "I want everything to be as before."'
    )
    tale.turn()
    tale.tell("the light came again, and everything was as before.|and in a moment everything was as it had been.")
    tale.tell(
        "{hero} ran to {friend} and told {friend.him} everything.|{friend} was waiting at the door, and they laughed together."
    )
    tale.tell('"I have all that I need," said {hero}.|and {hero} knew that a friend is the best thing in the world.')


def rain(tale: Tale) -> None:
    other = tale.dice.one([place for place in OUTSIDE if place != tale.place])
    tale.set(
        other=other,
        shelter=tale.pick(
            "a small cave|a hollow tree|an old hut|a big mushroom"
            if tale.is_animal(tale.hero)
            else "an old hut|a little cave|the barn"
        ),
    )
    tale.turn()
    when(tale, "{hero} and {friend} were on their way to {place}.|{hero} and {friend} played near {place}.")
    tale.tell("suddenly the sky turned grey, and it began to rain.|a dark cloud came, and then big drops fell.")
    tale.tell('"we will get wet!" said {friend}.|"run!" shouted {hero}.|"what shall we do?" asked {friend}.')
    tale.tell("they ran until they found {shelter}.|then {hero} saw {shelter}, and they ran inside.")
    tale.maybe(
        0.6,
        "inside sat {stranger.a} who was wet too.|{stranger.a} was already there, and made room for them.".replace(
            "{stranger.a}", tale.being("animal").a
        ),
    )
    tale.turn()
    tale.tell("they listened to the rain. Drip, drop, drip, drop.|the rain fell and fell.")
    tale.tell(
        '"let us tell stories," said {hero}.|"I know a game," said {friend}.|{hero} began to sing, and {friend} sang too.'
    )
    tale.tell("they laughed so much that they forgot the rain.|soon nobody was sad any more.")
    tale.turn()
    tale.tell(
        "when they looked out, the sun was back, and there was a rainbow over {other}.|then the rain stopped. A big rainbow stood over {other}."
    )
    tale.tell('"look!" said {hero}. "Red, orange, yellow, green, blue and purple!"|"how beautiful!" said {friend}.')
    tale.tell("they jumped in every puddle on the way home.|wet and happy, they went home.|and that was the best day of all.")


def honest(tale: Tale) -> None:
    tale.set(
        found=tale.pick("a purse full of coins|a golden ring|a silver key|a small bag of coins"),
        owner=tale.pick("an old woman|an old man|the baker|the teacher"),
    )
    tale.set(
        thing=str(tale.words["found"]).split(" of ")[0].split()[-1].replace("full", "purse"), he=tale.dice.one(("he", "she"))
    )
    tale.set(
        he="she" if "woman" in str(tale.words["owner"]) else "he" if " man" in str(tale.words["owner"]) else tale.words["he"]
    )
    tale.turn()
    when(
        tale,
        "{hero} found {found} on the way to {place}.|something shone in the grass {at}. It was {found}, and {hero} picked it up.",
    )
    tale.tell('"now I am rich!" {hero} thought.|"may I keep it?" {hero} thought.|{hero} looked around. Nobody had seen it.')
    tale.tell(
        '"somebody must be looking for it," said {friend}.|"it is not yours," said {friend}. "Somebody will be very sad."'
    )
    tale.turn()
    tale.tell("then they saw {owner} who looked everywhere.|near {place} they met {owner}, who was looking for something.")
    tale.tell(
        '"did you lose something?" asked {hero}. "Yes, my {thing}," was the answer.|"have you seen my {thing}?" {he} asked.'
    )
    tale.tell("it was hard to give it back, but {hero} did.|{hero} thought for a moment. Then {hero.he} held out the {thing}.")
    tale.tell(
        '"thank you! You are an honest {hero.kind}," {he} said.|"how good of you!" {he} said. "Not everyone would do that."'
    )
    tale.turn()
    tale.set(food=Thing(tale.dice.one(FOODS)))
    tale.tell(
        "{hero} got {food.a} for it, and {hero.he} shared it with {friend}.|{hero} got nothing for it, but {hero.he} felt light and {glad}."
    )
    tale.tell('"that was right," said {friend}.|and that was worth more than gold.|{hero} slept very well that night.')


def newcomer(tale: Tale) -> None:
    tale.set(
        new=tale.being("animal" if tale.is_animal(tale.hero) else tale.dice.one(("girl", "boy"))),
        game=tale.pick("hide and seek|ball|tag|catch"),
    )
    tale.turn()
    when(tale, "{new.a} named {new} moved to {place}.|there was somebody new. It was {new.a} named {new}.")
    tale.tell("{new} stood alone and looked at {new.his} feet.|nobody talked to {new}, and {new.he} was lonely.")
    tale.tell(
        '"{new.he} is strange," said {friend}. "{new.he_big} never says a word."'.replace("{new.he_big}", "{new.He}").replace(
            '"{new.he} is', '"{new.He} is'
        )
        + "|{friend} did not want to play with {new}."
    )
    tale.tell('"maybe {new.he} is only shy," said {hero}.|{hero} thought, "I would be sad too, if I had no friends."')
    tale.turn()
    tale.tell(
        'so {hero} went to {new}. "Do you want to play {game} with us?" {hero.he} asked.|{hero} smiled at {new}. "Come and play {game}," {hero.he} said.'
    )
    tale.tell('"yes, please," said {new} in a small voice.|{new} looked up. "May I?" {new.he} asked.')
    tale.tell(
        "they played {game} all afternoon, and {new} was very good at it.|{new} knew many funny tricks, and soon everybody laughed."
    )
    tale.turn()
    tale.tell('"I was wrong," said {friend}. "{new} is nice."|"will you come again tomorrow?" asked {friend}.')
    tale.tell(
        "now they were three friends.|and {new} was never lonely again.|from that day on all three of them played together."
    )


def sleepless(tale: Tale) -> None:
    tale.set(noise=tale.pick("the wind in the trees|a little mouse in the wall|the clock on the wall|the rain on the roof"))
    tale.turn()
    tale.tell("one night {hero} could not sleep.|it was late, but {hero} was still awake.")
    tale.tell(
        "{hero.He} turned left, and {hero.he} turned right.|{hero.He} counted sheep. One, two, three, four, five. It did not help."
    )
    tale.tell('"what is that?" {hero.he} thought. There was a strange sound.|then {hero.he} heard a sound.')
    tale.tell(
        '"are you asleep?" {hero} called. {hero.His} {elder} came with a candle.|{hero} called, and {hero.his} {elder} came in.'
    )
    tale.turn()
    tale.tell('"I cannot sleep," said {hero}. "There is a sound."|"there is something outside," whispered {hero}.')
    tale.tell(
        'they listened. "That is only {noise}," said {hero.his} {elder}.|{hero.His} {elder} smiled. "It is {noise}. It wants to sing you to sleep."'
    )
    tale.tell(
        "{hero.His} {elder} sang a soft song about {place}.|then {hero.his} {elder} told {hero.him} about the moon and the stars.|{hero} drank some warm milk."
    )
    tale.tell(
        '"think of something nice," said {hero.his} {elder}. {hero} thought of {friend} and of {place}.|{hero} thought of all the games {hero.he} would play with {friend}.'
    )
    tale.turn()
    tale.tell("soon {hero.his} eyes were heavy.|{hero.He} closed {hero.his} eyes.")
    tale.tell(
        '"good night," said {hero.his} {elder}. But {hero} was already asleep.|and in {hero.his} dream {hero.he} played {at} with {friend}.'
    )
