"""Labelled tasks over generated scenes: for each scene a query and its candidates, the right one first."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from cocoa.data.scene_splits import SceneSeries, SceneSplit, draw_scene, split_things, stream
from cocoa.data.scenes import GROUNDS, NUMBERS, PLACES, Scene
from cocoa.sample import IMAGE_PLACEHOLDER, MetaTask

_CLASSIFY = f"{IMAGE_PLACEHOLDER}\nIdentify the object shown in the image\n"
_ASK = f"{IMAGE_PLACEHOLDER}\nRepresent the given image with the following question: {{}}\n"
_FIND_IMAGE = "Find me an everyday image that matches the given caption: {}\n"
_FIND_CAPTION = f"{IMAGE_PLACEHOLDER}\nFind an image caption describing the given everyday image.\n"
_GROUND = f'{IMAGE_PLACEHOLDER}\nSelect the portion of the image that follows the language expressions. "{{}}"\n'
_WHOLE_IMAGE = f"{IMAGE_PLACEHOLDER}\nRepresent the given image.\n"
_CROPPED_IMAGE = f"{IMAGE_PLACEHOLDER}\nRepresent the given cropped image of the object"

_NUM_ANSWERS = 30
_NUM_RETRIEVED = 50
_NUM_CROPS = 8
_MARGIN = 2


@dataclass(frozen=True, slots=True)
class PictureName:
    """One picture of a labelled set: a scene, or the crop of one of its items."""

    split: SceneSplit
    series: SceneSeries
    index: int
    item: int | None = None

    @property
    def path(self) -> str:
        """The picture's name inside the archive."""
        crop = "" if self.item is None else f"_c{self.item}"
        return f"{self.split}/{self.series}_{self.index:05d}{crop}.webp"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A text, a picture, or both."""

    text: str
    picture: PictureName | None = None


@dataclass(frozen=True, slots=True)
class SceneQuestion:
    """A query and its candidates; candidate 0 is the right one."""

    query: Candidate
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class ScenePool:
    """The scenes of one split: a question's wrong candidates come from the other scenes of its own split."""

    seed: int
    split: SceneSplit
    num_scenes: int
    num_things: int
    pixels: int

    @property
    def names(self) -> tuple[str, ...]:
        """The things that the split's scenes are made of."""
        return split_things(self.split, self.num_things)

    def scenes(self, series: SceneSeries) -> tuple[Scene, ...]:
        """Returns the split's scenes of a series."""
        return _scenes(self.seed, self.split, series, self.num_scenes, self.num_things, self.pixels)

    def stream(self, series: SceneSeries, index: int, purpose: str) -> random.Random:
        """Returns the random numbers of one scene for one purpose."""
        return stream(self.seed, self.split, series, index, purpose)

    def caption(self, index: int) -> str:
        """Returns the one caption of a scene of the series "any"."""
        return self.scenes("any")[index].caption(self.stream("any", index, "caption"))

    def name(self, series: SceneSeries, index: int, item: int | None = None) -> PictureName:
        """Returns the name of a scene's picture or of an item's crop."""
        return PictureName(self.split, series, index, item)

    def render(self, name: PictureName) -> Image.Image:
        """Returns the picture; a crop is enlarged to two thirds of a scene, with a small margin around the item."""
        scene = self.scenes(name.series)[name.index]
        picture = scene.render()
        if name.item is None:
            return picture
        left, top, right, bottom = scene.items[name.item].box
        end = self.pixels
        around = (max(0, left - _MARGIN), max(0, top - _MARGIN), min(end, right + _MARGIN), min(end, bottom + _MARGIN))
        side = self.pixels * 2 // 3
        return picture.crop(around).resize((side, side), Image.Resampling.BICUBIC)


@functools.lru_cache(maxsize=16)
def _scenes(
    seed: int, split: SceneSplit, series: SceneSeries, count: int, num_things: int, pixels: int
) -> tuple[Scene, ...]:
    scenes = (draw_scene(seed, split, series, index, num_things=num_things, pixels=pixels) for index in range(count))
    return tuple(scenes)


def classification(pool: ScenePool) -> list[SceneQuestion]:
    """Returns one question a scene: which of the split's things is this?"""
    questions = []
    for index, scene in enumerate(pool.scenes("one")):
        right = scene.names[0]
        wrong = [name for name in pool.names if name != right]
        query = Candidate(_CLASSIFY, pool.name("one", index))
        questions.append(SceneQuestion(query, tuple(Candidate(name) for name in (right, *wrong))))
    return questions


def answering(pool: ScenePool) -> list[SceneQuestion]:
    """Returns one question a scene; wrong answers are of the right kind first, the scene's own things before others."""
    questions = []
    for index, scene in enumerate(pool.scenes("any")):
        rng = pool.stream("any", index, "vqa")
        question, right = scene.ask(rng)
        names = [*scene.names, *rng.sample(pool.names, len(pool.names))]
        others = rng.sample((*GROUNDS, *NUMBERS, *PLACES), len(GROUNDS) + len(NUMBERS) + len(PLACES))
        # A split of few things has too few names, so its lists go on with the other kinds of answer.
        kind = next((list(kind) for kind in (GROUNDS, NUMBERS, PLACES) if right in kind), [])
        answers = list(dict.fromkeys([right, *kind, *names, *others]))[:_NUM_ANSWERS]
        query = Candidate(_ASK.format(question), pool.name("any", index))
        questions.append(SceneQuestion(query, tuple(Candidate(answer) for answer in answers)))
    return questions


def image_retrieval(pool: ScenePool) -> list[SceneQuestion]:
    """Returns one caption a scene, to be matched with its image among those that lack one of its things."""
    scenes = pool.scenes("any")
    questions = []
    for index, scene in enumerate(scenes):
        wrong = [other for other, seen in enumerate(scenes) if not set(scene.names) <= set(seen.names)]
        pool.stream("any", index, "t2i").shuffle(wrong)
        chosen = [index, *wrong[: _NUM_RETRIEVED - 1]]
        candidates = tuple(Candidate(_WHOLE_IMAGE, pool.name("any", other)) for other in chosen)
        questions.append(SceneQuestion(Candidate(_FIND_IMAGE.format(pool.caption(index))), candidates))
    return questions


def caption_retrieval(pool: ScenePool) -> list[SceneQuestion]:
    """Returns one image a scene, to be matched with its caption among those that name a thing it lacks."""
    scenes = pool.scenes("any")
    captions = [pool.caption(index) for index in range(len(scenes))]
    questions = []
    for index, scene in enumerate(scenes):
        wrong = [other for other, seen in enumerate(scenes) if not set(seen.names) <= set(scene.names)]
        pool.stream("any", index, "i2t").shuffle(wrong)
        # Two scenes of one thing can share a caption.
        texts = list(dict.fromkeys([captions[index], *(captions[other] for other in wrong)]))[:_NUM_RETRIEVED]
        query = Candidate(_FIND_CAPTION, pool.name("any", index))
        questions.append(SceneQuestion(query, tuple(Candidate(text) for text in texts)))
    return questions


def grounding(pool: ScenePool) -> list[SceneQuestion]:
    """Returns one expression a scene, to be matched with its item's crop; the scene's other items come next."""
    scenes = pool.scenes("many")
    questions = []
    for index, scene in enumerate(scenes):
        rng = pool.stream("many", index, "grounding")
        expression, right = rng.choice(scene.expressions())
        near = [(index, item) for item in rng.sample(range(len(scene.items)), len(scene.items)) if item != right]
        far = [
            (other, item)
            for other, seen in enumerate(scenes)
            for item, name in enumerate(seen.names)
            # The same thing on the same ground would be a second right answer.
            if other != index and (name, seen.ground) != (scene.names[right], scene.ground)
        ]
        chosen = [(index, right), *near, *rng.sample(far, min(len(far), _NUM_CROPS - 1 - len(near)))]
        candidates = tuple(Candidate(_CROPPED_IMAGE, pool.name("many", other, item)) for other, item in chosen)
        query = Candidate(_GROUND.format(expression), pool.name("many", index))
        questions.append(SceneQuestion(query, candidates))
    return questions


@dataclass(frozen=True, slots=True)
class SceneTask:
    """How the questions of one task are made from the scenes of a split, and on which splits it is tested."""

    name: str
    meta_task: MetaTask
    questions: Callable[[ScenePool], list[SceneQuestion]]
    tests: Sequence[SceneSplit] = ("seen", "combo", "unseen")


SCENE_TASKS = (
    # One thing alone is no combination.
    SceneTask("scene_cls", "classification", classification, ("seen", "unseen")),
    SceneTask("scene_vqa", "vqa", answering),
    SceneTask("scene_t2i", "retrieval", image_retrieval),
    SceneTask("scene_i2t", "retrieval", caption_retrieval),
    SceneTask("scene_grounding", "grounding", grounding),
)
