"""A self-contained HTML page: paragraphs, figures, tables, folded details.

Nothing in a page refers to another file or to the network, so that it can be mailed.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from numbers import Integral, Real

import pandas as pd

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1d1d1f; background: #fff; max-width: 1240px; margin: 2rem auto;
       padding: 0 1.2rem; }
h1 { font-size: 1.7rem; margin-bottom: .3rem; } h2 { margin-top: 2.6rem; font-size: 1.25rem; }
p, li { max-width: 78ch; } figure { margin: 1rem 0; } figure img { max-width: 100%; height: auto; }
figcaption, .note { color: #555; font-size: .88rem; max-width: 90ch; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; margin: .6rem 0; }
th, td { padding: .22rem .5rem; text-align: right; border-bottom: 1px solid #e6e6e6; white-space: nowrap; }
th { font-weight: 600; vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
.arms td:first-child { white-space: normal; min-width: 17rem; }
tr.group td { border-top: 2px solid #bbb; } small { color: #666; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: 1rem; }
.card { border: 1px solid #ddd; border-radius: 8px; padding: .8rem; }
.card img { width: 96px; height: 96px; object-fit: contain; float: right; margin-left: .8rem; }
.card table { width: 100%; clear: both; table-layout: fixed; }
.card td { white-space: normal; overflow-wrap: anywhere; text-align: left; vertical-align: top; }
.right { color: #00633f; font-weight: 600; } .wrong { color: #6b6b6b; }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: .8rem; }
"""


@dataclass(frozen=True)
class Section:
    """A heading with what stands under it, in this order.

    Attributes:
        heading: of the section.
        paragraphs: plain text.
        figures: PNG bytes and caption of each.
        tables: table and note of each.
        html: finished HTML, last.
    """

    heading: str
    paragraphs: Sequence[str] = ()
    figures: Sequence[tuple[bytes, str]] = ()
    tables: Sequence[tuple[pd.DataFrame, str]] = ()
    html: Sequence[str] = ()

    @property
    def has_content(self) -> bool:
        return any((self.paragraphs, self.figures, self.tables, self.html))

    def __str__(self) -> str:
        return "\n".join(
            [
                f"<h2>{escape(self.heading)}</h2>",
                *(f"<p>{escape(text)}</p>" for text in self.paragraphs),
                *(figure(png, caption) for png, caption in self.figures),
                *(table_with_note(table, note) for table, note in self.tables),
                *self.html,
            ]
        )


def page(title: str, lead: Sequence[str], sections: Sequence[Section], details: Mapping[str, str]) -> str:
    """A complete HTML document.

    Args:
        title: heading of the page.
        lead: first paragraphs: the question, what was run on how much.
        sections: the body.
        details: heading -> text of the folded sections at the end.
    """
    folded = [
        f"<details><summary>{escape(h)}</summary><pre>{escape(text)}</pre></details>" for h, text in details.items()
    ]
    parts = [*(f"<p>{escape(text)}</p>" for text in lead), *map(str, sections), "<h2>How it was run</h2>", *folded]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    body = f"<h1>{escape(title)}</h1>\n" + "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'
    )


def figure(png: bytes, caption: str) -> str:
    """A picture with its caption, at half its pixels, which is sharp on any screen."""
    width = int.from_bytes(png[16:20], "big") // 2  # where a PNG says its width
    image = f'<img alt="{escape(caption)}" width="{width}" src="{data_uri(png)}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def data_uri(png: bytes) -> str:
    """A PNG as the address of an image."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def table_with_note(table: pd.DataFrame, note: str = "") -> str:
    """A table as it is: text to the left, numbers to the right, with two decimals unless they are whole or tiny."""
    numeric = [pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes]
    classes = ["" if number else ' class="text"' for number in numeric]
    names = (str(name).replace("_", " ") for name in table.columns)
    head = "".join(f"<th{c}>{escape(name)}</th>" for c, name in zip(classes, names, strict=True))
    rows = (
        "".join(f"<td{c}>{escape(cell(value))}</td>" for c, value in zip(classes, row, strict=True))
        for row in table.itertuples(index=False, name=None)
    )
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    below = f"<p class='note'>{escape(note)}</p>" if note else ""
    return f"<div class='scroll'><table><tr>{head}</tr>{body}</table></div>{below}"


def cell(value: object) -> str:
    """A value as it is read: .12, 1.3e-05, 12, text; nothing for what is missing."""
    if value is None or (not isinstance(value, str) and pd.isna(value)):
        return ""
    if isinstance(value, str | bool | Integral) or not isinstance(value, Real):
        return str(value)
    number = float(value)
    if number and abs(number) < 0.005:
        return f"{number:.1e}"
    shown = f"{number:,.2f}"
    return shown.replace("0.", ".", 1) if shown.lstrip("-").startswith("0.") else shown
