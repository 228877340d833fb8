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
# # Probe and cluster
#
# Luo et al. (2025) show two pictures of the same contexts. In the one, states taken at the *examples* lie apart by
# modality: texts here, images there. In the other, states taken at the *delimiter* lie together by task, whether the
# examples were texts or images. Here we draw both pictures, and then ask what a picture cannot answer: how much, at
# which layer, against which baseline, and could it have been read from the items alone?
#
# ## Contexts that share nothing
#
# If two contexts of a task showed a common country, they would be alike for that reason. So the items are dealt into
# blocks of six (five examples and a dummy query), no item is in two blocks, and blocks of the *selection* split, which
# choose a layer, are others than those of the *test* split. Both tasks of a family, and both modalities, read the same
# blocks.

# %%
# %matplotlib inline
import pandas as pd

import interp
from interp.protocol.states import StatePlan, StateSettings
from interp.tasks import load_task

model = interp.load_model("bundled")
tasks = [load_task(name) for name in ("country-capital", "country-currency", "food-color", "food-flavor")]
settings = StateSettings(
    model=model.name,
    tasks=tuple(task.name for task in tasks),
    shots=5,
    blocks=5,
    choice_blocks=2,
    orders=2,
    seed=0,
    template="Q: {x}\nA: {y}\n\n",
)
plan = StatePlan(settings, tasks)
blocks = {
    family: pd.Series([", ".join(block) for block in plan.blocks["test"][family]]) for family in plan.blocks["test"]
}
pd.DataFrame(blocks).rename_axis("block")

# %% [markdown]
# ## Two states of each context
#
# `extract_states` reads every prompt once and keeps two states at each layer: the *context embedding* (the mean over
# the tokens of the examples' inputs) and the *task vector* (the last delimiter).

# %%
import torch

from interp.protocol.contexts import source_prompts
from interp.protocol.states import KINDS, States, extract_states

MODALITIES = ("text", "image")


def read(split: str) -> States:
    """The states of all contexts of a split, with what they are states of."""
    rows, parts = [], {kind: [] for kind in KINDS}
    for modality in MODALITIES:
        for task in tasks:
            prompts = source_prompts(model, task, modality, plan.contexts(task, split), template=plan.template)
            for kind, found in extract_states(model, prompts).items():
                parts[kind].append(found)
            shown = {"task": task.name, "family": task.family, "modality": modality}
            for block in range(len(plan.blocks[split][task.family])):
                rows += [
                    shown | {"block": f"{task.family} {block}", "order": order} for order in range(settings.orders)
                ]
    return States(pd.DataFrame(rows), {kind: torch.cat(found) for kind, found in parts.items()})


chosen_on, states = read("selection"), read("test")
index = states.index
index["context"] = index["block"] + ", " + index["task"]
pd.crosstab(index["task"], index["modality"])

# %% [markdown]
# ## One layer to look at
#
# The layer is chosen on the other contexts: the one at which a task vector is nearest to those of its own task *in the
# other modality*. The measure is the silhouette, from -1 to 1: how much nearer a state is to its own group than to the
# nearest other one.

# %%
import matplotlib.pyplot as plt

from probes.clusters import cosine_distances, silhouette


def apart(table: pd.DataFrame, column: str) -> object:
    """Which pairs of contexts differ in something."""
    return table[column].to_numpy()[:, None] != table[column].to_numpy()


allowed = apart(chosen_on.index, "block") & apart(chosen_on.index, "modality")
curve = [
    silhouette(
        cosine_distances(chosen_on.of("task_vector", layer)), chosen_on.index["task"].to_numpy(), allowed=allowed
    ).mean()
    for layer in range(model.n_layers)
]
layer = max(range(model.n_layers), key=lambda at: (curve[at], -at))

figure, ax = plt.subplots(figsize=(7.5, 2.4), layout="constrained")
ax.plot(curve, color="#0072B2")
ax.axvline(layer, color="#444444", linestyle="--", linewidth=0.9)
ax.set(xlabel="layer", ylabel="silhouette by task", title=f"{len(chosen_on.index)} other contexts choose layer {layer}")
plt.show()

# %% [markdown]
# ## The picture
#
# Colour is the task, the marker the modality; each point is one context of the test split, at the chosen layer. PCA
# keeps distances as well as two dimensions can. t-SNE keeps who is near whom, and nothing else: the sizes of clusters
# and of the gaps between them mean nothing.

# %%
from figures.clusters import projections
from probes.projection import project

points = []
for kind in KINDS:
    for method in ("pca", "tsne"):
        for row, (x, y) in zip(index.to_dict("records"), project(states.of(kind, layer), method), strict=True):
            points.append(row | {"kind": kind, "layer": layer, "method": method, "x": x, "y": y})
projections(pd.DataFrame(points))

# %% [markdown]
# ## How much?
#
# The same question in numbers, with two baselines. *Chance* is what permuted labels give: with this few contexts even
# those cluster a little. And each context is compared with others that share no item with it, once with all of them,
# once with those of the *other modality* alone. The last is the sharp question: are the nearest image contexts of a
# text context those of its task?

# %%
from probes.clusters import cluster_scores


def scores(kind: str, at: int, permutations: int) -> list[dict]:
    """Silhouette and purity (share of the nearest five with the same label) by task and by modality."""
    rows = []
    for label, among in (("task", "all"), ("task", "other modality"), ("modality", "all")):
        found = cluster_scores(
            states.of(kind, at),
            index[label].to_numpy(),
            groups=index["block"].to_numpy(),
            types=(index["context"] if label == "task" else index["context"] + index["modality"]).to_numpy(),
            strata=None if label == "task" else index["context"].to_numpy(),
            allowed=apart(index, "modality") if among == "other modality" else None,
            permutations=permutations,
        )
        for metric, score in found.items():
            low, high = score.value.low, score.value.high
            rows.append(
                {"kind": kind, "layer": at, "label": label, "among": among, "metric": metric, "n": score.n}
                | {"value": score.value.value, "low": low, "high": high}
                | {"chance": score.chance, "chance_high": score.chance_high, "p": score.p_value}
            )
    return rows


numbers = pd.DataFrame([row for kind in KINDS for row in scores(kind, layer, permutations=199)])
numbers.drop(columns=["layer", "n"]).set_index(["kind", "label", "among", "metric"]).round(2)

# %% [markdown]
# Layer by layer, with 95 % intervals over blocks of items. Dashed is what one in twenty permuted labellings reaches: a
# line below it shows nothing.

# %%
from figures.clusters import cluster_curves

layers = range(1, model.n_layers, 2)
curves = pd.DataFrame([row for kind in KINDS for at in layers for row in scores(kind, at, permutations=39)])
cluster_curves(curves, layer=layer)

# %% [markdown]
# ## A probe from text to images
#
# Another way to ask whether two modalities share a representation: a linear classifier learns the task from *text*
# contexts and is asked about *image* contexts with items that it has never seen. Two things could fool us.
#
# - A strong classifier can learn anything by heart. So it also learns a *control task*, labels that were dealt to the
#   contexts at random; *selectivity* is how much better it does on the real one (Hewitt and Liang 2019).
# - Telling countries from foods is easy and has nothing to do with tasks. So a second probe, *within families*, only
#   tells capitals from currencies, and colours from flavours: both read the very same items.

# %%
from figures.clusters import probe_curves
from probes.linear import probe

masks = {name: (index["modality"] == name).to_numpy() for name in MODALITIES}
rows = []
for kind in KINDS:
    for at in sorted({4, 12, 20, 28, layer}):
        for scope, strata in (("all tasks", None), ("within families", index["family"].to_numpy())):
            found = probe(
                states.of(kind, at),
                index["task"].to_numpy(),
                groups=index["block"].to_numpy(),
                types=index["context"].to_numpy(),
                instances=index["order"].to_numpy(),
                train=masks["text"],
                tests=masks,
                strata=strata,
            )
            for test, score in found.items():
                rows.append(
                    {"kind": kind, "layer": at, "scope": scope, "train": "text", "test": test, "n": score.n}
                    | {"accuracy": score.accuracy.value, "low": score.accuracy.low, "high": score.accuracy.high}
                    | {"chance": score.chance, "control": score.control, "selectivity": score.selectivity.value}
                )
probed = pd.DataFrame(rows)
probe_curves(probed, layer=layer)

# %%
at_layer = probed[probed["layer"] == layer].drop(columns=["layer", "n"])
at_layer.set_index(["scope", "kind", "train", "test"]).round(2)

# %% [markdown]
# ## What to make of it
#
# Read the lower row of panels first. Above chance on *text → image* there means that what says "capital, not currency"
# is written in the same way for both modalities. If it holds for text alone, the two kinds of context have the task
# each in their own way, and a picture in which they form one cluster each would not have told.
#
# None of this is causal: a probe says that something *can* be read from a state, not that the model reads it. For that
# the vector has to be [put into a query](1_first_patch.ipynb).
#
# All six tasks, every layer, UMAP, instructions, cosines, and p-values from probes that were trained anew on permuted
# labels:
#
# ```
# python -m experiments.task_clusters
# ```
