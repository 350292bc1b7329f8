"""The words of the stories. No entry of a list may begin another of the same list (walk.py)."""

from __future__ import annotations


def words_of(text: str) -> list[str]:
    """Entries parted by commas, white space made plain."""
    return [" ".join(word.split()) for word in text.split(",")]


WORDS: dict[str, list[str]] = {
    "name": words_of(
        """Lily|f, Mia|f, Nora|f, Ruby|f, Ella|f, Zoe|f, Daisy|f, Hana|f, Ivy|f, Poppy|f, Wren|f,
        Clara|f, Tess|f, Luna|f, Maya|f, Rosa|f, Tom|m, Ben|m, Max|m, Leo|m, Finn|m, Omar|m,
        Jack|m, Hugo|m, Sam|m, Theo|m, Otto|m, Kai|m, Noah|m, Eli|m, Gus|m, Pip|m, Emma|f,
        Pearl|f, Hazel|f, Olive|f, Sofia|f, Bella|f, Freya|f, Amara|f, Oscar|m, Milo|m, Felix|m,
        Jonas|m, Ravi|m, Bruno|m, Caleb|m, Dexter|m"""
    ),
    "kind": words_of(
        """rabbit, bear, fox, mouse, cat, dog, duck, frog, hedgehog, owl, squirrel, turtle, pony,
        lamb, badger, otter, goat, mole, piglet, hen, kitten, puppy, deer, beaver, donkey,
        lizard, monkey, panda, goose, hamster, robin, sheep, tiger, wolf, lion, raccoon"""
    ),
    "trait": words_of(
        """little, small, tiny, young, brave, shy, kind, clever, curious, gentle, funny, quiet,
        cheerful, sleepy, silly, friendly, polite, proud, lively, lonely, busy, merry, careful,
        cosy, wise, jolly, noisy, tidy, hungry, patient, dreamy, bold, fluffy, graceful, daring,
        sensible"""
    ),
    "mood": words_of("happy, glad, proud, cheerful, joyful, merry, thankful, pleased, cosy"),
    "gloom": words_of("sad, worried, lonely, sorry, cross, tired, puzzled, gloomy, lost"),
    "colour": words_of(
        """red, blue, green, yellow, white, black, brown, golden, silver, purple, pink, grey,
        crimson, violet, cream, turquoise"""
    ),
    "look": words_of(
        """big, small, tiny, long, round, soft, shiny, smooth, wooden, pretty, strange, lovely,
        plain, dusty, curly, bright, fine, heavy, light, spotted, striped, tall, new, rare"""
    ),
    "place": words_of(
        """forest, meadow, garden, village, farm, river, lake, hill, valley, beach, park, orchard,
        pond, barn, bridge, market, cave, field, harbour, castle, well, mountain, stream,
        windmill, church, school, library, bakery, island, jungle, lighthouse, palace,
        playground, quarry, swamp, station, waterfall, vineyard, stable, town"""
    ),
    "near": words_of("near the, by the, behind the, not far from the, next to the, across the"),
    "house": words_of("hut, cottage, burrow, den, tent, cabin, house, wagon, nest, tower"),
    "relative": words_of(
        """mother, father, grandmother, grandfather, sister, brother, aunt, uncle, cousin"""
    ),
    "toy": words_of(
        """kite, ball, drum, hat, boat, cup, bell, book, blanket, basket, lantern, whistle, scarf,
        button, ribbon, flute, spoon, doll, marble, puzzle, mitten, feather, shell, key,
        trumpet, ring, mirror, paintbrush, pocket watch, rattle, sled, top, teapot, wagon,
        wheel, map, necklace, compass"""
    ),
    "food": words_of(
        """cake, pie, bun, peach, pear, carrot, cookie, plum, melon, muffin, pancake, sandwich,
        bowl of soup, loaf of bread, jar of honey, slice of cheese, bag of nuts, cup of milk,
        pot of jam, turnip, biscuit, cherry tart, dumpling, fig, lemon cake, noodle, potato,
        radish, scone, tomato, waffle, banana"""
    ),
    "hobby": words_of(
        """sing, dance, paint, swim, climb trees, bake bread, count stars, draw pictures, collect
        shells, tell jokes, play the flute, fly kites, plant seeds, read books, jump in puddles,
        build towers, chase butterflies, look at clouds, pick berries, skip stones, make soup,
        roll down hills, watch birds, hum tunes, write letters, dig holes, catch fish, whistle,
        juggle, knit socks, sail boats, run races, sweep leaves, wash pebbles, polish spoons,
        listen to the rain, find clovers, ring bells, stack wood, act in plays"""
    ),
    "skill": words_of(
        """ride a bike, swim in the lake, whistle a tune, climb a tree, bake a cake, skate on the
        ice, row a boat, tie a knot, juggle, stand on one leg, catch a ball, dance a jig, sew a
        button, read a map, jump a rope, paint a face"""
    ),
    "weather": words_of(
        """sunny, windy, rainy, cloudy, foggy, snowy, warm, cold, bright, quiet, frosty, lovely,
        misty, chilly, golden, grey, stormy, mild, still, breezy"""
    ),
    "daytime": words_of("morning, day, afternoon, evening"),
    "number": words_of(
        "two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, twenty"
    ),
    "flower": words_of(
        """rose, tulip, daisy, poppy, lily, fern, violet, thistle, bluebell, mushroom, clover,
        pansy, snowdrop, primrose, cactus, nettle"""
    ),
    "bug": words_of(
        """beetle, butterfly, snail, spider, worm, cricket, moth, dragonfly, ladybird, caterpillar,
        bumblebee, ladybug, firefly, grasshopper, wasp, centipede"""
    ),
    "birds": words_of(
        """ducks, geese, swans, robins, crows, doves, hens, finches, larks, sparrows, gulls,
        storks, pigeons, cuckoos, herons, magpies, parrots, wrens"""
    ),
    "spot": words_of(
        """under a log, under a leaf, behind a bush, in the tall grass, on top of a rock, inside a
        hollow tree, next to a puddle, under the bench, behind the fence, in the mud, beside the
        path, under the old bridge, in a heap of leaves, between two stones, on a low branch,
        near the gate, behind a barrel, beside a well, in a flower pot, under a wheelbarrow, on
        the window sill, in a warm corner, beneath the stairs, inside an old boot, among the
        reeds, on the doorstep, behind a haystack, in the sand"""
    ),
    "fear": words_of(
        """the dark, loud thunder, deep water, high places, big dogs, the old barn, strangers,
        spiders, the wind, shadows"""
    ),
    "baby": words_of(
        """duckling, bird, chick, lamb, kitten, puppy, fawn, bunny, mouse, turtle, hedgehog,
        piglet"""
    ),
    "project": words_of(
        """tower, bridge, raft, snowman, swing, treehouse, sandcastle, cart, boat, fort, kite,
        birdhouse"""
    ),
    "stuff": words_of(
        """sticks, stones, leaves, planks, ropes, shells, feathers, nails, branches, bricks,
        pebbles, logs, buttons, pegs, sheets, boxes"""
    ),
    "trouble": words_of(
        """the wind blew it down, it fell apart, a piece broke off, it sank into the mud, it leaned
        to one side, the rain washed it away, a goat sat on it, it cracked in the middle"""
    ),
    "seed": words_of("bean, sunflower, pumpkin, plum, tomato, pea, walnut, cherry, lemon, radish"),
    "game": words_of(
        """hide and seek, tag, catch, cards, a guessing game, leapfrog, pirates, a word game,
        hopscotch, knights"""
    ),
    "adverb": words_of(
        """softly, slowly, quietly, gently, quickly, kindly, bravely, loudly, happily, shyly,
        calmly, carefully, eagerly, gladly, patiently, proudly, warmly, wisely"""
    ),
    "said": words_of("said, cried, called, whispered, sighed, shouted"),
    "while": words_of("a while, an hour, a long time, a minute, the whole morning, half the day"),
    "times": words_of("two, three, four, five, six, seven, many, a hundred"),
    "body": words_of("nose, ear, paw, tail, foot, knee, back, chin"),
    "did": words_of("smiled, laughed, nodded, clapped, jumped up, waved, giggled, blushed"),
    "friends": words_of("best friends, good friends, the best of friends, like family, partners"),
    "taste": words_of(
        """sweet, warm, fresh, juicy, tasty, small, big, crunchy, sticky, soft, salty, ripe,
        little, lovely, hot, round, whole, spicy, rich, fine"""
    ),
    "housing": words_of(
        """little, small, tiny, cosy, wooden, stone, narrow, crooked, round, tall, warm, dusty,
        bright, pretty, quiet"""
    ),
}
