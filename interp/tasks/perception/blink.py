"""BLINK (Fu et al. 2024, arXiv 2404.12390) as it is published: 14 tasks of multiple-choice questions about pictures.

A row has idx, question, sub_task, image_1 to image_4, choices, answer ("(A)") and prompt. The prompt is asked as it was
published; cyclic shifts of the options are made from question and choices. Keys of the published test split are hidden
(answer "hidden"), so that results are reported on val.

Where the data are: a hub id, or a folder with one folder a task, as the hub's own are:

    BLINK/Relative_Depth/val-00000-of-00001.parquet      or      BLINK/Relative_Depth/val.jsonl with image files
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from PIL import Image as Pillow

from interp.errors import CrosstaskError
from interp.images import Image
from interp.tasks.perception.items import LETTERS, PerceptionItem
from interp.tasks.perception.rows import Row, read_rows

HUB_ID = "BLINK-Benchmark/BLINK"
CONFIGS = {
    "VS": "Visual_Similarity",
    "AS": "Art_Style",
    "VC": "Visual_Correspondence",
    "RD": "Relative_Depth",
    "RR": "Relative_Reflectance",
    "SR": "Spatial_Relation",
    "JG": "Jigsaw",
    "CN": "Counting",
    "FC": "Functional_Correspondence",
    "SC": "Semantic_Correspondence",
    "MR": "Multi-view_Reasoning",
    "OL": "Object_Localization",
    "FD": "Forensic_Detection",
    "IQ": "IQ_Test",
}
"""Abbreviation -> name of the configuration; IQ_Test is the one that the transfer paper leaves out."""
DISCLAIMED = frozenset({"Forensic_Detection", "Jigsaw", "Art_Style"})
"""Tasks before whose prompts BLINK's own evaluation puts a disclaimer; its words are the user's to give."""
MARGIN = 10
"""Pixels between pictures that are joined for models of one picture."""

BlinkSplit = Literal["val", "test"]
_IMAGES = tuple(f"image_{number}" for number in range(1, 5))


def config_of(name: str) -> str:
    """A configuration by its name or abbreviation, however it is spelt.

    Raises:
        CrosstaskError: there is none.
    """
    spelt = re.sub(r"[^a-z]", "", name.lower())
    for short, config in CONFIGS.items():
        if spelt in (short.lower(), re.sub(r"[^a-z]", "", config.lower())):
            return config
    raise CrosstaskError(f"BLINK has no task {name!r}; expected one of {', '.join(CONFIGS.values())}.")


def read_blink(
    config: str,
    source: Path | str = HUB_ID,
    *,
    split: BlinkSplit = "val",
    disclaimer: str = "",
    joined: bool = False,
    hidden: Literal["refuse", "keep"] = "refuse",
) -> list[PerceptionItem]:
    """The items of one task.

    Args:
        config: its name or abbreviation.
        source: a local folder, or a hub id, of which the task's files are downloaded to the hub's cache.
        split: the published split.
        disclaimer: words to put before the prompts of Forensic_Detection, Jigsaw and Art_Style, as BLINK's own
            evaluation does; none by default.
        joined: one picture in place of several: side by side on black, 10 pixels apart, as BLINK asks models that
            take a single picture.
        hidden: what happens if the keys are hidden. "keep" gives items for predictions that are sent to the
            benchmark's server: their key 0 means nothing, and meta["hidden"] is True.

    Raises:
        CrosstaskError: no such task, split, folder or dataset, a row that is not of BLINK, or hidden keys.
    """
    config = config_of(config)
    if split not in get_args(BlinkSplit):
        raise CrosstaskError(f"BLINK has no split {split!r}; expected val or test.")
    rows = [row for path in _files(config, source, split) for row in read_rows(path)]
    if hidden == "refuse" and any(row.values.get("answer") == "hidden" for row in rows):
        raise CrosstaskError(
            f"The keys of BLINK's {split} split are hidden, so that no score can be made here: score val, or read it "
            'with hidden="keep" and send the predictions to the benchmark\'s server.'
        )
    items = [_item(row, config, split, disclaimer if config in DISCLAIMED else "") for row in rows]
    return [_join(item) for item in items] if joined else items


def side_by_side(images: Sequence[Image], *, margin: int = MARGIN) -> Image:
    """Pictures in one row on black, centred vertically."""
    pictures = [image.load() for image in images]
    height = max(picture.height for picture in pictures)
    whole = Pillow.new("RGB", (sum(picture.width for picture in pictures) + margin * (len(pictures) - 1), height))
    left = 0
    for picture in pictures:
        whole.paste(picture, (left, (height - picture.height) // 2))
        left += picture.width + margin
    return Image(pixels=whole)


def _join(item: PerceptionItem) -> PerceptionItem:
    return replace(item, images=(side_by_side(item.images),)) if len(item.images) > 1 else item


def _item(row: Row, config: str, split: str, disclaimer: str) -> PerceptionItem:
    images = tuple(row.picture(row.values[key]) for key in _IMAGES if row.values.get(key))
    if not images:
        raise CrosstaskError(f"{row.where}: there is no picture; expected image_1 to image_4.")
    options = tuple(row.texts("choices"))
    answer = row.text("answer").strip()
    letters = [f"({letter})" for letter in LETTERS[: len(options)]]
    concealed = answer == "hidden"
    if not concealed and answer not in letters:
        raise CrosstaskError(f"{row.where}: the answer {answer!r} is none of {', '.join(letters)}.")
    return PerceptionItem(
        name=f"blink/{row.text('idx')}",
        task=config.lower().replace("-", "_"),
        images=images,
        question=disclaimer + row.text("question"),
        options=options,
        key=0 if concealed else letters.index(answer),
        meta={"config": config, "split": split, "hidden": concealed},
        written=disclaimer + row.text("prompt"),
    )


def _files(config: str, source: Path | str, split: str) -> list[Path]:
    """The files of a split; one, unless the hub divided it."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        folder = _downloaded(config, str(source))
    for place in (folder / config, folder):
        for suffix in ("parquet", "jsonl", "json"):
            found = sorted([*place.glob(f"{split}-*.{suffix}"), *place.glob(f"{split}.{suffix}")])
            if found:
                return found
    raise CrosstaskError(
        f"{folder} has no {split} split of {config}; expected {config}/{split}-*.parquet or {config}/{split}.jsonl."
    )


def _downloaded(config: str, hub_id: str) -> Path:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", hub_id):
        raise CrosstaskError(f"There is no folder {hub_id!r}, and it is no hub id such as {HUB_ID!r} either.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, repo_type="dataset", allow_patterns=[f"{config}/*"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CrosstaskError(
            f"{config} of the dataset {hub_id} cannot be downloaded ({reason}): give a local folder that holds it."
        ) from error
