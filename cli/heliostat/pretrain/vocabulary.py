"""The words of the demo's little world: what can be drawn, and on which background."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Noun:
    """One thing to draw: its name in captions and its name in the three drawing sets."""

    singular: str
    plural: str
    drawing: str

    @property
    def with_article(self) -> str:
        """The singular with its indefinite article: "an owl"."""
        # By sound, not by spelling: "a unicorn", "an hourglass".
        spoken_vowel = self.singular.startswith(("a", "e", "i", "o", "u", "hour"))
        vowel = spoken_vowel and not self.singular.startswith("uni")
        return f"{'an' if vowel else 'a'} {self.singular}"


# Things a child names at a glance, in all three sets, none the twin of another.
# An entry is "drawing", "drawing = singular" or "drawing = singular / plural".
_ENTRIES = """
red-apple, banana, cherries = cherry / cherries, strawberry / strawberries,
grapes = bunch of grapes / bunches of grapes, watermelon, pineapple, lemon, pear,
carrot, ear-of-corn = corn cob, broccoli = broccoli / broccolis, eggplant,
mushroom, avocado, hamburger, pizza = pizza slice, french-fries = box of fries / boxes of fries,
doughnut = donut, cookie, birthday-cake, soft-ice-cream = ice cream, lollipop, cupcake, pretzel,
popcorn = box of popcorn / boxes of popcorn,

cat-face = cat, dog-face = dog, panda, pig-face = pig, tiger-face = tiger, lion,
fox = fox / foxes, bear, koala, frog, rabbit-face = rabbit, monkey-face = monkey,
mouse-face = mouse / mice, cow-face = cow, penguin, owl, baby-chick = chick, duck,
elephant, turtle, snail, octopus = octopus / octopuses, crab, tropical-fish = fish / fish,
spouting-whale = whale, butterfly = butterfly / butterflies, lady-beetle = ladybug,
honeybee = bee, unicorn, t-rex = dinosaur,

cactus = cactus / cactuses, evergreen-tree = pine tree, deciduous-tree = tree, palm-tree,
sunflower, tulip, rose, four-leaf-clover = clover, maple-leaf = maple leaf / maple leaves,

automobile = car, bus = bus / buses, fire-engine = fire truck, airplane,
helicopter, rocket, sailboat, locomotive = train, flying-saucer = spaceship,

umbrella, balloon, wrapped-gift = gift, light-bulb, key, bell, closed-book = book, crown,
gem-stone = diamond, guitar, hammer,
scissors = pair of scissors / pairs of scissors, pencil, alarm-clock = clock, teapot, camera,
t-shirt = shirt, top-hat, running-shoe = shoe, bomb, magnet, candle,
hourglass-done = hourglass / hourglasses, anchor, soccer-ball, basketball,
trophy = trophy / trophies, house, castle,

sun, cloud, rainbow, snowflake, snowman = snowman / snowmen, crescent-moon = moon, star,
fire = flame, droplet = water drop, high-voltage = lightning bolt,

grinning-face = smiley face, ghost, robot, alien, skull, jack-o-lantern = pumpkin,
red-heart = heart
"""


def _noun(entry: str) -> Noun:
    drawing, given, words = (part.strip() for part in entry.partition("="))
    singular, _, plural = (part.strip() for part in (words or drawing).partition("/"))
    drawing = drawing if given else singular
    singular = singular.replace("-", " ")
    return Noun(singular, plural or f"{singular}s", drawing)


NOUNS: tuple[Noun, ...] = tuple(_noun(entry) for entry in _ENTRIES.split(","))

NOUN_OF: dict[str, Noun] = {noun.singular: noun for noun in NOUNS}

# Softened, so that a red apple still shows on red; sRGB 0..255.
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "gray": (160, 160, 160),
    "black": (32, 32, 32),
    "red": (222, 96, 92),
    "orange": (248, 176, 96),
    "yellow": (252, 228, 120),
    "green": (150, 206, 130),
    "blue": (120, 176, 236),
    "purple": (168, 134, 214),
    "pink": (250, 182, 206),
}

COUNT_WORDS: dict[int, str] = {2: "two", 3: "three", 4: "four"}
