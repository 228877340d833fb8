"""One prompt from the inside, to click through: tokens with their roles, a map of layers by tokens, a table per token.

The view is a piece of HTML with its own script and style and no address in it, so that it stands in a report, in a
notebook (`framed`) or alone (`figures.page.page`). Tokens and map are one tab stop each, and arrow keys go through
them; where no script runs, and on paper, the prompt and the table of its last delimiter are there. Pure: takes the
tables of `interp.protocol.inside.Inside`.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from figures.page import data_uri

FIT = """
try {
  const fit = () => { frameElement.style.height = document.documentElement.scrollHeight + 4 + "px"; };
  new ResizeObserver(fit).observe(document.body);
} catch (error) { /* a frame that may not see its page keeps its height */ }
"""

ROLES = {
    "bos": "beginning of sequence",
    "turn": "chat template",
    "instruction": "instruction",
    "input": "input",
    "output": "output",
    "frame": "template",
}

STYLE = """
.prompt-view { font: 14px/1.45 system-ui, sans-serif; color: #1d1d1f; background: #fff; padding: .2rem; }
.prompt-view .tokens { line-height: 2; max-width: 75rem; }
.prompt-view button { font: 13px ui-monospace, monospace; border: 1px solid transparent; border-radius: 3px;
  margin: 1px; padding: 1px 3px; cursor: pointer; color: inherit; }
.prompt-view .bos, .prompt-view .turn { background: #eee; } .prompt-view .frame { background: #f4f4f4; color: #666; }
.prompt-view .instruction { background: #d9efe6; } .prompt-view .input { background: #dcebf5; }
.prompt-view .output { background: #fbe5d3; } .prompt-view .delimiter { border-color: #444; font-weight: 700; }
.prompt-view .chosen { outline: 2px solid #b00052; }
.prompt-view :focus-visible { outline: 3px solid #0b57d0; outline-offset: 1px; }
.prompt-view .patches { display: inline-grid; grid-auto-flow: row; gap: 1px; vertical-align: middle; margin: 2px; }
.prompt-view .patches button { width: 15px; height: 15px; margin: 0; padding: 0; border-radius: 0; background: none;
  border-color: rgba(255, 255, 255, .55); }
.prompt-view .picture { display: inline-block; vertical-align: middle; margin: 2px 4px; background-size: 100% 100%; }
.prompt-view .key span { padding: 1px 5px; margin-right: .5rem; border-radius: 3px; border: 1px solid transparent; }
.prompt-view .key .delimiter { border-color: #444; }
.prompt-view .scroll { overflow-x: auto; } .prompt-view canvas { cursor: crosshair; display: block; }
.prompt-view .note { color: #555; font-size: 12.5px; max-width: 60rem; margin: .3rem 0; }
.prompt-view .scale { display: inline-block; width: 120px; height: 10px; margin: 0 .4rem; border: 1px solid #ccc; }
.prompt-view table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
.prompt-view caption { text-align: left; font-weight: 700; padding: .4rem 0; }
.prompt-view .said, .prompt-view .hovered { min-height: 1.5em; font-variant-numeric: tabular-nums; }
.prompt-view th, .prompt-view td { padding: 1px 8px; border-bottom: 1px solid #eee; text-align: left;
  white-space: nowrap; }
.prompt-view td.number { text-align: right; } .prompt-view td code { background: none; font-size: 12.5px; }
.prompt-view td small { color: #595959; } .prompt-view tr.marked td { background: #fbeef4; }
@media print {
  .prompt-view { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  .prompt-view .scroll { overflow: visible; } .prompt-view canvas { max-width: 100%; height: auto !important; }
  .prompt-view .for-screen { display: none; } .prompt-view tr { break-inside: avoid; }
}
"""

SCRIPT = r"""
(function () {
  const view = document.currentScript.parentElement, find = name => view.querySelector(name);
  const data = JSON.parse(find("script[type='application/json']").textContent);
  const n = data.tokens.length, layers = data.layers, cell = 13, left = 34, foot = 74;
  const shown = text => text.replace(/\n/g, "\u23ce").replace(/ /g, "\u00b7");
  const name = at => data.tokens[at].image === null ? shown(data.tokens[at].text) : "image";
  function what(at) {
    const token = data.tokens[at], whose = token.example === null ? "" : ", example " + (token.example + 1);
    return data.roles[token.role] + whose + (token.delimiter ? ", delimiter" : "");
  }
  const measures = {
    lens_answer: {title: "lens: p(" + shown(data.answer) + ")", low: 0, text: v => v.toFixed(3)},
    certainty: {title: "lens: p of the likeliest token", low: 0, text: v => v.toFixed(3)},
  };
  if (data.cells.gain) measures.gain = {
    title: "patch effect: gain in log p(" + shown(data.answer) + "), nats", low: null,
    text: v => (v < 0 ? "\u2212" : "+") + Math.abs(v).toFixed(2)};
  const values = {...data.cells, certainty: data.lens.map(row => row[0][1])};
  let chosen = data.start, measure = data.cells.gain ? "gain" : "lens_answer", marked = strongest(chosen);
  function strongest(at) {
    const column = values[measure].slice(at * layers, (at + 1) * layers);
    return column.indexOf(Math.max(...column));
  }

  function element(tag, text, className) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }
  // The prompt, token by token.
  const buttons = [], strip = find(".tokens");
  let grid = null, drawn = null;
  strip.replaceChildren();
  data.tokens.forEach((token, at) => {
    const button = element("button", token.image === null ? shown(token.text) : "", token.role);
    if (token.delimiter) button.classList.add("delimiter");
    button.type = "button";
    button.title = "token " + at + ": " + what(at);
    button.setAttribute("aria-label", "token " + at + ", " + name(at) + ", " + what(at));
    button.tabIndex = -1;
    button.onclick = () => choose(at);
    buttons.push(button);
    if (token.image === null) {
      strip.append(button);
      if (token.text.includes("\n") && data.tokens[at + 1]?.text !== "\n") strip.append(element("br"));
      drawn = null;
      return;
    }
    if (token.image !== drawn) {
      drawn = token.image;
      const count = data.tokens.filter(other => other.image === token.image).length;
      const side = Math.ceil(Math.sqrt(count));
      const picture = element("span", undefined, "picture");
      picture.setAttribute("role", "group");
      picture.setAttribute("aria-label", "image " + (token.image + 1) + ", " + count + " tokens");
      if (data.pictures[token.image]) picture.style.backgroundImage = "url(" + data.pictures[token.image] + ")";
      grid = element("span", undefined, "patches");
      grid.style.gridTemplateColumns = "repeat(" + side + ", 15px)";
      picture.append(grid);
      strip.append(picture);
    }
    button.className = "";
    grid.append(button);
  });
  // The map: layers from bottom to top, tokens from left to right.
  const canvas = find("canvas"), width = left + n * cell, height = layers * cell + foot;
  const dots = window.devicePixelRatio || 1, pen = canvas.getContext("2d");
  canvas.width = width * dots; canvas.height = height * dots;
  canvas.style.width = width + "px"; canvas.style.height = height + "px";
  pen.scale(dots, dots);
  const top = layer => (layers - 1 - layer) * cell;
  function limits() {
    const all = values[measure], high = Math.max(...all.map(Math.abs), 1e-9);
    return [measures[measure].low === null ? -high : 0, high];
  }
  function colour(value, high) {
    const share = value / high, ends = share < 0 ? [0, 114, 178] : [213, 94, 0];
    const weight = Math.min(1, Math.abs(share));
    return "rgb(" + ends.map(part => Math.round(247 + (part - 247) * weight)).join(",") + ")";
  }
  function draw() {
    const range = limits();
    pen.clearRect(0, 0, width, height);
    pen.font = "10px ui-monospace, monospace";
    for (let layer = 0; layer < layers; layer++) {
      for (let at = 0; at < n; at++) {
        pen.fillStyle = colour(values[measure][at * layers + layer], range[1]);
        pen.fillRect(left + at * cell, top(layer), cell - 1, cell - 1);
      }
      pen.fillStyle = "#444";
      const labelled = layer === layers - 1 || (layer % 5 === 0 && layer < layers - 2);
      if (labelled) pen.fillText(String(layer).padStart(3), 8, top(layer) + 10);
    }
    for (let at = 0; at < n; at++) {
      pen.save();
      pen.translate(left + at * cell + 9, layers * cell + 4);
      pen.rotate(Math.PI / 2);
      pen.textBaseline = "middle";
      pen.fillStyle = at === chosen ? "#b00052" : data.tokens[at].delimiter ? "#000" : "#666";
      pen.fillText(name(at).slice(0, 11), 0, 3);
      pen.restore();
    }
    pen.strokeStyle = "#b00052";
    pen.strokeRect(left + chosen * cell - .5, -.5, cell, layers * cell);
    pen.strokeRect(left - .5, top(marked) - .5, n * cell, cell);
    const stops = [0, .25, .5, .75, 1].map(part => colour(range[0] + part * (range[1] - range[0]), range[1]));
    find(".scale").style.background = "linear-gradient(to right, " + stops.join(", ") + ")";
    find(".low").textContent = measures[measure].text(range[0]);
    find(".high").textContent = measures[measure].text(range[1]);
  }
  function place(event) {
    const box = canvas.getBoundingClientRect();
    const at = Math.floor((event.clientX - box.left - left) / cell);
    const layer = layers - 1 - Math.floor((event.clientY - box.top) / cell);
    return at >= 0 && at < n && layer >= 0 && layer < layers ? [at, layer] : null;
  }
  function describe(at, layer) {
    const lens = data.lens[at * layers + layer].slice(0, 3).map(([i, p]) => shown(data.words[i]) + " " + p.toFixed(2));
    const said = ["token " + at + " " + name(at), "layer " + layer, "lens: " + lens.join("  ")];
    if (data.cells.gain) {
      const i = at * layers + layer, gain = measures.gain.text(data.cells.gain[i]);
      said.push("patched: " + gain + " nats, says " + shown(data.words[data.says[i]]));
    }
    return said.join("   \u2502   ");
  }
  canvas.onmousemove = event => { const at = place(event); if (at) find(".hovered").textContent = describe(...at); };
  canvas.onmouseleave = () => { find(".hovered").textContent = ""; };
  canvas.onclick = event => { const at = place(event); if (at) { marked = at[1]; choose(at[0]); } };
  // The table of one token.
  function fill() {
    const body = find("tbody");
    body.replaceChildren();
    for (let layer = layers - 1; layer >= 0; layer--) {
      const row = element("tr", undefined, layer === marked ? "marked" : ""), i = chosen * layers + layer;
      row.append(element("td", layer, "number"));
      data.lens[i].forEach(([word, p]) => {
        const td = element("td");
        td.append(element("code", shown(data.words[word])), " ", element("small", p.toFixed(2)));
        td.style.background = "linear-gradient(to right, #dcebf5 " + 100 * p + "%, transparent 0)";
        row.append(td);
      });
      if (data.cells.gain) {
        const gain = element("td", measures.gain.text(data.cells.gain[i]), "number"), says = element("td");
        gain.style.background = colour(data.cells.gain[i], Math.max(...data.cells.gain.map(Math.abs), 1e-9));
        says.append(element("code", shown(data.words[data.says[i]])));
        row.append(gain, says);
        if (data.controls) row.append(element("td", measures.gain.text(data.controls[layer]), "number"));
      }
      body.append(row);
    }
    find(".which").textContent = "Token " + chosen + " of " + n + ": " + name(chosen) + " (" + what(chosen) + ")";
  }
  function choose(at) {
    const old = buttons[chosen];
    chosen = Math.max(0, Math.min(n - 1, at));
    old.classList.remove("chosen");
    old.tabIndex = -1;
    old.removeAttribute("aria-current");
    buttons[chosen].classList.add("chosen");
    buttons[chosen].tabIndex = 0;
    buttons[chosen].setAttribute("aria-current", "true");
    draw(); fill();
    const said = describe(chosen, marked);
    find(".said").textContent = said;
    canvas.setAttribute("aria-label", "map of layers by tokens; chosen: " + said);
  }
  function key(event, change) {
    event.preventDefault();
    const inStrip = strip.contains(document.activeElement);
    change();
    if (inStrip) buttons[chosen].focus();
  }
  // Left and right go through the tokens, up and down through the layers, Home and End to the ends of the prompt.
  const keys = {
    ArrowLeft: () => choose(chosen - 1), ArrowRight: () => choose(chosen + 1),
    ArrowUp: () => { marked = Math.min(layers - 1, marked + 1); choose(chosen); },
    ArrowDown: () => { marked = Math.max(0, marked - 1); choose(chosen); },
    Home: () => choose(0), End: () => choose(n - 1),
  };
  [strip, canvas].forEach(part => part.addEventListener("keydown", event => {
    if (keys[event.key] && !event.ctrlKey && !event.metaKey && !event.altKey) key(event, keys[event.key]);
  }));
  const menu = find("select");
  Object.entries(measures).forEach(([key, {title}]) => {
    const option = element("option", title);
    option.value = key; option.selected = key === measure;
    menu.append(option);
  });
  menu.onchange = () => { measure = menu.value; draw(); };
  choose(chosen);
})();
"""


def prompt_view(
    tokens: pd.DataFrame,
    lens: pd.DataFrame,
    effects: pd.DataFrame,
    controls: pd.DataFrame | None = None,
    *,
    answer: str,
    pictures: Sequence[bytes] = (),
) -> str:
    """The view of one prompt.

    Args:
        tokens: columns position, text, role, example, image, delimiter; one row per token.
        lens: columns position, layer, rank, token, probability.
        effects: columns position, layer, lens_answer and, where states were patched into a query, gain and says.
        controls: columns layer, gain: of a random vector; shown beside the gains.
        answer: whose probability the map shows.
        pictures: the prompt's images in reading order as PNG bytes.

    Returns:
        HTML that refers to nothing outside itself.
    """
    words: dict[str, int] = {}

    def word(text: str) -> int:
        return words.setdefault(text, len(words))

    ordered = effects.sort_values(["position", "layer"])
    ranked = lens.sort_values(["position", "layer", "rank"])
    patched = "gain" in effects.columns
    numbers = ["lens_answer", *(["gain"] if patched else [])]
    start = tokens.loc[tokens["delimiter"], "position"]
    data: dict[str, Any] = {
        "answer": answer,
        "layers": int(lens["layer"].max()) + 1,
        "roles": ROLES,
        "start": int(start.iloc[-1]) if len(start) else len(tokens) - 1,
        "tokens": [
            {
                "text": row.text,
                "role": row.role,
                "delimiter": bool(row.delimiter),
                "example": None if pd.isna(row.example) else int(row.example),
                "image": None if pd.isna(row.image) else int(row.image),
            }
            for row in tokens.sort_values("position").itertuples()
        ],
        "lens": [
            [[word(row.token), round(row.probability, 4)] for row in group.itertuples()]
            for _, group in ranked.groupby(["position", "layer"])
        ],
        "cells": {name: [round(value, 4) for value in ordered[name]] for name in numbers},
        "says": [word(text) for text in ordered["says"]] if patched else None,
        "controls": None if controls is None else [round(v, 4) for v in controls.sort_values("layer")["gain"]],
        "pictures": [data_uri(picture) for picture in pictures],
        "words": list(words),
    }
    start_at = int(data["start"])
    head = ["layer", *(f"lens {rank + 1}" for rank in range(int(lens["rank"].max()) + 1))]
    head += ["patch effect", "says", *(["random vector"] if controls is not None else [])] if patched else []
    key = "".join(f"<span class='{role}'>{ROLES[role]}</span>" for role in dict.fromkeys(tokens["role"]))
    stored = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    return f"""<div class="prompt-view">
<style>{STYLE}</style>
<p class="key">{key}<span class="delimiter">delimiter</span></p>
<div class="tokens" role="group" aria-label="tokens of the prompt"><code>{escape(_whole(data["tokens"]))}</code></div>
<p class="note for-screen">Click a token, or a cell of the map. Arrow keys: left and right go through the tokens, up and
down through the layers, Home and End to the ends.</p>
<p><select aria-label="what the map shows"></select>
<span class="low"></span><span class="scale"></span><span class="high"></span></p>
<div class="scroll"><canvas tabindex="0" role="img" aria-label="map of layers by tokens"></canvas></div>
<p class="note said" aria-live="polite"></p>
<p class="note hovered for-screen" aria-hidden="true"></p>
<div class="scroll"><table><caption class="which">{escape(_which(data, start_at))}</caption>
<thead><tr>{"".join(f"<th scope='col'>{escape(name)}</th>" for name in head)}</tr></thead>
<tbody>{_rows(data, start_at)}</tbody></table></div>
<noscript><p class="note">The map, and the tables of the other tokens, need JavaScript.</p></noscript>
<script type="application/json">{stored}</script>
<script>{SCRIPT}</script>
</div>
"""


def _whole(tokens: Sequence[Mapping[str, Any]]) -> str:
    """The prompt as text, an image as one word."""
    parts, image = [], None
    for token in tokens:
        if token["image"] is None:
            parts.append(token["text"].replace("\n", "⏎"))
        elif token["image"] != image:
            parts.append(f"[image {token['image'] + 1}]")
        image = token["image"]
    return "".join(parts)


def _which(data: Mapping[str, Any], at: int) -> str:
    text = data["tokens"][at]["text"].replace("\n", "⏎")
    return f"Token {at} of {len(data['tokens'])}: {text}"


def _rows(data: Mapping[str, Any], at: int) -> str:
    """The table of one token, last layer first: what the script writes for any."""
    rows, words = [], data["words"]
    for layer in reversed(range(data["layers"])):
        index = at * data["layers"] + layer
        cells = [f"<code>{escape(words[word])}</code> <small>{p:.2f}</small>" for word, p in data["lens"][index]]
        if data["says"] is not None:
            cells += [f"{data['cells']['gain'][index]:+.2f}", f"<code>{escape(words[data['says'][index]])}</code>"]
            cells += [] if data["controls"] is None else [f"{data['controls'][layer]:+.2f}"]
        rows.append(f"<tr><td>{layer}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return "".join(rows)


def framed(html: str, *, height: int = 900) -> str:
    """A piece of HTML in a frame of its own, for a notebook: neither side's style or script reaches the other.

    Args:
        html: what stands in the frame.
        height: pixels, until the frame has fitted itself to what it holds, or for good where it may not.
    """
    document = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>one prompt from the inside</title>'
        f'<body style="margin: 0">{html}<script>{FIT}</script></body></html>'
    )
    style = f"width: 100%; height: {height}px; border: 1px solid #ddd"
    return (
        f'<div><iframe title="one prompt from the inside" style="{style}" srcdoc="{escape(document)}"></iframe></div>'
    )
