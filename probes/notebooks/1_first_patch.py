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
# # First patch in ten lines
#
# A language model that has just read `Q: Greece / A: Athens / Q: Japan / A: Tokyo / Q: Poland / A:` is about to name a
# capital. That intention is a vector: the residual stream at the last colon. Here we read it from a text prompt, put it
# into a picture of a flag that comes without any question, and see whether the model names the capital of that flag's
# country.

# %%
# %matplotlib inline
import interp
from interp.tasks import load_task

model, task = interp.load_model("bundled"), load_task("country-capital")
template = interp.Template.parse("Q: {x}\nA: {y}\n\n")
examples = tuple(interp.Example(item.input, item.outputs[0]) for item in task.split("selection")[:5])
source = interp.render(model, interp.Specification(examples), "Poland", template=template)
vectors = interp.extract(model, [source])[0]

flag = next(item for item in task.split("test") if item.input == "Norway")
query = interp.render(model, interp.Specification(), interp.Image(flag.image), template=template)
print("bare:   ", interp.generate(model, [query])[0].text)
print("patched:", interp.generate(model, [query], vectors=[vectors[22]], layers=[22])[0].text)

# %% [markdown]
# Without the patch the model says what it sees. With it, it answers a question that nobody asked in words: the question
# that five text examples about *other* countries implied.
#
# What happened, step by step:
#
# - `load_model` loaded a small vision-language model that ships with the package. Any model of the [supported
#   families](../../docs/models.md) will do.
# - `render` built the prompt, and knows what each of its tokens is.
# - `extract` ran it once and kept the state at the last delimiter after every block: one vector for each layer.
# - `generate` ran the flag, and at one block replaced the state of its last token by the vector of that layer.
#
# ## What is in the prompts
#
# Here are the pieces of both, with the tokens that each takes. The flag takes 25 tokens; the last token of each prompt
# is the colon where we read and patch.

# %%
import pandas as pd


def pieces(prompt: interp.Prompt) -> pd.DataFrame:
    """What each piece of a prompt is."""
    return pd.DataFrame(
        {
            "piece": [str(s.content) if isinstance(s.content, str) else "(picture)" for s in prompt.segments],
            "role": [s.role for s in prompt.segments],
            "tokens": [f"{s.start} to {s.stop - 1}" for s in prompt.segments],
        }
    )


pieces(source).tail(6)

# %%
pieces(query)

# %% [markdown]
# ## One flag is an anecdote
#
# Let us ask about twelve flags that were in no example, side by side: what the model says without a patch, and with it.

# %%
import matplotlib.pyplot as plt

from interp.scoring import score

items = task.split("test")[:12]
queries = [interp.render(model, interp.Specification(), interp.Image(i.image), template=template) for i in items]
bare = interp.generate(model, queries, max_new_tokens=6)
patched = interp.generate(model, queries, vectors=[vectors[22]] * 12, layers=[22] * 12, max_new_tokens=6)

figure, axes = plt.subplots(2, 6, figsize=(12, 4.6), layout="constrained")
for ax, item, before, after in zip(axes.flat, items, bare, patched, strict=True):
    right = score(after.text, after.first_token, item.outputs).exact
    ax.imshow(interp.Image(item.image).load())
    ax.set_title(f"{before.text.strip()}\n→ {after.text.strip()}", fontsize=10, color="#00633f" if right else "#555555")
    ax.axis("off")
figure.suptitle("without the patch → with it (green: right)")
plt.show()

# %% [markdown]
# ## At which layer?
#
# We chose layer 22. `sweep` patches the same queries at every layer, and takes one prefill for each query. A random
# vector of the same norm goes along: if disturbing the model were enough, it would do as well. The flags below choose
# the layer and are not used afterwards.

# %%
from interp.statistics import wilson

chosen_on = [item for item in task.split("selection")[5:] if item.input != "Poland"][:24]
random = interp.norm_matched_random(vectors, seed=0)
rows = [interp.RowPatch(layer, kind[layer]) for kind in (vectors, random) for layer in range(model.n_layers)]
prompts = [interp.render(model, interp.Specification(), interp.Image(i.image), template=template) for i in chosen_on]
answers = interp.sweep(model, prompts, [rows] * len(prompts), max_new_tokens=5)
right = [
    [score(a.text, a.first_token, i.outputs).exact for a in row] for i, row in zip(chosen_on, answers, strict=True)
]
counts = [sum(column) for column in zip(*right, strict=True)]
task_curve, random_curve = counts[: model.n_layers], counts[model.n_layers :]
best = max(range(model.n_layers), key=lambda layer: (task_curve[layer], -layer))

figure, ax = plt.subplots(figsize=(7.5, 3), layout="constrained")
for curve, colour, label in ((task_curve, "#0072B2", "task vector"), (random_curve, "#888888", "random vector")):
    bounds = [wilson(k, len(prompts)) for k in curve]
    ax.fill_between(range(len(curve)), [b.low for b in bounds], [b.high for b in bounds], color=colour, alpha=0.15)
    ax.plot([b.value for b in bounds], color=colour, label=label)
ax.axvline(best, color="#444444", linestyle="--", linewidth=0.9, label=f"best layer: {best}")
ax.set(xlabel="patched layer", ylabel="capital named", title=f"{len(prompts)} flags, 95 % Wilson intervals")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# Early layers know nothing of the task yet. Late ones have already turned it into the answer about *Poland*, and the
# patch brings that answer along. In between there are layers, in this model hardly more than one, in which the vector
# says only what is wanted.
#
# ## Is it better than asking?
#
# The same five examples can be put before the flag as a prompt. So can nothing, and as a last control we patch the
# vector of another task. All on the remaining flags, at the layer that was chosen above.

# %%
test = task.split("test")
flags = [interp.Image(item.image) for item in test]
bare_queries = [interp.render(model, interp.Specification(), picture, template=template) for picture in flags]
prompted = [interp.render(model, interp.Specification(examples), picture, template=template) for picture in flags]
other = load_task("food-color")
foods = tuple(interp.Example(item.input, item.outputs[0]) for item in other.split("selection")[:5])
wrong = interp.extract(model, [interp.render(model, interp.Specification(foods), "lemon", template=template)])[0]


def rate(queries: list, vector=None) -> object:
    """How often the capital is named."""
    n = len(queries)
    given = {} if vector is None else {"vectors": [vector] * n, "layers": [best] * n}
    answers = interp.generate(model, queries, max_new_tokens=6, **given)
    return wilson(sum(score(a.text, a.first_token, i.outputs).exact for a, i in zip(answers, test, strict=True)), n)


rates = {
    "no context": rate(bare_queries),
    "five examples as a prompt": rate(prompted),
    "task vector, patched": rate(bare_queries, vectors[best]),
    "random vector, patched": rate(bare_queries, random[best]),
    "another task's vector, patched": rate(bare_queries, wrong[best]),
}

figure, ax = plt.subplots(figsize=(7.5, 2.4), layout="constrained")
for place, (name, interval) in enumerate(rates.items()):
    ax.hlines(place, interval.low, interval.high, color="#0072B2" if name.startswith("task") else "#666666")
    ax.plot(interval.value, place, "o", color="#0072B2" if name.startswith("task") else "#666666")
ax.set_yticks(range(len(rates)), rates)
ax.invert_yaxis()
ax.set(xlim=(-0.01, None), xlabel="capital named", title=f"{len(test)} test flags, 95 % Wilson intervals")
plt.show()

# %% [markdown]
# The model is small, and it does not name most capitals; but what it can do, a vector that was read from text makes it
# do on pictures, and the text itself does not. `python -m experiments.cross_modal_patch` asks the same of six tasks,
# both modalities, the base language model and more controls, and [its
# page](../../docs/experiments/cross_modal_patch.md) says how to read the result: on tasks with few possible answers,
# prompts win.
#
# Next: [look inside one prompt](2_inside_one_prompt.ipynb).
