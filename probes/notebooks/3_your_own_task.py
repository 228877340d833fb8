# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Bring your own task
#
# A task is a table: what is asked about, what is right, and, if it is to be asked of pictures, where the picture is.
# Here we make one (the continent of a country, with its flag), have it checked, find out whether the model can do it at
# all, read its task vector, and score a patch against everything that could explain it away.
#
# ## The table

# %%
# %matplotlib inline
import csv
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

import interp
from interp.tasks import load_task

CONTINENTS = {
    "Africa": "Algeria Angola Botswana Egypt Ethiopia Ghana Kenya Madagascar Malawi Mali Morocco Nigeria Senegal",
    "Asia": "China India Indonesia Iran Iraq Japan Jordan Kuwait Malaysia Mongolia Nepal Pakistan Thailand Vietnam",
    "Europe": "Albania Austria Belgium Bulgaria Croatia Denmark Finland France Germany Greece Hungary Italy Norway",
    "South America": "Argentina Bolivia Brazil Chile Colombia Ecuador Guyana Paraguay Peru Suriname Uruguay Venezuela",
}
flags = {item.input: item.image for item in load_task("country-capital").items}

folder = Path(tempfile.mkdtemp()) / "country-continent"
folder.mkdir()
with (folder / "items.csv").open("w", newline="") as file:
    table = csv.writer(file)
    table.writerow(["input", "output", "image"])
    for continent, countries in CONTINENTS.items():
        for country in filter(flags.__contains__, countries.split()):
            (folder / flags[country].name).write_bytes(flags[country].read_bytes())
            table.writerow([country, continent, flags[country].name])
(folder / "instruction.txt").write_text("The continent of the country:")

pd.read_csv(folder / "items.csv").sample(6, random_state=0)

# %% [markdown]
# ## Checked before anything runs
#
# `load_task` reads the folder and refuses what cannot be right, with the line that is wrong. It also divides the items:
# those of the *selection* split give demonstrations, vectors and layers, and only *test* items are scored.

# %%
task = load_task(folder)
pd.Series([item.split for item in task.items]).value_counts().to_frame("items")

# %%
bad = folder.parent / "bad"
bad.mkdir()
(bad / "items.csv").write_text("input,output,image\nNorway,Europe,norway.png\n")
try:
    load_task(bad)
except interp.CrosstaskError as error:
    print(str(error).replace(str(folder.parent), "..."))

# %% [markdown]
# ## Can the model do it at all?
#
# If the model cannot do the task with examples as text and a text query, no vector will help. Five examples and a
# query, for every test item, and what always saying the commonest answer would give.

# %%
from interp.protocol.contexts import draw, query_prompt, source_prompts
from interp.scoring import majority_baseline, score
from interp.statistics import wilson

model = interp.load_model("bundled")
template = interp.Template.parse("Q: {x}\nA: {y}\n\n")
test, selection = task.split("test"), task.split("selection")
contexts = draw(selection, shots=5, contexts=6, seed=0, task=task.name)


def ask(modality: str, source: str = "") -> list[interp.Prompt]:
    """Every test item as a query, bare or after the first context's examples."""
    return [
        query_prompt(model, task, item, modality, source=source, context=contexts[0], template=template)
        for item in test
    ]


def count(answers: list, items=test) -> int:
    """How many answers are right."""
    return sum(score(a.text, a.first_token, i.outputs).exact for a, i in zip(answers, items, strict=True))


n = len(test)
_, majority = majority_baseline([item.outputs for item in selection], [item.outputs for item in test])
results = {("majority answer", "any"): sum(majority)}
for modality in ("text", "image"):
    results["no context", modality] = count(interp.generate(model, ask(modality), max_new_tokens=6))
    results["examples as a prompt", modality] = count(interp.generate(model, ask(modality, "text"), max_new_tokens=6))
print(f"majority answer: {results['majority answer', 'any']} of {n}")
print(f"prompt, text queries: {results['examples as a prompt', 'text']} of {n}")

# %% [markdown]
# ## Its task vector
#
# One vector from each of six contexts (five examples and a dummy query), and their mean. The layer is chosen on
# selection items: every layer is tried on queries that are in none of the examples of the vector it is patched with,
# hence the leak mask of `mean`.

# %%
from interp.vectors import mean

prompts = source_prompts(model, task, "text", contexts, template=template)
states = interp.extract(model, prompts)  # [contexts, L, D]
shown = [context.items for context in contexts]
curves = {}
for modality in ("text", "image"):
    free = [item for item in selection if any(item.input not in names for names in shown)]
    queries = [
        query_prompt(model, task, item, modality, source="", context=contexts[0], template=template) for item in free
    ]
    rows = [
        [interp.RowPatch(layer, vector) for layer, vector in enumerate(mean(states, items=shown, exclude=item.input))]
        for item in free
    ]
    answers = interp.sweep(model, queries, rows, max_new_tokens=5)
    curves[modality] = [count([row[layer] for row in answers], free) for layer in range(model.n_layers)]
layers = {modality: max(range(model.n_layers), key=lambda k: (curve[k], -k)) for modality, curve in curves.items()}

figure, ax = plt.subplots(figsize=(7.5, 3), layout="constrained")
for (modality, curve), colour in zip(curves.items(), ("#0072B2", "#D55E00"), strict=True):
    bounds = [wilson(k, len(free)) for k in curve]
    ax.fill_between(range(len(curve)), [b.low for b in bounds], [b.high for b in bounds], color=colour, alpha=0.15)
    ax.plot([b.value for b in bounds], color=colour, label=f"{modality} queries")
    ax.axvline(layers[modality], color=colour, linestyle="--", linewidth=0.9)
ax.set(xlabel="patched layer", ylabel="exact match", title=f"{len(free)} selection items; dashed: chosen layer")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Scored, with its controls
#
# At the chosen layer, on test items: the vector, a random one of the same norm, and the vector of a task about
# something else.

# %%
vector = mean(states, items=shown, exclude=None)
random = interp.norm_matched_random(vector, seed=0)
other = load_task("animal-young")
other_contexts = draw(other.split("selection"), shots=5, contexts=6, seed=0, task=other.name)
wrong = interp.extract(model, source_prompts(model, other, "text", other_contexts, template=template)).mean(0)
for modality, layer in layers.items():
    for name, kind in (("patch", vector), ("random vector", random), ("another task's vector", wrong)):
        given = {"vectors": [kind[layer]] * n, "layers": [layer] * n}
        results[name, modality] = count(interp.generate(model, ask(modality), max_new_tokens=6, **given))

names = list(dict.fromkeys(name for name, _ in results))
figure, axes = plt.subplots(1, 2, figsize=(10, 2.8), sharey=True, sharex=True, layout="constrained")
for ax, modality in zip(axes, ("text", "image"), strict=True):
    for place, name in enumerate(names):
        interval = wilson(results.get((name, modality), results.get((name, "any"))), n)
        colour = "#0072B2" if name == "patch" else "#666666"
        ax.hlines(place, interval.low, interval.high, color=colour)
        ax.plot(interval.value, place, "o", color=colour)
    ax.set(title=f"{modality} queries, n = {n}", xlabel="exact match, 95 % Wilson interval")
axes[0].set_yticks(range(len(names)), names)
axes[0].invert_yaxis()
plt.show()

# %% [markdown]
# With four answers the line to beat is not zero: always saying the commonest continent is right about as often as its
# share. Look first at that row, then at the prompt, then at the patch.
#
# ## What does it answer?

# %%
given = {"vectors": [vector[layers["image"]]] * n, "layers": [layers["image"]] * n}
answers = interp.generate(model, ask("image"), max_new_tokens=6, **given)
figure, axes = plt.subplots(2, 7, figsize=(12, 3.6), layout="constrained")
for ax, item, answer in zip(axes.flat, test, answers, strict=False):
    right = score(answer.text, answer.first_token, item.outputs).exact
    ax.imshow(interp.Image(item.image).load())
    ax.set_title(f"{item.input}\n→ {answer.text.strip()}", fontsize=9, color="#00633f" if right else "#555555")
    ax.axis("off")
plt.show()

# %% [markdown]
# ## The whole protocol
#
# The same folder goes into every experiment, with more seeds, the base language model, and paired comparisons:
#
# ```
# python -m experiments.cross_modal_patch --tasks path/to/country-continent country-capital
# ```
#
# Next: [compare an LLM with its VLM](4_llm_and_vlm.ipynb).
