"""The words of the stories. No entry of a list may begin another entry of the same list
(walk.py)."""

from __future__ import annotations


def _list(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


WORDS: dict[str, list[str]] = {
    "name": _list(
        """Lily|f, Mia|f, Nora|f, Ruby|f, Ella|f, Zoe|f, Daisy|f, Hana|f, Ivy|f, Poppy|f, Wren|f,
        Clara|f, Tess|f, Luna|f, Maya|f, Rosa|f, Tom|m, Ben|m, Max|m, Leo|m, Finn|m, Omar|m,
        Jack|m, Hugo|m, Sam|m, Theo|m, Otto|m, Kai|m, Noah|m, Eli|m, Gus|m, Pip|m"""
    ),
    "kind": _list(
        """rabbit, bear, fox, mouse, cat, dog, duck, frog, hedgehog, owl, squirrel, turtle, pony,
        lamb, badger, otter, goat, mole, piglet, hen, kitten, puppy, deer, beaver"""
    ),
    "trait": _list(
        """little, small, tiny, young, brave, shy, kind, clever, curious, gentle, funny, quiet,
        cheerful, sleepy, silly, friendly, polite, proud, lively, lonely, busy, merry, careful,
        cosy"""
    ),
    "mood": _list("happy, glad, proud, cheerful, joyful, merry, thankful, pleased, cosy"),
    "gloom": _list("sad, worried, lonely, sorry, cross, tired, puzzled, gloomy, lost"),
    "colour": _list(
        "red, blue, green, yellow, white, black, brown, golden, silver, purple, pink, grey"
    ),
    "look": _list(
        """big, small, tiny, long, round, soft, shiny, smooth, wooden, pretty, strange, lovely,
        plain, dusty, curly, bright"""
    ),
    "place": _list(
        """forest, meadow, garden, village, farm, river, lake, hill, valley, beach, park, orchard,
        pond, barn, bridge, market, cave, field, harbour, castle, well, mountain, stream,
        windmill"""
    ),
    "near": ["near the", "by the", "behind the", "not far from the", "next to the", "across the"],
    "house": _list("hut, cottage, burrow, den, tent, cabin, house, wagon, nest, tower"),
    "relative": _list(
        "mother, father, grandmother, grandfather, sister, brother, aunt, uncle, cousin"
    ),
    "toy": _list(
        """kite, ball, drum, hat, boat, cup, bell, book, blanket, basket, lantern, whistle, scarf,
        button, ribbon, flute, spoon, doll, marble, puzzle, mitten, feather, shell, key"""
    ),
    "food": _list(
        """cake, pie, bun, peach, pear, carrot, cookie, plum, melon, muffin, pancake, sandwich,
        bowl of soup, loaf of bread, jar of honey, slice of cheese, bag of nuts, cup of milk,
        pot of jam, turnip"""
    ),
    "hobby": _list(
        """sing, dance, paint, swim, climb trees, bake bread, count stars, draw pictures,
        collect shells, tell jokes, play the flute, fly kites, plant seeds, read books,
        jump in puddles, build towers, chase butterflies, look at clouds, pick berries,
        skip stones, make soup, roll down hills, watch birds, hum tunes, write letters, dig holes"""
    ),
    "skill": _list(
        """ride a bike, swim in the lake, whistle a tune, climb a tree, bake a cake, skate on the
        ice, row a boat, tie a knot, juggle, stand on one leg, catch a ball, dance a jig, sew a
        button, read a map, jump a rope, paint a face"""
    ),
    "weather": _list(
        """sunny, windy, rainy, cloudy, foggy, snowy, warm, cold, bright, quiet, frosty, lovely,
        misty, chilly, golden, grey"""
    ),
    "daytime": _list("morning, day, afternoon, evening"),
    "number": _list("two, three, four, five, six, seven, eight, nine, ten"),
    "flower": _list("rose, tulip, daisy, poppy, lily, fern, violet, thistle, bluebell, mushroom"),
    "bug": _list(
        """beetle, butterfly, snail, spider, worm, cricket, moth, dragonfly, ladybird, caterpillar,
        bumblebee"""
    ),
    "birds": _list(
        "ducks, geese, swans, robins, crows, doves, hens, finches, larks, sparrows, gulls, storks"
    ),
    "spot": _list(
        """under a log, under a leaf, behind a bush, in the tall grass, on top of a rock,
        inside a hollow tree, next to a puddle, under the bench, behind the fence, in the mud,
        beside the path, under the old bridge, in a heap of leaves, between two stones,
        on a low branch, near the gate"""
    ),
    "fear": _list(
        """the dark, loud thunder, deep water, high places, big dogs, the old barn, strangers,
        spiders, the wind, shadows"""
    ),
    "baby": _list(
        """duckling, bird, chick, lamb, kitten, puppy, fawn, bunny, mouse, turtle, hedgehog,
        piglet"""
    ),
    "project": _list(
        """tower, bridge, raft, snowman, swing, treehouse, sandcastle, cart, boat, fort, kite,
        birdhouse"""
    ),
    "stuff": _list(
        """sticks, stones, leaves, planks, ropes, mud, shells, feathers, nails, branches, wool,
        paper, buttons, straw"""
    ),
    "trouble": [
        "the wind blew it down",
        "it fell apart",
        "a piece broke off",
        "it sank into the mud",
        "it leaned to one side",
        "the rain washed it away",
        "a goat sat on it",
        "it cracked in the middle",
    ],
    "seed": _list("bean, sunflower, pumpkin, plum, tomato, pea, walnut, cherry, lemon, radish"),
    "game": _list(
        """hide and seek, tag, catch, cards, a guessing game, leapfrog, pirates, a word game,
        hopscotch, knights"""
    ),
    "adverb": _list(
        """softly, slowly, quietly, gently, quickly, kindly, bravely, loudly, happily, shyly,
        calmly, suddenly"""
    ),
    "said": _list("said, cried, called, whispered, sighed, shouted"),
    "while": _list("a while, an hour, a long time, a minute, the whole morning, half the day"),
    "times": _list("two, three, four, five, six, seven, many, a hundred"),
    "body": _list("nose, ear, paw, tail, foot, knee, back, chin"),
    "did": _list("smiled, laughed, nodded, clapped, jumped up, waved, giggled, blushed"),
    "friends": _list("best friends, good friends, the best of friends, like family, partners"),
}
