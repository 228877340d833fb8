"""Contact sheets: what is on them, and where."""

from __future__ import annotations

import numpy as np
import pytest

from figures.contact_sheet import contact_sheet


def picture(grey: int, side: int = 20) -> np.ndarray:
    return np.full((side, side, 3), grey, np.uint8)


def said(figure: object) -> str:
    return "\n".join(text.get_text() for text in figure.texts)  # type: ignore[attr-defined]


def test_every_item_has_its_pictures_its_prompt_and_its_answer() -> None:
    items = [([picture(10), picture(200)], f"Is it {n}?\n(A) yes\n(B) no", "(B)") for n in range(5)]
    figure = contact_sheet(items, title="Greys", columns=3, heads=["easy", "hard"])
    assert len(figure.axes) == 5
    shown = np.asarray(figure.axes[0].images[0].get_array())
    assert (shown[:, :20] == 10).all()
    assert (shown[:, -20:] == 200).all()
    assert (shown[:, 20:-20] == 255).all()
    text = said(figure)
    assert all(f"Is it {n}?" in text for n in range(5))
    assert text.count("-> (B)") == 5
    assert {"Greys", "easy", "hard"} <= set(text.split("\n"))


def test_items_stand_in_rows_and_do_not_overlap() -> None:
    figure = contact_sheet([([picture(n)], "?", "(A)") for n in range(4)], columns=2)
    boxes = [axes.get_position() for axes in figure.axes]
    assert boxes[0].y0 == pytest.approx(boxes[1].y0)
    assert boxes[0].x1 < boxes[1].x0
    assert boxes[2].y1 < boxes[0].y0
    assert all(box.x0 >= 0 and box.x1 <= 1 and box.y0 >= 0 and box.y1 <= 1 for box in boxes)


def test_long_lines_are_broken_and_dollars_are_no_formulas() -> None:
    text = said(contact_sheet([([picture(0)], "word " * 40 + "$x$", "(A)")], columns=1))
    assert max(map(len, text.split("\n"))) < 60
    assert r"\$x\$" in text


def test_pictures_of_different_sizes_share_a_strip() -> None:
    figure = contact_sheet([([picture(0, 20), picture(9, 10)], "?", "(A)")])
    shown = np.asarray(figure.axes[0].images[0].get_array())
    assert shown.shape == (20, 34, 3)
    assert (shown[5:15, 24:] == 9).all()


def test_a_sheet_of_nothing_and_wrong_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="no items"):
        contact_sheet([])
    with pytest.raises(ValueError, match="2 heads for 1 rows"):
        contact_sheet([([picture(0)], "?", "(A)")], heads=["a", "b"])
