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
# # Compare an LLM with its VLM
#
# A vision-language model is a language model that was taught to look. Did that change how it holds a task? Here are the
# two bundled models, side by side: `bundled-llm`, a language model of 135 million parameters, and `bundled`, which was
# fine-tuned from it.
#
# ## Do they fit?

# %%
# %matplotlib inline
import matplotlib.pyplot as plt

import interp
from interp.models.pairs import agreement, check_pair, matched, mismatched
from interp.protocol.pairs import sentences

llm, vlm = interp.load_model("bundled-llm"), interp.load_model("bundled")
template = interp.Template.parse("Q: {x}\nA: {y}\n\n")
report = check_pair(llm, vlm, template=template)
print("\n".join(sentences(report)))

# %% [markdown]
# Same words, same delimiter, and weights that differ by less than a per cent. Which blocks did fine-tuning move most?

# %%
figure, ax = plt.subplots(figsize=(7.5, 2.4), layout="constrained")
ax.bar(range(llm.n_layers), [100 * d for d in report.weights.block_distances], color="#666666")
ax.set(xlabel="block", ylabel="change, per cent", title="||W_VLM - W_LLM|| / ||W_LLM||")
plt.show()

# %% [markdown]
# ## The same task in both
#
# Both read the same text prompts of six tasks. If they hold a task alike, the vector of a task in the one points where
# that task's vector points in the other, and not where the other tasks' do. All tasks share a lot, so we also take off
# each model's mean over tasks first (*centred*).

# %%
import torch

from interp.protocol.contexts import draw, source_prompts
from interp.tasks import load_task, task_names

tasks = [load_task(name) for name in task_names()]


def task_vectors(model: interp.Model) -> torch.Tensor:
    """The mean vector of every task over five contexts, [K, L, D]."""
    found = []
    for task in tasks:
        contexts = draw(task.split("selection"), shots=5, contexts=5, seed=0, task=task.name)
        found.append(interp.extract(model, source_prompts(model, task, "text", contexts, template=template)).mean(0))
    return torch.stack(found)


of_llm, of_vlm = task_vectors(llm), task_vectors(vlm)
found = agreement(of_llm, of_vlm)

figure, axes = plt.subplots(1, 2, figsize=(10, 3), layout="constrained")
for ax, (name, cosines) in zip(axes, (("raw", found.raw), ("centred", found.centred)), strict=True):
    ax.plot(matched(cosines), color="#0072B2", label="same task")
    ax.plot(mismatched(cosines), color="#D55E00", label="different tasks")
    ax.axhspan(-2 * found.random_spread, 2 * found.random_spread, color="#888888", alpha=0.2, lw=0, label="random")
    ax.set(xlabel="layer", ylabel="cosine, LLM with VLM", title=name)
axes[1].legend(frameon=False)
plt.show()

# %% [markdown]
# One layer as a picture: rows are the language model's vectors, columns the VLM's.

# %%
layer = 22
names = [task.name for task in tasks]
figure, ax = plt.subplots(figsize=(5.6, 4.4), layout="constrained")
shown = ax.imshow(found.centred[layer], cmap="RdBu_r", vmin=-1, vmax=1)
ax.set_xticks(range(6), names, rotation=40, ha="right")
ax.set_yticks(range(6), names)
for i in range(6):
    for j in range(6):
        value = float(found.centred[layer, i, j])
        ax.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white" if value > 0.6 else "black")
ax.set(xlabel="VLM", ylabel="LLM", title=f"centred cosine, layer {layer}")
figure.colorbar(shown)
plt.show()

# %% [markdown]
# ## From one model into the other
#
# Likeness is not yet use. The language model has never seen a picture; do its vectors make the VLM answer pictures? The
# flags below were in no example. The layer is the one that the [reference
# result](../../results/cross_modal_patch/README.md) chose on other items.

# %%
from interp.protocol.contexts import picture
from interp.scoring import score
from interp.statistics import compare_paired, wilson

k = names.index("country-capital")
items = tasks[k].split("test")
queries = [interp.render(vlm, interp.Specification(), picture(item), template=template) for item in items]
sources = {
    "the VLM's own vector": of_vlm[k],
    "the language model's vector": of_llm[k],
    "random vector": interp.norm_matched_random(of_vlm[k], seed=0),
    "LLM's vector of another task": of_llm[names.index("food-color")],
}
right = {}
for name, vectors in sources.items():
    given = {"vectors": [vectors[layer]] * len(items), "layers": [layer] * len(items)}
    answers = interp.generate(vlm, queries, max_new_tokens=6, **given)
    right[name] = [score(a.text, a.first_token, i.outputs).exact for a, i in zip(answers, items, strict=True)]

figure, ax = plt.subplots(figsize=(7.5, 2.2), layout="constrained")
for place, flags in enumerate(right.values()):
    interval = wilson(sum(flags), len(flags))
    colour = "#0072B2" if place < 2 else "#666666"  # the last two are controls
    ax.hlines(place, interval.low, interval.high, color=colour)
    ax.plot(interval.value, place, "o", color=colour)
ax.set_yticks(range(len(right)), right)
ax.invert_yaxis()
ax.set(xlabel="capital named", title=f"{len(items)} flags, 95 % Wilson intervals")
plt.show()

# %% [markdown]
# Whether the two differ is a question about the same flags, so it is asked item by item.

# %%
paired = compare_paired(right["the language model's vector"], right["the VLM's own vector"])
value, low, high = paired.difference
print(f"LLM minus VLM: {value:+.2f} [{low:+.2f}, {high:+.2f}], p = {paired.p_value:.2f}")
print(f"only the LLM's vector is right on {paired.only_a} flags, only the VLM's on {paired.only_b}")

# %% [markdown]
# The first of these writes such tables for any pair; the second scores the vectors of both on all six tasks.
#
# ```
# python -m experiments.compare_pair --target bundled
# python -m experiments.cross_modal_patch --source-model bundled bundled-llm
# ```
#
# Next: [probe and cluster](5_probe_and_cluster.ipynb).
