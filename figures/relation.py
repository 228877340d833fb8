"""Figures of `python -m experiments.relate`, from the tables that it saves:

pairs      = pandas.read_csv("pairs.csv")       every pair of tasks in every matrix that is drawn
relation   = pandas.read_csv("relation.csv")    every correlation with its null
prediction = pandas.read_csv("prediction.csv")  how well sources are ranked

`left` is what row and column effects leave. Rows of matrices are sources, columns targets. Several models are drawn
beside (scatters) or below (matrices) each other.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

FAMILIES = {"task vectors": "#0072B2", "updates": "#D55E00", "other": "#009E73", "covariate": "#777777"}
KINDS = {"baseline": "#777777", "similarity": "#0072B2", "combination": "#D55E00", "ceiling": "#222222"}
METRICS = {"spearman": "Spearman", "ndcg": "NDCG", "regret": "regret of the first three"}
_NAMED = 4
_STYLES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D", "v", "x")
_SAME = "#D55E00"
_OTHER = "#0072B2"


def chosen_matrix(relation: pd.DataFrame, family: str, *, preferred: str = "format") -> dict[str, pd.Series]:
    """Model -> row of the matrix of a family that is drawn: a preferred measure, else the summary of largest |r|."""
    rows = relation[(relation["family"] == family) & relation["summary"].astype(bool) & relation["r"].notna()]
    found = {}
    for model, mine in rows.groupby("model", sort=False):
        named = mine[mine["measure"] == preferred]
        found[model] = (named if len(named) else mine).loc[lambda part: part["r"].abs().idxmax()]
    return found


def scatter(pairs: pd.DataFrame, relation: pd.DataFrame, *, family: str) -> Figure:
    """What row and column effects leave of transfer against that of a similarity, a point for every ordered pair.

    Args:
        pairs: table of pairs.csv.
        relation: table of relation.csv.
        family: of the similarity; of its measures the summary of largest |r|, of covariates the format.
    """
    chosen = chosen_matrix(relation, family)
    figure, axes = _panels(len(chosen))
    for ax, (model, row) in zip(axes, chosen.items(), strict=True):
        mine = pairs[pairs["model"] == model]
        x = mine[(mine["kind"] == family) & (mine["matrix"] == row["measure"])]
        y = mine[mine["kind"] == "transfer"]
        both = x.merge(y, on=["source", "target"], suffixes=("", "_transfer"))
        _points(ax, both, "left", "left_transfer", binary=both["value"].isin([0, 1]).all())
        ax.set_xlabel(f"{_measure(row)},\ndouble-centred")  # names of measures may be long
        ax.set_ylabel("transfer, double-centred")
        span = f" [{row['low']:.2f}, {row['high']:.2f}]" if np.isfinite(row["low"]) else ""
        said = f"r = {row['r']:.2f}{span}, p = {row['p']:.2g}"
        ax.set_title(f"{model}: {said}" if len(chosen) > 1 else said, fontsize=9, loc="left")
    return figure


def structure_scatter(pairs: pd.DataFrame) -> Figure:
    """What row and column effects leave in two halves of the runs; of a single run in the two directions of a pair."""
    models = list(dict.fromkeys(pairs["model"]))
    figure, axes = _panels(len(models))
    for ax, model in zip(axes, models, strict=True):
        mine = pairs[pairs["model"] == model]
        halves = list(dict.fromkeys(mine.loc[mine["kind"] == "half", "matrix"]))
        if halves:
            one, two = (mine[mine["matrix"] == half] for half in halves)
            both = one.merge(two, on=["source", "target"], suffixes=("", "_other"))
            labels = [f"{half}, double-centred" for half in halves]
        else:
            one = mine[mine["kind"] == "transfer"]
            turned = one.rename(columns={"source": "target", "target": "source"})
            both = one.merge(turned, on=["source", "target"], suffixes=("", "_other"))
            labels = ["source to target, double-centred", "target to source, double-centred"]
        _points(ax, both, "left", "left_other")
        ax.set_xlabel(labels[0])
        ax.set_ylabel(labels[1])
        r = both["left"].corr(both["left_other"])
        ax.set_title(f"{model}: r = {r:.2f}" if len(models) > 1 else f"r = {r:.2f}", fontsize=9, loc="left")
    return figure


def heatmaps(pairs: pd.DataFrame, relation: pd.DataFrame, *, family: str) -> Figure:
    """A similarity beside transfer, row and column effects removed from both.

    Args:
        pairs: table of pairs.csv.
        relation: table of relation.csv.
        family: as in `scatter`.
    """
    chosen = chosen_matrix(relation, family)
    figure, axes = _grid(len(chosen))
    for row, (model, found) in zip(axes, chosen.items(), strict=True):
        mine = pairs[pairs["model"] == model]
        x = mine[(mine["kind"] == family) & (mine["matrix"] == found["measure"])]
        prefix = f"{model}: " if len(chosen) > 1 else ""
        _matrix(row[0], x, "left", f"{prefix}{_measure(found)}, double-centred")
        _matrix(row[1], mine[mine["kind"] == "transfer"], "left", "transfer, double-centred")
    return figure


def structure_heatmaps(pairs: pd.DataFrame) -> Figure:
    """Transfer as measured, and what row and column effects leave of it."""
    models = list(dict.fromkeys(pairs["model"]))
    figure, axes = _grid(len(models))
    for row, model in zip(axes, models, strict=True):
        mine = pairs[(pairs["model"] == model) & (pairs["kind"] == "transfer")]
        prefix = f"{model}: " if len(models) > 1 else ""
        _matrix(row[0], mine, "value", f"{prefix}transfer")
        _matrix(row[1], mine, "left", "what row and column effects leave")
    return figure


def layer_curves(relation: pd.DataFrame) -> Figure | None:
    """Correlations over layers, with what the largest of all reaches in 5 % of permutations; None without layers."""
    rows = relation[(relation["family"] != "covariate") & relation["layer"].astype(str).str.fullmatch(r"-?\d+")]
    if not len(rows):
        return None
    models = list(dict.fromkeys(rows["model"]))
    figure, axes = _panels(len(models), sharey=True)
    for ax, model in zip(axes, models, strict=True):
        mine = rows[rows["model"] == model]
        for family, members in mine.groupby("family", sort=False):
            for index, (measure, curve) in enumerate(members.groupby("measure", sort=False)):
                ordered = curve.assign(at=curve["layer"].astype(int)).sort_values("at")
                style = {"color": FAMILIES[family], "linestyle": _STYLES[index % len(_STYLES)], "linewidth": 1.4}
                style |= {"marker": _MARKERS[index // len(_STYLES) % len(_MARKERS)], "markersize": 4}
                ax.plot(ordered["at"], ordered["r"], label=measure, **style)
        reach = float(mine["null_maxt"].iloc[0])
        ax.axhspan(-reach, reach, color="#EEEEEE", zorder=0, label="95 % of the largest of all, permuted")
        ax.axhline(0, color="#999999", linewidth=0.8)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("layer")
        ax.set_title(model if len(models) > 1 else "", fontsize=9, loc="left")
    axes[0].set_ylabel("correlation with transfer, double-centred")
    handles, labels = axes[-1].get_legend_handles_labels()
    figure.set_figwidth(figure.get_figwidth() + 2.6)
    figure.set_figheight(max(figure.get_figheight(), 0.6 + 0.165 * len(labels)))
    figure.legend(handles, labels, loc="outside right center", fontsize=7, frameon=False)
    return figure


def forest(relation: pd.DataFrame) -> Figure:
    """The summary of every measure and every covariate: r, its jackknife interval, and where permuted tasks fall."""
    rows = relation[relation["summary"].astype(bool) & relation["r"].notna()]
    models = list(dict.fromkeys(rows["model"]))
    names = list(dict.fromkeys(zip(rows["family"], rows["measure"], strict=True)))
    figure = Figure(figsize=(3.2 + 3.4 * len(models), 1.4 + 0.32 * len(names)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(models), sharex=True, sharey=True))
    for ax, model in zip(axes, models, strict=True):
        for row in rows[rows["model"] == model].itertuples():
            at = names.index((row.family, row.measure))
            ax.plot([-row.null, row.null], [at, at], color="#E2E2E2", linewidth=9, solid_capstyle="butt", zorder=1)
            ax.plot([row.low, row.high], [at, at], color=FAMILIES[row.family], linewidth=1.4, zorder=2)
            ax.plot(row.r, at, "o", color=FAMILIES[row.family], markersize=5, zorder=3)
        ax.axvline(0, color="#999999", linewidth=0.8, zorder=0)
        ax.set_title(model if len(models) > 1 else "", fontsize=9, loc="left")
        ax.set_xlabel("correlation with transfer")
        ax.set_xlim(-1, 1)
    axes[0].set_yticks(range(len(names)), [measure for _, measure in names], fontsize=8)
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    return figure


def predictor_bars(prediction: pd.DataFrame) -> Figure:
    """Every predictor in every metric, with intervals that resample targets; a dashed line is a random order."""
    models = list(dict.fromkeys(prediction["model"]))
    names = list(dict.fromkeys(prediction["predictor"]))
    size = (3.6 + 2.5 * len(METRICS), 0.9 + (0.7 + 0.26 * len(names)) * len(models))
    figure = Figure(figsize=size, layout="constrained")
    axes = np.atleast_2d(figure.subplots(len(models), len(METRICS), sharey=True, sharex="col", squeeze=False))
    for line, model in zip(axes, models, strict=True):
        for ax, (metric, title) in zip(line, METRICS.items(), strict=True):
            rows = prediction[(prediction["model"] == model) & (prediction["metric"] == metric)]
            for row in rows.itertuples():
                at = names.index(row.predictor)
                ax.plot([row.low, row.high], [at, at], color=KINDS[row.kind], linewidth=1.4)
                ax.plot(row.value, at, "o", color=KINDS[row.kind], markersize=4.5)
            ax.axvline(rows["random"].iloc[0], color="#999999", linewidth=0.9, linestyle="--", zorder=0)
            better = "less is better" if metric == "regret" else "more is better"
            ax.set_title(f"{title} ({better})", fontsize=8, loc="left")
            ax.tick_params(labelsize=7)
        line[0].set_yticks(range(len(names)), names, fontsize=7)
        line[0].set_ylim(len(names) - 0.4, -0.6)
        if len(models) > 1:
            line[0].set_ylabel(model)
    return figure


def best_predictor(prediction: pd.DataFrame) -> dict[str, str]:
    """Model -> predictor of the highest Spearman correlation; no ceiling, and no baseline if there is another."""
    rows = prediction[(prediction["metric"] == "spearman") & (prediction["kind"] != "ceiling")]
    found = {}
    for model, mine in rows.groupby("model", sort=False):
        own = mine[mine["kind"] != "baseline"]
        chosen = own if len(own) else mine[mine["predictor"] == "source mean"]
        found[model] = str(chosen.loc[chosen["value"].idxmax(), "predictor"])
    return found


def prediction_scatter(pairs: pd.DataFrame, prediction: pd.DataFrame) -> Figure:
    """Measured transfer against the best predictor's score, the mean of each target taken off both."""
    best = best_predictor(prediction)
    figure, axes = _panels(len(best))
    for ax, (model, name) in zip(axes, best.items(), strict=True):
        both = _predicted(pairs, model, name)
        for column in ("value", "value_transfer"):
            both[column] -= both.groupby("target")[column].transform("mean")
        _points(ax, both, "value", "value_transfer")
        ax.set_xlabel(f"{name}, target means off")
        ax.set_ylabel("transfer, target means off")
        row = prediction[(prediction["model"] == model) & (prediction["predictor"] == name)].set_index("metric")
        found = row.loc["spearman"]
        said = f"Spearman within targets {found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
        ax.set_title(f"{model}: {said}" if len(best) > 1 else said, fontsize=9, loc="left")
    return figure


def prediction_heatmaps(pairs: pd.DataFrame, prediction: pd.DataFrame) -> Figure:
    """Ranks of the sources of each target: by the best predictor, and as measured."""
    best = best_predictor(prediction)
    figure, axes = _grid(len(best))
    for row, (model, name) in zip(axes, best.items(), strict=True):
        both = _predicted(pairs, model, name)
        for column in ("value", "value_transfer"):
            ranks = both.groupby("target")[column].rank()
            both[column] = ranks - ranks.mean()
        prefix = f"{model}: " if len(best) > 1 else ""
        _matrix(row[0], both, "value", f"{prefix}rank of sources by {name}")
        _matrix(row[1], both, "value_transfer", "rank of sources, measured")
    return figure


def _predicted(pairs: pd.DataFrame, model: str, name: str) -> pd.DataFrame:
    mine = pairs[pairs["model"] == model]
    scores = mine[(mine["kind"] == "prediction") & (mine["matrix"] == name)]
    return scores.merge(mine[mine["kind"] == "transfer"], on=["source", "target"], suffixes=("", "_transfer"))


def _points(ax: Axes, both: pd.DataFrame, x: str, y: str, *, binary: bool = False) -> None:
    """Points with a least-squares line; the pairs that decide it most are named."""
    colour = np.where(both["value"] == 1, _SAME, _OTHER) if binary else _OTHER
    ax.scatter(both[x], both[y], s=14, alpha=0.7, c=colour, linewidths=0)
    if both[x].std() > 0:
        slope, start = np.polyfit(both[x], both[y], 1)
        ends = np.array([both[x].min(), both[x].max()])
        ax.plot(ends, start + slope * ends, color="#222222", linewidth=1)
    pull = ((both[x] - both[x].mean()) * (both[y] - both[y].mean())).abs()
    for row in both.loc[pull.nlargest(_NAMED).index].to_dict("records"):
        label = f"{row['source']} to {row['target']}"
        right = row[x] > both[x].mean()
        place = {"xytext": (-4 if right else 4, 3), "ha": "right" if right else "left", "textcoords": "offset points"}
        ax.annotate(label, (row[x], row[y]), fontsize=6.5, **place)
    ax.axhline(0, color="#DDDDDD", linewidth=0.8, zorder=0)
    ax.axvline(0, color="#DDDDDD", linewidth=0.8, zorder=0)
    ax.locator_params(nbins=5)


def _matrix(ax: Axes, cells: pd.DataFrame, column: str, title: str) -> None:
    """One matrix, blue above 0 and red below, grey where a task meets itself."""
    names: Sequence[str] = list(dict.fromkeys(cells["source"]))
    wide = cells.pivot_table(index="source", columns="target", values=column).reindex(index=names, columns=names)
    values = wide.to_numpy(float)
    limit = float(np.nanquantile(np.abs(values), 0.97)) or 1.0
    image = ax.imshow(np.ma.masked_invalid(values), cmap="RdBu", norm=TwoSlopeNorm(0, -limit, limit))
    ax.set_facecolor("#DDDDDD")
    ax.set_xticks(range(len(names)), names, fontsize=7, rotation=90 if max(map(len, names)) > 3 else 0)
    ax.set_yticks(range(len(names)), names, fontsize=7)
    ax.tick_params(length=0)
    ax.set_title(title, fontsize=8.5, loc="left")
    ax.figure.colorbar(image, ax=ax, extend="both", shrink=0.75, pad=0.02).ax.tick_params(labelsize=7)


def _measure(row: pd.Series) -> str:
    return f"{row['measure']}, layers pooled" if row["layer"] == "pooled" else str(row["measure"])


def _panels(count: int, *, sharey: bool = False) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(4.6 * count, 3.9), layout="constrained")
    return figure, np.atleast_1d(figure.subplots(1, count, sharey=sharey))


def _grid(rows: int) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(9.2, 3.9 * rows), layout="constrained")
    return figure, figure.subplots(rows, 2, squeeze=False)
