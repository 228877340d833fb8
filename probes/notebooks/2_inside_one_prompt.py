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
# # Look inside one prompt
#
# Where in a prompt does the task stand, and at which layer? Here we take one prompt apart: every token, after every
# block. Of each of these states we ask two things.
#
# - **Lens.** If this block were the last one, what would the model say next? (The final norm and the unembedding are
#   applied to the state: the logit lens.)
# - **Patch effect.** If this state is put in the place of the last token's state of a *bare* flag, at the same layer,
#   how much more likely does the right answer become? Measured in nats of log-probability; one nat is a factor of 2.7.

# %%
# %matplotlib inline
import io

import interp
from figures.prompt_view import framed, prompt_view
from interp.protocol.inside import look_inside
from interp.tasks import load_task

model, task = interp.load_model("bundled"), load_task("country-capital")
template = interp.Template.parse("Q: {x}\nA: {y}\n\n")
by_name = {item.input: item for item in task.items}

# %% [markdown]
# The prompt has four examples as text, and ends in a *picture*: the flag of Thailand, whose answer we will not look at.
# Its states go into the bare flag of Norway, where *Oslo* is right.

# %%
examples = tuple(interp.Example(item.input, item.outputs[0]) for item in task.split("selection")[:4])
thailand, norway = (interp.Image(by_name[name].image) for name in ("Thailand", "Norway"))
prompt = interp.render(model, interp.Specification(examples), thailand, template=template)
query = interp.render(model, interp.Specification(), norway, template=template)
inside = look_inside(model, prompt, query, "Oslo", template=template)
print(f"{prompt.n_tokens} tokens, {model.n_layers} layers; delimiters at {prompt.delimiters}")

# %% [markdown]
# ## The view
#
# Click a token, or a cell of the map. Colours of the tokens say what each is; bold ones are delimiters; the little
# squares over the flag are its 25 tokens. The table below belongs to the chosen token: what the lens says at each
# layer, what patching the state does, what the flag of Norway is then called, and, as a control, what a random vector
# of the same norm does.

# %%
from IPython.display import HTML


def png(image: interp.Image) -> bytes:
    """A thumbnail."""
    picture, buffer = image.load(), io.BytesIO()
    picture.thumbnail((160, 160))
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


view = prompt_view(inside.tokens, inside.lens, inside.effects, inside.controls, answer="Oslo", pictures=[png(thailand)])
HTML(framed(view, height=1500))

# %% [markdown]
# (Where notebooks are shown without scripts the view is missing; the pictures below are drawn from the same tables.)
#
# ## The same as a picture

# %%
import matplotlib.pyplot as plt
import numpy as np

gains = inside.effects.pivot_table(index="layer", columns="position", values="gain")
limit = np.abs(gains.to_numpy()).max()
labels = [text.replace("\n", "⏎") for text in inside.tokens["text"]]
labels = ["▪" if image >= 0 else text for text, image in zip(labels, inside.tokens["image"].fillna(-1), strict=True)]

figure, ax = plt.subplots(figsize=(13, 5), layout="constrained")
shown = ax.imshow(gains, aspect="auto", origin="lower", cmap="RdBu_r", vmin=-limit, vmax=limit)
ax.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7)
for tick, delimiter in zip(ax.get_xticklabels(), inside.tokens["delimiter"], strict=True):
    tick.set_fontweight("bold" if delimiter else "normal")
ax.set(ylabel="layer", title="gain in log p(Oslo) for the flag of Norway, by the state that is patched in")
figure.colorbar(shown, label="nats")
plt.show()

# %% [markdown]
# Read it column by column. Colons stand out: theirs are nearly the only states that help. Those before an answer help
# most at layers 20 to 22, and the fourth and the last, which have seen three and four answers, more than the others;
# after layer 22 the last one has become the answer for *Thailand*, and harms. The squares of the picture bring about a
# nat at early layers, which a random vector does there too now and then (next picture). All other words harm, whatever
# the layer.
#
# ## The last delimiter, layer by layer
#
# The column of the last colon, with the random vector beside it, and what the lens sees there.

# %%
at = prompt.delimiter
column = inside.effects.query("position == @at").set_index("layer")
figure, axes = plt.subplots(1, 2, figsize=(11, 3), layout="constrained")
axes[0].plot(column["gain"], color="#0072B2", label="state at the last delimiter")
axes[0].plot(inside.controls.set_index("layer")["gain"], color="#888888", label="random vector")
axes[0].axhline(0, color="#444444", linewidth=0.7)
axes[0].set(xlabel="layer", ylabel="gain in log p(Oslo), nats", title="patched into the flag of Norway")
axes[0].legend(frameon=False)
for answer, colour in (("Bangkok", "#D55E00"), ("Oslo", "#009E73")):
    token = model.tokenizer.decode(model.tokenizer(" " + answer, add_special_tokens=False).input_ids[:1])
    found = inside.lens.query("position == @at and token == @token").set_index("layer")["probability"]
    axes[1].plot(found.reindex(range(model.n_layers), fill_value=0.0), color=colour, label=answer)
axes[1].set(xlabel="layer", ylabel="probability", title="lens on the prompt itself (0: not among its first three)")
axes[1].legend(frameon=False)
plt.show()

# %%
table = inside.lens.query("position == @at").pivot_table(index="layer", columns="rank", values="token", aggfunc="first")
table.columns = [f"lens {rank + 1}" for rank in table.columns]
table.join(column[["gain", "says"]].rename(columns={"says": "Norway's flag is answered"})).iloc[::-1].round({"gain": 2})

# %% [markdown]
# One prompt shows what can happen, and nothing about how often. [First patch in ten lines](1_first_patch.ipynb) counts,
# and `python -m experiments.cross_modal_patch` does it with all controls. To look into a prompt of yours, replace the
# examples, the query and the answer above; the view is one self-contained piece of HTML, which `figures.page` can also
# write into a report.
#
# Next: [bring your own task](3_your_own_task.ipynb).
