"""Figures of fine-tuning: table = pandas.read_csv("curve.csv"), one row a step, or the benchmark's "throughput.csv"."""

import pandas as pd
from matplotlib.figure import Figure

_GRID = {"color": "#E2E2E2", "linewidth": 0.6}
_COLOURS = {"loss": "#0072B2", "rate": "#888888"}
_WINDOW = 10


def loss(table: pd.DataFrame) -> Figure:
    """The loss of each step and its running mean, with the learning rate above it.

    Args:
        table: with columns step, loss, learning_rate.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1, 3))
    upper.plot(table["step"], table["learning_rate"], color=_COLOURS["rate"])
    upper.set_ylabel("learning rate")
    lower.plot(table["step"], table["loss"], color=_COLOURS["loss"], alpha=0.35, linewidth=1, label="of a step")
    mean = table["loss"].rolling(_WINDOW, min_periods=1, center=True).mean()
    lower.plot(table["step"], mean, color=_COLOURS["loss"], label=f"mean of {_WINDOW} steps")
    lower.set_xlabel("step")
    lower.set_ylabel("loss of the answers (nats a token)")
    lower.set_ylim(bottom=0)
    lower.legend(frameon=False)
    for ax in (upper, lower):
        ax.grid(**_GRID)
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def throughput(table: pd.DataFrame) -> Figure:
    """Examples a second of each way of training, from the slowest to the fastest repeat.

    Args:
        table: with columns way, examples_per_second, low, high.
    """
    figure = Figure(figsize=(6.4, 0.8 + 0.5 * len(table)), layout="constrained")
    ax = figure.subplots()
    places = range(len(table))[::-1]
    ax.barh(places, table["examples_per_second"], color=_COLOURS["loss"], height=0.6)
    ax.hlines(places, table["low"], table["high"], color="#222222", linewidth=1)
    ax.set_yticks(list(places), table["way"])
    ax.set_xlabel("training examples a second")
    ax.grid(axis="x", **_GRID)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    return figure
