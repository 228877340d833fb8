"""What training says of a picture. A sample is a list of pieces: text, pictures, and text that is to be predicted.

Six kinds: `name`, `attribute` (continent, habitat, kind of food, ...), `scene` (number, colour, shape, place, marked
points), `several` (which of up to five pictures shows what), `examples` (interleaved question-answer examples of such
attributes, from text and pictures in any mixture), and, with text alone, `text` for retention. The six tasks that the
package measures (capital, currency, Latin name, young, colour of a food, flavour) are asked in none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from interp.models.bundled.pictures import Drawing, Entity, entities
from interp.models.bundled.scenes import NUMBERS, Scene, draw_scene


@dataclass(frozen=True)
class Answer:
    """Text whose tokens are trained on."""

    text: str


Piece = str | Answer | Drawing | Scene
Sample = list[Piece]

QUESTIONS: dict[str, dict[str, str]] = {
    "country": {
        "continent": "Which continent is this country in?",
        "subregion": "Which part of the world is this country in?",
        "language": "Which language is spoken there?",
        "hemisphere": "In which hemisphere does this country lie?",
        "landlocked": "Is this country landlocked?",
        "island": "Is this country an island?",
        "neighbour": "Which country lies next to it?",
    },
    "animal": {
        "group": "What kind of animal is this?",
        "habitat": "Where does this animal live?",
        "diet": "What does this animal eat?",
        "legs": "How many legs does this animal have?",
        "covering": "What covers the body of this animal?",
        "size": "How large is this animal?",
        "continent": "In which part of the world does it live?",
    },
    "food": {
        "kind": "What kind of food is this?",
        "grows_on": "On what does it grow?",
        "meal": "At which meal is it eaten?",
        "temperature": "At which temperature is it served?",
        "texture": "How does it feel in the mouth?",
        "origin": "Where does this food come from?",
    },
}
SUBJECT = {"country": "flag", "animal": "animal", "food": "food"}
NAMING: tuple[Callable[[str], tuple[str, str]], ...] = (
    lambda family: ("", "\nName:"),
    lambda family: ("What is in this picture? ", "\nAnswer:"),
    lambda family: ("", f"\nThis {SUBJECT[family]} is called:"),
    lambda family: ("Picture: ", "\nCaption:"),
    lambda family: ("Q: ", "\nA:"),
)


@dataclass(frozen=True, eq=False)
class Material:
    """What samples are drawn from."""

    drawings: list[Drawing]
    side: int

    def by_entity(self) -> dict[tuple[str, str], list[Drawing]]:
        """The drawings of each entity, by family and name."""
        groups: dict[tuple[str, str], list[Drawing]] = {}
        for drawing in self.drawings:
            groups.setdefault((drawing.entity.family, drawing.entity.name), []).append(drawing)
        return groups


class Sampler:
    """Draws samples of a kind; the same generator state gives the same samples."""

    def __init__(self, material: Material, rng: np.random.Generator):
        self.rng, self.side = rng, material.side
        self.groups = material.by_entity()
        self.known = [e for e in entities() if (e.family, e.name) in self.groups]
        self.families = {f: [e for e in self.known if e.family == f] for f in QUESTIONS}

    def draw(self, entity: Entity) -> Drawing:
        """A random drawing of an entity."""
        found = self.groups[entity.family, entity.name]
        return found[int(self.rng.integers(len(found)))]

    def entity(self, family: str | None = None) -> Entity:
        """A random entity, of any family unless one is named."""
        pool = self.families[family] if family else self.known
        return pool[int(self.rng.integers(len(pool)))]

    def name(self) -> Sample:
        """One picture and its name."""
        entity = self.entity()
        before, after = NAMING[int(self.rng.integers(len(NAMING)))](entity.family)
        return [before, self.draw(entity), after, Answer(f" {entity.name}\n")]

    def attribute(self) -> Sample:
        """One picture, three questions about it."""
        entity = self.entity()
        keys = [k for k in QUESTIONS[entity.family] if entity.attributes.get(k)]
        sample: Sample = [self.draw(entity), "\n"]
        for key in self.rng.permutation(keys)[:3]:
            question = QUESTIONS[entity.family][str(key)]
            sample += [f"Question: {question}\nAnswer:", Answer(f" {entity.attributes[str(key)]}\n")]
        return sample

    def scene(self) -> Sample:
        """One procedural scene, up to four questions about it."""
        scene = draw_scene(self.rng, side=self.side)
        pairs = scene_questions(scene)
        sample: Sample = [scene, "\n"]
        for index in self.rng.permutation(len(pairs))[:4]:
            question, answer = pairs[int(index)]
            sample += [f"Question: {question}\nAnswer:", Answer(f" {answer}\n")]
        return sample

    def several(self, *, pictures: float = 1.0) -> Sample:
        """Two to five numbered pictures of different things, and which is which, asked out of order.

        Args:
            pictures: The chance of each thing to be shown; its name stands in place of its picture otherwise.
        """
        count = int(self.rng.integers(2, 6))
        family = str(self.rng.choice(list(QUESTIONS))) if self.rng.random() < 0.5 else None
        chosen: list[Entity] = []
        while len(chosen) < count:
            entity = self.entity(family)
            if entity not in chosen:
                chosen.append(entity)
        sample: Sample = []
        for number, entity in enumerate(chosen, 1):
            shown = pictures == 1 or self.rng.random() < pictures
            sample += [f"Image {number}: ", self.draw(entity) if shown else entity.name, "\n"]
        for index in self.rng.permutation(count)[:3]:
            sample += [f"Image {index + 1} shows:", Answer(f" {chosen[int(index)].name}\n")]
        return sample

    def labelled(self) -> Sample:
        """Like `several`, with more names than pictures: short, and the number's reference is learnt from it first."""
        return self.several(pictures=0.3)

    def examples(self, *, pictures: float = 0.6) -> Sample:
        """Two to five question-answer examples of one mapping, each input by name or by picture."""
        family = str(self.rng.choice(list(QUESTIONS)))
        mapping = self._mapping(family)
        sample: Sample = []
        chance = float(self.rng.choice([0.0, pictures, 1.0])) if pictures else 0.0
        count = int(self.rng.integers(3, 6))
        for number in range(count):
            entity = self.entity(family)
            last = number == count - 1
            shown = self.rng.random() < (pictures if last else chance)
            answer = f" {mapping(entity)}\n\n"
            # What the first answer will be nobody can know: only later ones are trained on.
            sample += ["Q: ", self.draw(entity) if shown else entity.name, "\nA:", Answer(answer) if number else answer]
        return sample

    def _mapping(self, family: str) -> Callable[[Entity], str]:
        key = str(self.rng.choice([*QUESTIONS[family], "name", "first letter", "upper case"]))
        if key == "name":
            return lambda e: e.name
        if key == "first letter":
            return lambda e: e.name[0].upper()
        if key == "upper case":
            return lambda e: e.name.upper()
        return lambda e: e.attributes.get(key) or "unknown"

    def text(self) -> Sample:
        """Examples of one mapping with names alone, for retention."""
        return self.examples(pictures=0.0)


def scene_questions(scene: Scene) -> list[tuple[str, str]]:
    """Every question that a scene answers without doubt, with its answer."""
    pairs = [("How many shapes are there?", NUMBERS[len(scene.shapes)])]
    looks = [(s.colour, s.kind) for s in scene.shapes]
    for colour, kind in dict.fromkeys(looks):
        count = looks.count((colour, kind))
        pairs.append((f"How many {colour} {kind}s are there?", NUMBERS[count]))
        if count == 1:
            shape = scene.shapes[looks.index((colour, kind))]
            pairs.append((f"Where is the {colour} {kind}?", shape.place))
    for kind in {k for _, k in looks}:
        if [k for _, k in looks].count(kind) == 1:
            pairs.append((f"What colour is the {kind}?", next(c for c, k in looks if k == kind)))
    for colour in {c for c, _ in looks}:
        if [c for c, _ in looks].count(colour) == 1:
            pairs.append((f"Which shape is {colour}?", next(k for c, k in looks if c == colour)))
    for mark in scene.marks:
        row, column = ("top", "", "bottom")[int(mark.y * 3)], ("left", "", "right")[int(mark.x * 3)]
        pairs.append((f"Where is point {mark.letter}?", f"{row} {column}".strip() or "centre"))
    for first, second in zip(scene.marks, scene.marks[1:], strict=False):
        if abs(first.x - second.x) > 0.1:
            left = first if first.x < second.x else second
            pairs.append((f"Which point is further left, {first.letter} or {second.letter}?", left.letter))
        if abs(first.y - second.y) > 0.1:
            top = first if first.y < second.y else second
            pairs.append((f"Which point is higher, {first.letter} or {second.letter}?", top.letter))
    return sorted(pairs)
