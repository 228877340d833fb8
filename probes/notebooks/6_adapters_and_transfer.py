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
# # Adapters and transfer
#
# Sachdeva et al. (2025) fine-tune a vision-language model on one perception task and test it on the others: some tasks
# help, some hurt. Their supplement shows how alike the LoRA weights of the tasks are, beside the matrix of transfer,
# and leaves open whether the one has to do with the other. Here we take a folder of adapters and a matrix of transfer,
# and end with a figure and a number that has a null.
#
# No model is loaded: everything is in the adapters' files. For your own, change these two lines. The folder may hold
# any adapters of peft, one for each task (its folder's name is the task; `counting-seed1` is a second training of
# counting); the CSV has sources in its first column and targets in its first row.

# %%
ADAPTERS = "results/transfer_study/adapters"
TRANSFER = "results/transfer_study/analysis/pgf_mean.csv"

# %% [markdown]
# ## What fine-tuning wrote
#
# An adapter adds dW = (alpha / r) B A to a weight. Since BA = (BR)(R⁻¹A) for every invertible R, neither A nor B means
# anything by itself, so what we compare is dW. It is never formed: inner products of updates come from products of
# r × r, whatever the width of the model.
#
# Look at the sizes first. If one update were ten times as large as the others, we would learn about doses and not about
# tasks. The *effective rank* says in how many directions an update really goes, of the r that it might.

# %%
# %matplotlib inline
import pandas as pd

from interp.transfer.names import abbreviation
from interp.updates import ceiling_table, compare, norm_table, read_updates, similarity_table

updates = read_updates([ADAPTERS])
comparison = compare(updates)
norms = norm_table(comparison)
whole = norms[(norms["layer"] == "all") & (norms["projection"] == "all")]
whole.set_index(["task", "seed"])[["norm", "norm_centred", "rank", "effective_rank"]].round(2)

# %% [markdown]
# ## How alike?
#
# The cosine of two updates, over all weights together. All trainings teach some of the same, such as to answer with a
# letter, and adapters of one seed begin with the same A; so we look again after the *common mean* is taken off, the
# mean over tasks of each seed. Where there are two seeds, pairs of tasks are compared across seeds, and the diagonal
# has the ceiling: two trainings of the same task. Chance is 0, or about -1 / (K - 1) without the mean of one seed.

# %%
import matplotlib.pyplot as plt
import numpy as np

from figures.updates import square

similarity, ceilings = similarity_table(comparison), ceiling_table(comparison)
overall = ceilings[(ceilings["layer"].astype(str) == "all") & (ceilings["projection"] == "all")]

figure, axes = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
for ax, centred in zip(axes, (False, True), strict=True):
    cosines = square(similarity, "cosine", centred=centred)
    values = cosines.to_numpy(copy=True)
    values[np.diag_indices(len(values))] = np.nan
    most = np.nanmax(np.abs(values))
    image = ax.imshow(values, cmap="RdBu_r", vmin=-most, vmax=most)
    own = overall[(overall["measure"] == "cosine") & (overall["centred"] == centred)].set_index("task")["value"]
    for place, task in enumerate(cosines.index):
        if task in own:
            ax.text(place, place, f"{own[task]:.2g}", ha="center", va="center", fontsize=6)
    names = [abbreviation(task) for task in cosines.index]
    ax.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set_title("cosine of dW" + (", without the common mean" if centred else ""), loc="left", fontsize=10)
    figure.colorbar(image, ax=ax, shrink=0.8)
plt.show()

# %% [markdown]
# A tree of the tasks looks convincing for any matrix, which is why we do not stop here.
#
# ## Beside transfer
#
# Now the matrix of transfer, rows trained on, columns tested on. Most of such a matrix is *main effects*: a target that
# gains from any training makes a bright column, a source that helps everything a bright row. A similarity of two tasks
# can explain neither. So row and column effects are taken off both matrices, by least squares on the cells off the
# diagonal, and what is left is compared. A relation would show as the same colours in the same places.

# %%
from figures.relation import heatmaps, structure_heatmaps
from interp.relation.study import relate

CHOSEN = "update cosine without the common mean"
found = relate({CHOSEN: square(similarity, "cosine", centred=True)}, TRANSFER, covariates=())
print(*found.remarks, sep="\n")
structure_heatmaps(found.tables["pairs"])

# %%
heatmaps(found.tables["pairs"], found.tables["relation"], family="updates")

# %% [markdown]
# ## One number, and its null
#
# r is the correlation of these two pictures over ordered pairs of tasks. With 13 tasks there are 156 pairs, but by no
# means 156 independent ones: every task is in 24 of them. Shuffling cells would call far too much significant. So we
# shuffle *tasks*, rows and columns of one matrix together (QAP), and ask how often that does as well.

# %%
from interp.relation.permutation import centred_cells, node_orders, permuted

aligned = found.models[0].aligned
x, y = aligned.similarities[0], aligned.transfer
orders = node_orders(len(y))
left = np.zeros_like(y)
left[~np.eye(len(y), dtype=bool)] = centred_cells(y)
null = permuted(left[None], orders)[:, 0] @ centred_cells(x)

row = found.tables["relation"].iloc[0]
figure, ax = plt.subplots(figsize=(6.5, 2.6), layout="constrained")
ax.hist(null, bins=60, color="#BBBBBB")
ax.axvline(row["r"], color="#D55E00", label=f"measured: r = {row['r']:.2f}, p = {row['p']:.2g}")
for side in (-1, 1):
    ax.axvline(side * row["null"], color="#444444", linestyle=":", label="95 % of them within" if side > 0 else None)
ax.set(xlabel="r with the tasks permuted", ylabel=f"of {len(orders):,}")
ax.legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# ## The figure
#
# A point for every ordered pair, with the jackknife's interval over *tasks*. The named pairs decide the line most: look
# whether they are all of one task, and what is left without it.

# %%
from figures.relation import scatter

scatter(found.tables["pairs"], found.tables["relation"], family="updates")

# %%
without = found.tables["leave_one_out"].set_index("left_out")["r"].round(2)
pd.DataFrame({"r without it": without}).T

# %% [markdown]
# ## Every measure, and the price of looking at many
#
# Cosines are one way to compare updates. Others have a direction: the share of one update's energy that lies in the
# column space of another's. And each can be taken in every layer. The best of so many is large by chance alone; *max-T*
# takes the largest of all in every permutation too. `p_maxt` is what may be quoted for the best one.
#
# The format of the answers is a rival explanation: tasks that share their options may help each other for that. Its
# matrices stand beside the measures, and are adjusted for.

# %%
import textwrap

from figures.relation import forest, layer_curves
from interp.updates import long_table

found = relate({"updates": long_table(similarity)}, TRANSFER)
relation = found.tables["relation"]
for sentence in found.sentences["Do updates relate to it?"]:
    print(textwrap.fill(sentence, 110))
forest(relation)

# %%
layer_curves(relation)

# %%
columns = ["measure", "layer", "r", "low", "high", "p", "p_maxt", "null"]
relation[relation["summary"].astype(bool)].sort_values("p")[columns].round(3).head(8)

# %% [markdown]
# ## Could we have known which source to take?
#
# A use for a relation: rank the other tasks as sources for a target. *Source mean* is the ranking that knows no
# similarity at all, only which sources helped the other targets; a dashed line is a random order. What does not beat
# these is of no use, however its p-value looks. (Updates are known when the sources are trained, before they are tested
# on the target; for what is known before any training see
# [perception_vectors](../../docs/experiments/perception_vectors.md).)

# %%
from figures.relation import predictor_bars

for sentence in found.sentences["How well can transfer be predicted beforehand?"]:
    print(textwrap.fill(sentence, 110))
predictor_bars(found.tables["prediction"])

# %% [markdown]
# ## What a null result looks like
#
# To judge a "no" one has to know what a "yes" would have looked like here, with so few tasks. We make similarities with
# a known correlation to this very matrix of transfer, but for chance, and count how often the test sees them. Those of
# correlation 0 have to be seen once in twenty times, and so have these updates with their tasks renamed at random.

# %%
from interp.relation.permutation import qap

rng = np.random.default_rng(0)
off = ~np.eye(len(y), dtype=bool)
signal, rows = centred_cells(y), []
for truth in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5):
    made = rng.normal(size=(400, *y.shape))
    noise = centred_cells(made)
    made[:, off] = truth * signal + np.sqrt(1 - truth**2) * noise
    rows.append({"a similarity that correlates by": truth, "is seen": (qap(made, y).p < 0.05).mean()})
shuffled = np.array([x[np.ix_(order, order)] for order in rng.permuted(np.tile(np.arange(len(y)), (400, 1)), axis=1)])
rows.append(
    {"a similarity that correlates by": "these updates, renamed", "is seen": (qap(shuffled, y).p < 0.05).mean()}
)
pd.DataFrame(rows).set_index("a similarity that correlates by").round(2)

# %% [markdown]
# Read a "no" against this table. A correlation that is seen in nine cases of ten would most likely have been seen here;
# for one that is seen in two of ten, nothing is said. And this is how a "no" looks: a line within its null, points
# without a slope, other pairs that decide it.

# %%
renamed = pd.DataFrame(shuffled[0], index=found.models[0].labels, columns=found.models[0].labels)
nothing = relate({"update cosine, tasks renamed": renamed}, TRANSFER, covariates=())
scatter(nothing.tables["pairs"], nothing.tables["relation"], family="updates")

# %% [markdown]
# ## What to make of it
#
# 1. Ceiling: if two trainings of a task are hardly more alike than two tasks, the updates cannot say much of anything.
# 2. Noise: `pgf_mean.csv` is a mean over seeds, so nothing here says how well transfer itself is known. Give `relate`
#    the folder of a [transfer_matrix](../../docs/experiments/transfer_matrix.md), or a CSV with a column `seed`, and it
#    tells how far seeds agree and what they allow.
# 3. A correlation is no mechanism. Alike updates may help or interfere, and what two tasks share (a format, a kind of
#    picture) may make both the updates alike and the transfer.
#
# With task vectors, gradients and the frozen model's patches, on one page:
#
# ```
# python -m experiments.lora_geometry --adapters results/transfer_study/adapters
# python -m experiments.relate --transfer TRANSFER --updates UPDATES/similarity_long.csv --similarity VECTORS.csv
# ```
