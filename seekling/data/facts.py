# ruff: noqa: E501 - sentences stay on one line
"""Small facts for generated conversations, written for this project: (question, answer)."""

SOUNDS = {
    "cow": "moo", "dog": "woof", "cat": "meow", "duck": "quack", "sheep": "baa", "pig": "oink", "frog": "croak", "owl": "hoo",
    "bee": "buzz", "lion": "roar", "mouse": "squeak", "rooster": "cock-a-doodle-doo", "snake": "hiss", "horse": "neigh",
}  # fmt: skip
OPPOSITES = {
    "big": "small", "hot": "cold", "day": "night", "up": "down", "happy": "sad", "fast": "slow", "old": "young", "open": "closed",
    "wet": "dry", "light": "dark", "full": "empty", "left": "right", "near": "far", "soft": "hard", "good": "bad", "long": "short",
    "early": "late", "loud": "quiet", "strong": "weak", "rich": "poor", "high": "low", "clean": "dirty", "yes": "no",
}  # fmt: skip
COLOURS = {
    "the sky": "blue", "grass": "green", "snow": "white", "the sun": "yellow", "a strawberry": "red", "a carrot": "orange",
    "milk": "white", "coal": "black", "a lemon": "yellow", "a plum": "purple", "chocolate": "brown", "an elephant": "grey",
}  # fmt: skip
CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "China": "Beijing", "Japan": "Tokyo",
    "England": "London", "Egypt": "Cairo", "Russia": "Moscow", "India": "New Delhi", "Canada": "Ottawa", "Greece": "Athens",
    "Portugal": "Lisbon", "Austria": "Vienna", "Poland": "Warsaw", "Kenya": "Nairobi", "Brazil": "Brasília", "Cuba": "Havana",
    "Norway": "Oslo", "Sweden": "Stockholm", "Denmark": "Copenhagen", "Ireland": "Dublin", "Peru": "Lima", "Thailand": "Bangkok",
}  # fmt: skip
LEGS = {
    "a dog": 4,
    "a bird": 2,
    "a spider": 8,
    "a cat": 4,
    "an ant": 6,
    "a snake": 0,
    "a horse": 4,
    "a bee": 6,
    "a duck": 2,
    "a fish": 0,
}
BABIES = {
    "cat": "kitten",
    "dog": "puppy",
    "cow": "calf",
    "sheep": "lamb",
    "horse": "foal",
    "duck": "duckling",
    "frog": "tadpole",
    "pig": "piglet",
}
LIVES = {
    "a fish": "in the water", "a bird": "in a nest", "a bee": "in a hive", "a rabbit": "in a hole in the ground", "a bear": "in the forest",
    "a camel": "in the desert", "a whale": "in the sea", "a spider": "in a web", "a mole": "under the ground", "a penguin": "where it is very cold",
}  # fmt: skip
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
OTHERS = (
    ("How many days are in a week?", "There are seven days in a week."),
    ("How many months are in a year?", "There are twelve months in a year."),
    ("How many hours are in a day?", "There are 24 hours in a day."),
    ("How many minutes are in an hour?", "There are 60 minutes in an hour."),
    ("How many letters are in the alphabet?", "The English alphabet has 26 letters."),
    ("What comes after winter?", "After winter comes spring."),
    ("What comes after summer?", "After summer comes autumn."),
    ("What are the four seasons?", "The four seasons are spring, summer, autumn and winter."),
    ("What do we see with?", "We see with our eyes."),
    ("What do we hear with?", "We hear with our ears."),
    ("What do bees make?", "Bees make honey."),
    ("What do cows give us?", "Cows give us milk."),
    ("What is ice?", "Ice is water that has frozen."),
    ("What is rain?", "Rain is water that falls from the clouds."),
    ("Why is it dark at night?", "At night our side of the Earth is turned away from the sun."),
    ("What shape is a ball?", "A ball is round."),
    ("How many sides does a triangle have?", "A triangle has three sides."),
    ("How many sides does a square have?", "A square has four sides."),
    ("What do plants need to grow?", "Plants need water, light, air and soil."),
    ("Where does the sun rise?", "The sun rises in the east."),
    ("Where does the sun set?", "The sun sets in the west."),
    ("Which planet do we live on?", "We live on the Earth."),
    ("What goes around the Earth?", "The moon goes around the Earth."),
    ("What is the biggest animal?", "The blue whale is the biggest animal."),
    ("Which animal has a very long neck?", "The giraffe has a very long neck."),
    ("Which animal has a trunk?", "The elephant has a trunk."),
    ("What do you use to cut paper?", "You use scissors to cut paper."),
    ("What do you use when it rains?", "You use an umbrella when it rains."),
    ("What do you wear on your feet?", "You wear socks and shoes on your feet."),
    ("Where do you sleep?", "I do not sleep. People sleep in a bed."),
    ("What is the name of our star?", "Our star is the sun."),
    ("What colour do you get when you mix blue and yellow?", "Blue and yellow make green."),
    ("What colour do you get when you mix red and yellow?", "Red and yellow make orange."),
    ("What colour do you get when you mix red and blue?", "Red and blue make purple."),
    ("What is bread made of?", "Bread is made of flour, water, salt and yeast."),
    ("What is a book?", "A book has many pages with words or pictures that you can read."),
    ("What does a baker make?", "A baker makes bread and cakes."),
    ("What does a teacher do?", "A teacher helps people to learn."),
    ("What does a doctor do?", "A doctor helps people who are ill."),
    ("What is the first letter of the alphabet?", "The first letter of the alphabet is A."),
    ("What is the last letter of the alphabet?", "The last letter of the alphabet is Z."),
)
