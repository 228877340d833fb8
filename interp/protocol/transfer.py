"""The paper's tables out of the answers of several runs of the protocol, one for each template.

Luo et al. (2025) compare, on image queries, prompts and patches (table 1), vectors of the language model and of the VLM
(table 3), all pairs of source and query modality (table 4), and templates (table 5). Here each of them has intervals
over items and seeds, a control, and paired tests with Holm's correction; the paper's own numbers stand beside ours
where the model is one of theirs. They come from `luo2025.csv`, transcribed from the tables of arXiv 2410.22330v1 (their
numbering there: table 1 here is 3 there). Their items, images and layers are not ours, and they score one token by the
prefix rule, so the two are read side by side, not subtracted. Their patches are means over 30 contexts: our
`patch_mean`.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from interp.models.pairs import agreement, matched, mismatched
from interp.protocol.bank import Bank
from interp.protocol.rates import comparison_rows, rate_table, with_holm

ARM = ["model", "template", "query", "method", "source_model", "source", "layer_choice"]
PAPER, OURS = "Luo et al. 2025", "this run"
PAPER_TEMPLATE = r"Q:{x}\nA:{y}\n\n"
PAPER_TASKS = 6
PAPER_DEMONSTRATIONS = {"no_context": 0, "majority": 0, "prompt": 5, "patch_mean": 120}
"""Complete ones: their vectors are means over 30 prompts, read at the delimiter of the fifth example."""
PAPER_COSINE_BASELINE = 0.58
"""Of the vectors of mismatched pairs of Vicuna and LLaVA-1.5."""
BUDGETS = {"matched": "patch_single", "unmatched": "patch_mean"}
"""Whether a vector saw as many demonstrations as the prompt, or those of all contexts."""


def written(template: str) -> str:
    """A template on one line, as it is given on the command line."""
    return template.replace("\n", "\\n").replace("\t", "\\t")


def transfer_rates(answers: pd.DataFrame) -> pd.DataFrame:
    """One row per template, arm and task; see :func:`interp.protocol.rates.rate_table`."""
    return rate_table(answers, ARM, carry=("layer", "demonstrations", "budget"))


class Contrast(NamedTuple):
    """Two arms that are compared: what it is called, the budget, and how each arm is picked out of the answers."""

    name: str
    budget: str
    a: dict[str, str]
    b: dict[str, str]


def contrasts(model: str, source_models: tuple[str, ...]) -> Iterator[Contrast]:
    """The comparisons of the paper, and of the vectors with their controls."""
    others = [name for name in source_models if name != model]

    def patch(method: str, source: str, source_model: str = model) -> dict[str, str]:
        return {"method": method, "source": source, "source_model": source_model}

    for budget, method in BUDGETS.items():
        text, image = patch(method, "text"), patch(method, "image")
        yield Contrast("text patch - text prompt", budget, text, {"method": "prompt", "source": "text"})
        yield Contrast("text patch - image prompt", budget, text, {"method": "prompt", "source": "image"})
        yield Contrast("text patch - image patch", budget, text, image)
        yield Contrast("image patch - image prompt", budget, image, {"method": "prompt", "source": "image"})
        yield Contrast("ensemble patch - text patch", budget, patch(method, "ensemble"), text)
        yield Contrast("text patch - majority answer", budget, text, {"method": "majority"})
        for other in others:
            yield Contrast(f"text patch of {other} - of {model}", budget, patch(method, "text", other), text)
    instruction = patch("patch_single", "instruction")
    yield Contrast(
        "instruction patch - instruction prompt", "matched", instruction, {"method": "prompt", "source": "instruction"}
    )
    for control in ("control_random", "control_wrong_task", "control_shuffled"):
        name = f"text patch - {control.removeprefix('control_').replace('_', ' ')} vector"
        yield Contrast(name, "unmatched", patch("patch_mean", "text"), patch(control, "text"))


def transfer_comparisons(answers: pd.DataFrame, model: str, source_models: tuple[str, ...]) -> pd.DataFrame:
    """Paired tests at the pooled layer, per template, query modality and task, and over all tasks.

    The best image method is the one of image prompt and image patch that is right more often on the very items of the
    comparison, which favours it. Holm's correction is over the comparisons of a template and query modality.
    """
    shown = answers[answers["layer_choice"].isin(["", "pooled"])]
    rows: list[dict[str, Any]] = []
    for (template, query), part in shown.groupby(["template", "query"], sort=False):
        where = {"template": template, "query": query}
        for contrast in contrasts(model, source_models):
            labels = {**where, "comparison": contrast.name, "budget": contrast.budget}
            rows += comparison_rows(_picked(part, contrast.a), _picked(part, contrast.b), labels)
        for budget, method in BUDGETS.items():
            text = _picked(part, {"method": method, "source": "text", "source_model": model})
            best = _best(
                _picked(part, {"method": "prompt", "source": "image"}),
                _picked(part, {"method": method, "source": "image", "source_model": model}),
            )
            labels = {**where, "comparison": "text patch - best image method", "budget": budget}
            rows += comparison_rows(text, best, labels)
    return with_holm(rows, ["template", "query"])


def _picked(answers: pd.DataFrame, arm: dict[str, str]) -> pd.DataFrame:
    kept = pd.Series(True, index=answers.index)
    for column, value in arm.items():
        kept &= answers[column].eq(value)
    return answers[kept]


def _best(*arms: pd.DataFrame) -> pd.DataFrame:
    """The arm with the highest mean over tasks; the first of equals, and empty only if all are."""
    there = [arm for arm in arms if len(arm)]
    return max(there, key=lambda arm: arm.groupby("task")["exact"].mean().mean()) if there else arms[0]


# The paper's tables


def published(model: str) -> pd.DataFrame:
    """The paper's numbers for a model, and its majority baseline; no rows for a model that is not theirs.

    A local folder is theirs when it is called like their model, as a download or in the hub's cache.
    """
    table = pd.read_csv(Path(__file__).with_name("luo2025.csv"), keep_default_na=False, na_values={"cosine": [""]})
    theirs = table[[_is(model, name) for name in table["model"]]]
    return pd.concat([table[table["model"] == ""], theirs]) if len(theirs) else theirs


def _is(model: str, published_as: str) -> bool:
    """Whether a hub id or folder is the model that was published under a hub id."""
    called = {published_as.rpartition("/")[2], "models--" + published_as.replace("/", "--")}
    here = model == published_as or (Path(model).is_dir() and not called.isdisjoint(Path(model).parts))
    return bool(published_as) and here


def paper_table(rates: pd.DataFrame, model: str, number: int, template: str) -> pd.DataFrame:
    """Table 1, 3, 4 or 5 in the paper's form: an arm in a row, tasks in columns.

    Args:
        rates: of :func:`transfer_rates`.
        model: the patched model, for the paper's own rows.
        number: 1 image queries by method; 3 source models, text examples; 4 source by query modality; 5 templates.
        template: the main one; table 5 shows all.

    Returns:
        Columns by ("this run" or "Luo et al. 2025"), template, query, method, source_model, source, demonstrations,
        budget, layer, the tasks, all, low, high. Where the model takes no images, table 1 is empty.
    """
    shown = rates[rates["layer_choice"].isin(["", "pooled"])]
    main, patch = shown["template"] == template, shown["method"].isin([*BUDGETS.values(), "control_wrong_task"])
    kept = {
        1: main & (shown["query"] == "image"),
        3: main & patch & (shown["source"] == "text"),
        4: main & patch,
        5: (patch & (shown["source_model"] == model) | shown["method"].isin(["no_context", "prompt"]))
        & shown["source"].isin(["", "text", "image"]),
    }[number]
    ours = _wide(shown[kept]).assign(by=OURS)
    columns = ["by", *(name for name in ours if name != "by")]
    theirs = _published_rows(model, number, [task for task in dict.fromkeys(rates["task"]) if task != "all"])
    return pd.concat([ours, theirs.reindex(columns=columns)], ignore_index=True) if len(theirs) else ours[columns]


def _published_rows(model: str, number: int, tasks: Sequence[str]) -> pd.DataFrame:
    """The paper's rows of a table; `all` is the mean over those of these tasks that are theirs."""
    table = published(model)
    table = table[table["table"] == number]
    shared = [task for task in tasks if task in table]
    if not shared:
        return table.iloc[:0]
    template = "its recommended one" if number == 5 else PAPER_TEMPLATE
    table = table.assign(by=PAPER, template=template, demonstrations=table["method"].map(PAPER_DEMONSTRATIONS))
    table["budget"] = table["method"].map({"prompt": "matched", "patch_mean": "unmatched"}).fillna("")
    return table if len(shared) == PAPER_TASKS else table.assign(all=table[shared].mean(axis=1))


def _wide(rates: pd.DataFrame) -> pd.DataFrame:
    """Arms by tasks; the interval is that of the mean over tasks."""
    rates = rates.assign(source_model=rates["source_model"].fillna(""), layer=rates["layer"].astype("Float64"))
    keys = ["template", "query", "method", "source_model", "source"]
    tasks = [task for task in dict.fromkeys(rates["task"]) if task != "all"]
    overall = rates[rates["task"] == "all"].rename(columns={"exact": "all"})
    wide = rates[rates["task"] != "all"].pivot_table("exact", keys, "task", sort=False)
    beside = ["demonstrations", "budget", "layer"]
    table = overall[[*keys, *beside, "all", "low", "high"]].merge(wide.reset_index(), on=keys, how="left")
    return table[[*keys, *beside, *tasks, "all", "low", "high"]]


# Vectors of two models side by side


def cosine_table(bank: Bank, layers: Callable[[str, str, str], int]) -> pd.DataFrame:
    """Cosines of the patched model's mean vectors with those of every other source model, at the patched layer.

    Args:
        bank: of a finished run.
        layers: (source model, source, query modality) -> the layer.

    Returns:
        One row per source model, source and query modality: cosine of the same task, of different tasks (its
        baseline), and both after the mean over tasks is taken off; means over seeds. Where the pair is one of the
        paper's, its cosines of text examples as luo_same_task and luo_other_task. Empty with fewer than two tasks.
    """
    plan, settings = bank.plan, bank.plan.settings
    rows: list[dict[str, Any]] = []
    if settings.model not in settings.source_models or len(plan.tasks) < 2:
        return pd.DataFrame(rows)

    def stacked(name: str, source: str, seed: int) -> torch.Tensor:
        return torch.stack([bank.saved(name, source, task, seed).states for task in plan.tasks])

    for other in (name for name in settings.source_models if name != settings.model):
        for source in (source for source in settings.sources if source in ("text", "instruction")):
            found = [
                agreement(stacked(other, source, seed), stacked(settings.model, source, seed))
                for seed in settings.seeds
            ]
            for query in settings.queries:
                layer = layers(other, source, query)
                row: dict[str, Any] = {"source_model": other, "source": source, "query": query, "layer": layer}
                for kind in ("raw", "centred"):
                    cosines = [getattr(one, kind) for one in found]
                    row[f"{kind}_same_task"] = sum(float(matched(c)[layer]) for c in cosines) / len(cosines)
                    row[f"{kind}_other_task"] = sum(float(mismatched(c)[layer]) for c in cosines) / len(cosines)
                theirs = _published_cosines(settings.model, other) if source == "text" else {}
                rows.append(row | {"random_spread": found[0].random_spread} | theirs)
    return pd.DataFrame(rows)


def _published_cosines(model: str, source_model: str) -> dict[str, float]:
    """The paper's cosines of a pair, for text examples; none for a pair that is not theirs."""
    table = published(model)
    of_pair = table["source_model"].map(lambda name: _is(source_model, name)).astype(bool)
    pair = table[table["cosine"].notna() & of_pair]
    if pair.empty:
        return {}
    return {"luo_same_task": float(pair["cosine"].iloc[0]), "luo_other_task": PAPER_COSINE_BASELINE}
