"""Small generated pictures of which everything is known: one to four emoji on a coloured ground.

A thing stands in the middle when it is alone, otherwise in one of four corners. "Left of" and "above" are said
only of neighbours in the same row or column, so that every caption, question and expression has one meaning.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from cocoa.data.emoji_sheet import drawing
from cocoa.errors import UsageError

# Muted tones: a drawing in the same plain colour can still be seen on them.
GROUNDS: dict[str, tuple[int, int, int]] = {
    "red": (206, 98, 94),
    "green": (128, 184, 124),
    "blue": (122, 162, 220),
    "yellow": (244, 222, 128),
    "purple": (168, 130, 202),
    "orange": (238, 164, 92),
    "white": (247, 247, 245),
    "black": (48, 48, 52),
}
CORNERS = ("top left", "top right", "bottom left", "bottom right")
MIDDLE = "middle"
PLACES = (*CORNERS, MIDDLE)
NUMBERS = ("one", "two", "three", "four")

# relation -> place -> where its neighbour stands: a thing in the top left is left of the one in the top right.
_NEIGHBOURS = {
    "left of": {"top left": "top right", "bottom left": "bottom right"},
    "right of": {"top right": "top left", "bottom right": "bottom left"},
    "above": {"top left": "bottom left", "top right": "bottom right"},
    "below": {"bottom left": "top left", "bottom right": "top right"},
}


@dataclass(frozen=True, slots=True)
class Item:
    """One thing in a scene; `box` is left, top, right, bottom in pixels."""

    name: str
    place: str
    box: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture by its content: a ground and different things that do not overlap."""

    ground: str
    items: tuple[Item, ...]
    pixels: int = 84

    @property
    def names(self) -> tuple[str, ...]:
        """The things in the scene."""
        return tuple(item.name for item in self.items)

    def render(self) -> Image.Image:
        """Returns the picture in RGB, `pixels` wide and high."""
        picture = Image.new("RGB", (self.pixels, self.pixels), GROUNDS[self.ground])
        for item in self.items:
            left, top, right, _ = item.box
            ink = drawing(item.name, right - left)
            picture.paste(ink, (left, top), ink)
        return picture

    def relations(self) -> list[tuple[str, str, str]]:
        """Returns all true (thing, relation, other thing), such as ("cat face", "left of", "rose")."""
        at = {item.place: item.name for item in self.items}
        return [
            (at[place], relation, at[other])
            for relation, neighbours in _NEIGHBOURS.items()
            for place, other in neighbours.items()
            if place in at and other in at
        ]

    def caption(self, rng: random.Random) -> str:
        """Returns a true sentence of at most 25 words that names every thing and the ground."""
        body = rng.choice(self._descriptions(rng))
        ground = f"{article(self.ground)} ground"
        return rng.choice((f"{body} on {ground}", f"on {ground}, {body}", f"{body}, {self.ground} ground"))

    def _descriptions(self, rng: random.Random) -> list[str]:
        """The ways to say what stands where, things in random order of mention."""
        items = rng.sample(self.items, len(self.items))
        if len(items) == 1:
            thing = article(items[0].name)
            return [thing, f"{thing} in the middle", f"one thing: {thing}"]
        ways = [_listed([article(item.name) for item in items])]
        if len(items) == 2:
            ways.append(_listed([f"{article(item.name)} in the {item.place}" for item in items]))
        else:
            # Bare names: with articles, four things would take more words than a short caption has.
            ways += [", ".join(f"{item.name} {item.place}" for item in items), self._rows(rng)]
        if len(items) < 4 and (related := self.relations()):
            thing, relation, other = rng.choice(related)
            rest = [f"{article(item.name)} in the {item.place}" for item in items if item.name not in (thing, other)]
            ways.append(_listed([f"{article(thing)} {relation} {article(other)}", *rest]))
        return ways

    def _rows(self, rng: random.Random) -> str:
        parts = []
        for row in rng.sample(("top", "bottom"), 2):
            names = [item.name for corner in CORNERS for item in self.items if item.place == corner and row in corner]
            parts.append(f"{row} row: {', '.join(names)}")
        return "; ".join(parts)

    def _questions_by_kind(self) -> list[list[tuple[str, str]]]:
        related = [(f"what is {relation} the {other}?", thing) for thing, relation, other in self.relations()]
        placed = [(f"what is in the {item.place}?", item.name) for item in self.items]
        places = [(f"where is the {item.name}?", item.place) for item in self.items]
        whole = [
            ("what colour is the ground?", self.ground),
            ("how many things are there?", NUMBERS[len(self.items) - 1]),
        ]
        return [kind for kind in (related, placed, places, whole) if kind]

    def questions(self) -> list[tuple[str, str]]:
        """Returns every (question, answer) that can be asked; each has exactly one right answer."""
        return [question for kind in self._questions_by_kind() for question in kind]

    def ask(self, rng: random.Random) -> tuple[str, str]:
        """Returns one (question, answer); kinds of question are equally likely, however many there are of each."""
        return rng.choice(rng.choice(self._questions_by_kind()))

    def expressions(self) -> list[tuple[str, int]]:
        """Returns every (phrase, index of the one item that it means)."""
        index = {item.name: position for position, item in enumerate(self.items)}
        named = [(f"the {item.name}", index[item.name]) for item in self.items]
        placed = [(f"the thing in the {item.place}", index[item.name]) for item in self.items]
        related = [(f"the thing {relation} the {other}", index[thing]) for thing, relation, other in self.relations()]
        return named + placed + related


def sample_scene(
    rng: random.Random,
    things: Sequence[str],
    *,
    min_items: int = 1,
    max_items: int = 4,
    pixels: int = 84,
    accept: Callable[[Sequence[str]], bool] | None = None,
) -> Scene:
    """Returns a random scene of `min_items` to `max_items` different things.

    Args:
        rng: where every choice comes from.
        things: names to choose from.
        min_items: the fewest things.
        max_items: the most things, up to 4.
        pixels: width and height of the picture.
        accept: says whether these things may stand together; others are drawn until it does.
    """
    if not 1 <= min_items <= max_items <= len(CORNERS) or max_items > len(things):
        what = f"cannot place {min_items} to {max_items} of {len(things)} things; ask for 1 to {len(CORNERS)}"
        raise UsageError("E_USAGE_SCENES", what)
    if pixels < 28:
        raise UsageError("E_USAGE_SCENES", f"a scene of {pixels} pixels is too small; use 28 or more")
    count = rng.randint(min_items, max_items)
    for _ in range(10_000):
        names = rng.sample(things, count)
        if accept is None or accept(names):
            break
    else:
        raise UsageError("E_USAGE_SCENES", f"no {count} of {len(things)} things may stand together; use more things")
    places = (MIDDLE,) if count == 1 else tuple(rng.sample(CORNERS, count))
    items = tuple(Item(name, place, _box(rng, place, pixels)) for name, place in zip(names, places, strict=True))
    return Scene(rng.choice(tuple(GROUNDS)), items, pixels)


def _box(rng: random.Random, place: str, pixels: int) -> tuple[int, int, int, int]:
    """A box of slightly varied size, anywhere inside its own quarter of the picture, or near the middle."""
    half = pixels // 2
    size = round(pixels * rng.uniform(0.36, 0.45))
    if place == MIDDLE:
        slack = pixels // 12
        left = (pixels - size) // 2 + rng.randint(-slack, slack)
        top = (pixels - size) // 2 + rng.randint(-slack, slack)
    else:
        left = half * ("right" in place) + rng.randint(0, half - size)
        top = half * ("bottom" in place) + rng.randint(0, half - size)
    return (left, top, left + size, top + size)


def article(name: str) -> str:
    """Returns the name with a, an or some before it: "an owl", "a unicorn face", "some grapes"."""
    head = name.split(" with ")[0]
    if head.endswith("s") and not head.endswith(("ss", "us")):
        return f"some {name}"
    vowel = name[0] in "aeiou" and not name.startswith(("uni", "eu"))
    return f"{'an' if vowel else 'a'} {name}"


def _listed(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]
