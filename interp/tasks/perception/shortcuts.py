"""Shortcuts: what answers a perception task without perceiving what it asks for.

A shortcut is a set of features x and a classifier x -> key that is fitted on training items and scored on test items.
Of a logistic regression and a random forest, and of several sets of features where a shortcut has them, the one that
answers the second half of the training items best after learning from the first is fitted again on all of them; test
items choose nothing. An honest task leaves each shortcut at chance.

    text only          words of the question, words of each option, ranks of numeric options
    letter prior       the most frequent key
    shuffled images    features of another item's pictures: chance by construction, whatever the task
    8x8 blur           the pictures reduced to 8 x 8 pixels
    mark coordinates   where marked points and boxes are, their sizes and ranks (meta["marks"])
    colour histogram   mean, spread and histogram of the colours of each picture, and distances of these between them
    pixel distance     root mean square difference and correlation of the pixels of each two pictures
    ink and edges      share of pixels unlike the commonest colour, strength of edges, and their ranks
    single image       all features of one of several pictures
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image as Pillow

from interp.errors import CrosstaskError
from interp.statistics import wilson
from interp.tasks.perception.base import generator
from interp.tasks.perception.items import PerceptionItem

if TYPE_CHECKING:
    import pandas as pd

MARGIN = 0.05
"""A task is refused if a shortcut beats chance by more than this."""
_BINS, _BLUR, _TREES = 8, 8, 60
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)

Matrix: TypeAlias = Float[np.ndarray, "items features"]
Candidate: TypeAlias = tuple[Matrix, Matrix]
"""Features of the training items and of the test items."""


@dataclass(frozen=True)
class Clues:
    """What the shortcuts see of one item; vectors of pictures in their order."""

    name: str
    key: int
    chance: float
    text: str
    numbers: Float[np.ndarray, " numbers"]
    marks: Float[np.ndarray, " marks"]
    blur: list[Float[np.ndarray, " pixels"]]
    colour: list[Float[np.ndarray, " colours"]]
    edges: list[Float[np.ndarray, " edges"]]
    distances: Float[np.ndarray, " pairs"]


def battery(
    items_train: Iterable[PerceptionItem],
    items_test: Iterable[PerceptionItem],
    *,
    again: Callable[[], Iterable[PerceptionItem]] | None = None,
    shortcuts: Sequence[str] = (),
) -> pd.DataFrame:
    """Accuracy of every shortcut that applies to the items of one form of a task.

    Args:
        items_train: what the classifiers learn from; at least 8.
        items_test: what they are scored on.
        again: gives other test items; asked only if a shortcut beats chance by more than `MARGIN`, which luck does
            once in 40 times on 400 items. Such a shortcut is scored on both, and its n says so.
        shortcuts: some of `SHORTCUTS`; all by default.

    Returns:
        One row a shortcut: shortcut, accuracy, chance, n, and low and high of the Wilson interval.

    Raises:
        CrosstaskError: too few items, items without options, items in both sets, or an unknown shortcut.
    """
    import pandas as pd

    unknown = [name for name in shortcuts if name not in SHORTCUTS]
    if unknown:
        raise CrosstaskError(f"There is no shortcut {unknown[0]!r}; expected {', '.join(SHORTCUTS)}.")
    train, test = [clues(item) for item in items_train], [clues(item) for item in items_test]
    if len(train) < 8 or not test:
        raise CrosstaskError(
            f"The shortcuts need 8 training items and a test item or more; got {len(train)} and {len(test)}."
        )
    known = {clue.name for clue in train} & {clue.name for clue in test}
    if known:
        raise CrosstaskError(f"{len(known)} test items are training items too, such as {min(known)!r}.")
    chance = float(np.mean([clue.chance for clue in test]))
    more: list[Clues] = []
    rows = []
    for name in shortcuts or SHORTCUTS:
        right = _right(name, train, test)
        if right is None:
            continue
        if again is not None and _beats(right.mean(), chance):
            more = more or [clues(item) for item in again()]
            right = np.concatenate([right, _right(name, train, more)])
        rate = wilson(int(right.sum()), len(right))
        rows.append((name, rate.value, chance, len(right), rate.low, rate.high))
    return pd.DataFrame(rows, columns=["shortcut", "accuracy", "chance", "n", "low", "high"])


def leaks(table: pd.DataFrame) -> list[str]:
    """The shortcuts of a battery's table that beat chance by more than `MARGIN`."""
    return table[_beats(table["accuracy"], table["chance"])]["shortcut"].tolist()


def clues(item: PerceptionItem) -> Clues:
    """Everything the shortcuts use of an item.

    Raises:
        CrosstaskError: the item has no options.
    """
    if not item.options:
        raise CrosstaskError(f"Item {item.name!r} has no options, so that no shortcut can choose one.")
    pictures = [image.load() for image in item.images]
    pixels = [np.asarray(picture, dtype=np.float32) / 255 for picture in pictures]
    places = [f"at{place}_{word}" for place, option in enumerate(item.options) for word in option.split()]
    question = item.question if item.written is None else item.written
    return Clues(
        name=item.name,
        key=item.key,
        chance=item.chance,
        text=" ".join([question, *places]),
        numbers=_numbers(item.options),
        marks=_mark_features(item.meta.get("marks", ()), item.meta.get("reference")),
        blur=[_blurred(picture) for picture in pictures],
        colour=[_colours(picture) for picture in pixels],
        edges=[_edges(picture) for picture in pixels],
        distances=_distances(pictures, pixels),
    )


# Features of one item


def _numbers(options: Sequence[str]) -> Float[np.ndarray, " numbers"]:
    """Values and ranks of options that are all numbers; else nothing."""
    try:
        values = np.array([float(option) for option in options])
    except ValueError:
        return np.zeros(0)
    return np.concatenate([values, _ranks(values)])


def _mark_features(marks: Sequence[Sequence[float]], reference: Any) -> Float[np.ndarray, " marks"]:
    """Coordinates, sizes of boxes, distances from the middle, from one another and from the reference; their ranks."""
    if not len(marks):
        return np.zeros(0)
    places = np.asarray(marks, dtype=float)
    columns = [places]
    centres = places[:, :2]
    if places.shape[1] == 4:
        sides = places[:, 2:] - places[:, :2]
        centres = places[:, :2] + sides / 2
        columns += [centres, sides, sides.prod(axis=1, keepdims=True)]
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    columns += [np.linalg.norm(centres - 0.5, axis=1, keepdims=True), apart.mean(axis=1, keepdims=True)]
    if reference is not None and len(np.ravel(reference)) >= 2:
        columns.append(np.linalg.norm(centres - np.ravel(reference)[:2], axis=1, keepdims=True))
    table = np.concatenate(columns, axis=1)
    return np.concatenate([table.ravel(), *(_ranks(column) for column in table.T)])


def _blurred(picture: Pillow.Image) -> Float[np.ndarray, " pixels"]:
    small = picture.resize((_BLUR, _BLUR), Pillow.Resampling.BOX)
    return np.asarray(small, dtype=np.float32).ravel() / 255


def _colours(pixels: Float[np.ndarray, "H W 3"]) -> Float[np.ndarray, " colours"]:
    """Mean and standard deviation of each channel, then its histogram."""
    flat = pixels.reshape(-1, 3)
    bins = np.minimum((flat * _BINS).astype(int), _BINS - 1) + _BINS * np.arange(3)
    shares = np.bincount(bins.ravel(), minlength=3 * _BINS) / len(flat)
    return np.concatenate([flat.mean(axis=0), flat.std(axis=0), shares])


def _edges(pixels: Float[np.ndarray, "H W 3"]) -> Float[np.ndarray, " edges"]:
    """Share of ink, mean size of first and second differences, and share of strong edges."""
    coarse = (pixels * 15.99).astype(np.int64) @ np.array([256, 16, 1])
    commonest = np.bincount(coarse.ravel()).argmax()
    grey = pixels @ _LUMINANCE
    across, down = np.diff(grey, axis=1), np.diff(grey, axis=0)
    steps = np.abs(across[:-1]) + np.abs(down[:, :-1])
    bends = np.abs(np.diff(across, axis=1)).mean() + np.abs(np.diff(down, axis=0)).mean()
    return np.array([(coarse != commonest).mean(), steps.mean(), bends, (steps > 0.1).mean(), (grey < 0.5).mean()])


def _distances(
    pictures: Sequence[Pillow.Image], pixels: Sequence[Float[np.ndarray, "H W 3"]]
) -> Float[np.ndarray, " pairs"]:
    """Root mean square difference and 1 - correlation of each two pictures, the second at the size of the first."""
    found = []
    for first, second in combinations(range(len(pictures)), 2):
        a, b = pixels[first], pixels[second]
        if a.shape != b.shape:
            b = np.asarray(pictures[second].resize(pictures[first].size), dtype=np.float32) / 255
        centred = [(x - x.mean()).ravel() for x in (a, b)]
        norm = float(np.linalg.norm(centred[0]) * np.linalg.norm(centred[1]))
        found.append((float(np.sqrt(((a - b) ** 2).mean())), 1 - float(centred[0] @ centred[1]) / (norm + 1e-9)))
    return np.concatenate([_with_ranks(np.array(kind)) for kind in zip(*found, strict=True)]) if found else np.zeros(0)


# Shortcuts: features of all items


def _text(train: Sequence[Clues], test: Sequence[Clues]) -> list[Candidate]:
    from sklearn.feature_extraction.text import CountVectorizer

    words = CountVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), min_df=2, max_features=2000, binary=True)
    try:
        known = words.fit_transform([clue.text for clue in train]).toarray()
    except ValueError:  # no word twice
        return _prior(train, test)
    varied = np.ptp(known, axis=0) > 0  # what every prompt has says nothing
    new = words.transform([clue.text for clue in test]).toarray()
    numbers = _matrices(train, test, lambda clue: clue.numbers)
    sides = [np.concatenate([side[:, varied], more], axis=1) for side, more in zip((known, new), numbers, strict=True)]
    return _some((sides[0], sides[1])) or _prior(train, test)


def _prior(train: Sequence[Clues], test: Sequence[Clues]) -> list[Candidate]:
    return [(np.zeros((len(train), 1)), np.zeros((len(test), 1)))]


def _marks(train: Sequence[Clues], test: Sequence[Clues]) -> list[Candidate]:
    return _some(_matrices(train, test, lambda clue: clue.marks))


def _blur(train: Sequence[Clues], test: Sequence[Clues]) -> list[Candidate]:
    return _some(_matrices(train, test, lambda clue: _joined(clue.blur)))


def _histogram(train: Sequence[Clues], test: Sequence[Clues]) -> list[Candidate]:
    def features(clue: Clues) -> Float[np.ndarray, " features"]:
        return np.concatenate([_joined(clue.colour), _colour_distances(clue.colour)])

    return _some(_matrices(train, test, features))


def _pixel_distance(train: Sequence[Clues], test: Sequence[Clues]) -> list[Candidate]:
    return _some(_matrices(train, test, lambda clue: clue.distances))


def _ink(train: Sequence[Clues], test: Sequence[Clues]) -> list[Candidate]:
    def features(clue: Clues) -> Float[np.ndarray, " features"]:
        table = np.array(clue.edges).reshape(len(clue.edges), -1)
        return np.concatenate([table.ravel(), *(_ranks(column) for column in table.T if len(column) > 1)])

    return _some(_matrices(train, test, features))


def _single(train: Sequence[Clues], test: Sequence[Clues]) -> list[Candidate]:
    most = max(len(clue.blur) for clue in train)
    return [_of_one(train, test, place) for place in range(most)] if most > 1 else []


def _shuffled(train: Sequence[Clues], test: Sequence[Clues]) -> list[Candidate]:
    if not any(clue.blur for clue in train):
        return []
    rng = generator("shuffled images")
    known, new = _matrices(train, test, lambda clue: _joined([*clue.blur, *clue.colour, *clue.edges]))
    return [(known[rng.permutation(len(known))], new[rng.permutation(len(new))])]


SHORTCUTS: dict[str, Callable[[Sequence[Clues], Sequence[Clues]], list[Candidate]]] = {
    "text only": _text,
    "letter prior": _prior,
    "shuffled images": _shuffled,
    "8x8 blur": _blur,
    "mark coordinates": _marks,
    "colour histogram": _histogram,
    "pixel distance": _pixel_distance,
    "ink and edges": _ink,
    "single image": _single,
}
"""Name -> features of training and test items, one candidate or more; none where the shortcut does not apply."""


# Fitting


def _beats(accuracy: Any, chance: Any) -> Any:
    return accuracy > chance + MARGIN + 1e-9


def _right(name: str, train: Sequence[Clues], test: Sequence[Clues]) -> Bool[np.ndarray, " items"] | None:
    """Whether a shortcut answers each test item right; None if it does not apply."""
    candidates = SHORTCUTS[name](train, test)
    return _predict(candidates, _keys(train)) == _keys(test) if candidates else None


def _predict(candidates: Sequence[Candidate], keys: Int[np.ndarray, " items"]) -> Int[np.ndarray, " items"]:
    """Keys of the test items by the candidate and classifier that are best on the second half of the training items."""
    half = len(keys) // 2
    scored = []
    for number, (known, _) in enumerate(candidates):
        for place, make in enumerate((_linear, _forest)):
            model = make().fit(known[:half], keys[:half])
            scored.append((-float(np.mean(model.predict(known[half:]) == keys[half:])), number, place))
    _, number, place = min(scored)
    known, new = candidates[number]
    return (_linear, _forest)[place]().fit(known, keys).predict(new)


def _linear() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200, tol=1e-3))


def _forest() -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(_TREES, min_samples_leaf=3, random_state=0)


def _keys(found: Sequence[Clues]) -> Int[np.ndarray, " items"]:
    return np.array([clue.key for clue in found])


def _matrices(
    train: Sequence[Clues], test: Sequence[Clues], features: Callable[[Clues], Float[np.ndarray, " features"]]
) -> Candidate:
    """Vectors as rows; items with fewer pictures or marks than the largest are filled up with zeros."""
    rows = [features(clue) for clue in (*train, *test)]
    table = np.zeros((len(rows), max(map(len, rows))), dtype=np.float64)
    for place, row in enumerate(rows):
        table[place, : len(row)] = row
    return table[: len(train)], table[len(train) :]


def _of_one(train: Sequence[Clues], test: Sequence[Clues], place: int) -> Candidate:
    def features(clue: Clues) -> Float[np.ndarray, " features"]:
        return _joined([kind[place] for kind in (clue.blur, clue.colour, clue.edges) if place < len(kind)])

    return _matrices(train, test, features)


def _some(candidate: Candidate) -> list[Candidate]:
    """One candidate, or none where there is no feature."""
    return [candidate] if candidate[0].shape[1] else []


def _joined(vectors: Sequence[Float[np.ndarray, " features"]]) -> Float[np.ndarray, " features"]:
    return np.concatenate(vectors) if len(vectors) else np.zeros(0)


def _colour_distances(colours: Sequence[Float[np.ndarray, " colours"]]) -> Float[np.ndarray, " pairs"]:
    """Distances of mean colours and of histograms between each two pictures, with their ranks."""
    pairs = list(combinations(colours, 2))
    if not pairs:
        return np.zeros(0)
    means = np.array([np.linalg.norm(a[:3] - b[:3]) for a, b in pairs])
    histograms = np.array([np.abs(a[6:] - b[6:]).sum() for a, b in pairs])
    return np.concatenate([_with_ranks(means), _with_ranks(histograms)])


def _with_ranks(values: Float[np.ndarray, " values"]) -> Float[np.ndarray, " twice"]:
    return np.concatenate([values, _ranks(values)])


def _ranks(values: Float[np.ndarray, " values"]) -> Float[np.ndarray, " values"]:
    """How many are smaller, ties half; there are few values, and for few this is the fastest way."""
    return np.sign(values[:, None] - values).sum(axis=1) / 2
