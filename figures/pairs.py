"""Figure of the comparison of two models: layers = pandas.read_csv("layers.csv"), one row per layer of the target."""

import pandas as pd
from matplotlib.figure import Figure

_GRID = {"color": "#E2E2E2", "linewidth": 0.6}
_MATCHED, _MISMATCHED = "#0072B2", "#D55E00"


def agreement_by_layer(layers: pd.DataFrame, *, source: str, target: str) -> Figure:
    """Weight distance, and cosines of matched and mismatched task vectors, raw and centred, against the layer.

    Args:
        layers: table with columns layer, weight_distance, raw_matched, raw_mismatched, centred_matched,
            centred_mismatched, random_spread.
        source: the model that vectors are read from.
        target: the model that they would be patched into.
    """
    figure = Figure(figsize=(10.5, 3.2))
    figure.set_layout_engine("constrained")
    weights, raw, centred = figure.subplots(1, 3, sharex=True)
    weights.set_title("distance of the weights", loc="left")
    weights.set_ylabel("||W - W source|| / ||W source||")
    if layers["weight_distance"].notna().any():
        weights.plot(layers["layer"], layers["weight_distance"], color="#444444")
        weights.set_ylim(bottom=0)
    else:
        weights.text(0.5, 0.5, "not compared", transform=weights.transAxes, ha="center")
    for ax, kind in ((raw, "raw"), (centred, "centred")):
        ax.set_title(f"cosine of task vectors, {kind}", loc="left")
        ax.plot(layers["layer"], layers[f"{kind}_matched"], color=_MATCHED, label="same task")
        ax.plot(layers["layer"], layers[f"{kind}_mismatched"], color=_MISMATCHED, label="different tasks")
        spread = layers["random_spread"].iloc[0]
        ax.axhspan(-2 * spread, 2 * spread, color="#888888", alpha=0.2, lw=0, label="random directions, 2 s.d.")
    for ax in figure.axes:
        ax.set_xlabel(f"layer of {target}")
        ax.grid(axis="y", **_GRID)
    figure.legend(*raw.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(f"{source} and {target}")
    return figure
