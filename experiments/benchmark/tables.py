"""The tables of a benchmark run, from the units in its journal: results, peak memory, targets, and all as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import pandas as pd

from experiments.benchmark.measure import TOLERANCE
from experiments.benchmark.settings import BARE, CAPTURES, OURS, Settings
from experiments.benchmark.workloads import WORKLOADS, Workload
from interp.runs import Run

TARGETS = (
    # target, workload, numerator, denominator, wanted, whether it is a lower bound
    ("capture of text prompts / bare forward", "capture_text", OURS, BARE, 1.05, False),
    ("capture of five-image prompts / bare forward", "capture_images", OURS, BARE, 1.05, False),
    ("fastest peer's sweep / ours", "sweep_bare", "fastest", OURS, 15.0, True),
    ("fastest peer's sweep / ours, long contexts", "sweep_long", "fastest", OURS, 24.0, True),
    ("sweep / one plain forward", "sweep_bare", OURS, BARE, 1.8, False),
    ("sweep / one plain forward, long contexts", "sweep_long", OURS, BARE, 1.3, False),
    ("fastest peer's sweep over many vectors / ours", "sweep_vectors", "fastest", OURS, 25.0, True),
)


def pilots(run: Run, settings: Settings, workload: Workload) -> dict[str, dict[str, Any]]:
    """What the pilot found, by peer."""
    found = {peer: run.done(("pilot", workload.name, peer)) for peer in settings.peers}
    return {peer: pilot for peer, pilot in found.items() if pilot is not None}


class BenchmarkTables:
    """What a finished run found."""

    def __init__(self, settings: Settings, workloads: Sequence[Workload], run: Run) -> None:
        self.settings, self.workloads, self.run = settings, workloads, run

    @cached_property
    def results(self) -> pd.DataFrame:
        """One row per workload and peer."""
        return pd.DataFrame(row for workload in self.workloads for row in self._rows(workload))

    def _rows(self, workload: Workload) -> Iterator[dict[str, Any]]:
        seconds, tolerance = self._seconds(workload), TOLERANCE[self.settings.dtype]
        size = {name: self._measured(workload, OURS)[0][name] for name in ("queries", "rows", "shortest", "longest")}
        for name, pilot in pilots(self.run, self.settings, workload).items():
            if pilot.get("absent") == "not its work":
                continue
            row = {
                "workload": workload.name,
                "title": workload.title,
                "model": self.settings.models[workload.model],
                "peer": name,
                "version": pilot.get("version", ""),
                **size,
                "repeats": len(seconds.get(name, ())),
            }
            if name not in seconds:
                yield {**row, "verdict": "not run", "note": pilot["absent"]}
                continue
            ratios = [value / statistics.median(seconds[OURS]) for value in seconds[name]]
            row |= _summary("seconds", seconds[name]) | _summary("ratio", ratios)
            found = [unit["difference"] for unit in self._measured(workload, name)]
            if None in found:
                yield {**row, "verdict": "reference", "note": ""}
            else:
                verdict = "right" if max(found) <= tolerance else "wrong"
                yield {**row, "difference": max(found), "verdict": verdict, "note": ""}

    def _measured(self, workload: Workload, name: str) -> list[dict[str, Any]]:
        keys = [("measure", workload.name, repeat, name) for repeat in range(self.settings.repeats)]
        return [unit for key in keys if (unit := self.run.done(key)) and "seconds" in unit]

    def _seconds(self, workload: Workload) -> dict[str, list[float]]:
        found = {name: [unit["seconds"] for unit in self._measured(workload, name)] for name in self.settings.peers}
        return {name: values for name, values in found.items() if values}

    @cached_property
    def memory_table(self) -> pd.DataFrame:
        """One row per capture workload and measurement of peak memory."""
        keys = [key for workload in self.workloads for key in self.settings.memory_keys(workload.name)]
        rows = [
            dict(zip(("workload", "repeat", "peer"), key[1:], strict=True)) | held
            for key in keys
            if (held := self.run.done(key)) is not None
        ]
        return pd.DataFrame(rows, columns=["workload", "peer", "repeat", "above", "total"])

    @cached_property
    def targets(self) -> pd.DataFrame:
        """One row per target: what was wanted and what was found (empty where it was not measured)."""
        names = {workload.name for workload in self.workloads}
        rows = []
        for target, workload, above, below, wanted, lower in TARGETS:
            found = self._ratio(WORKLOADS[workload], above, below) if workload in names else None
            rows.append(_target(target, wanted, found, lower=lower))
        for name in CAPTURES:
            held = self.memory_table[self.memory_table["workload"] == name].groupby("peer")["above"].median()
            found = held[OURS] / held[BARE] if {OURS, BARE} <= set(held.index) else None
            rows.append(_target(f"peak memory of {name} / bare forward", 1.1, found, lower=False))
        ours = self.results[self.results["peer"] == OURS]["difference"]
        rows.append(_target(f"difference in {self.settings.dtype}", TOLERANCE[self.settings.dtype], ours.max()))
        units = [self.run.done(("float64", workload.name)) for workload in self.workloads]
        double = max((unit["difference"] for unit in units if unit), default=None)
        rows.append(_target("difference in float64", TOLERANCE["float64"], double))
        return pd.DataFrame(rows)

    def _ratio(self, workload: Workload, above: str, below: str) -> float | None:
        """Ratio of the median times of two peers."""
        seconds = self._seconds(workload)
        if above == "fastest":
            above = self.fastest(workload) or ""
        if above not in seconds or below not in seconds:
            return None
        return statistics.median(seconds[above]) / statistics.median(seconds[below])

    def fastest(self, workload: Workload) -> str | None:
        """The fastest of the peers whose numbers are right."""
        here = self.results[(self.results["workload"] == workload.name) & (self.results["verdict"] == "right")]
        peers = here[[not name.startswith(OURS) for name in here["peer"]]]
        return None if peers.empty else str(peers.loc[peers["seconds"].idxmin(), "peer"])

    def summary(self) -> str:
        """Both tables and what was left out, as Markdown."""
        parts = ["# Speed, measured side by side", "", _NOTE.format(**self.settings.config()), ""]
        for workload in self.workloads:
            here = self.results[self.results["workload"] == workload.name]
            first = here.iloc[0]
            parts += [f"## {workload.title}", ""]
            parts += [
                f"{first['model']}, {first['queries']} queries of {first['shortest']} to {first['longest']} tokens, "
                f"{first['rows']} rows.",
                "",
                "| peer | version | repeats | seconds (median, min to max) | ratio to ours | difference | numbers |",
                "|---|---|---|---|---|---|---|",
                *(_line(row) for _, row in here.iterrows()),
                "",
            ]
        parts += ["## Targets", "", "| target | wanted | found | met |", "|---|---|---|---|"]
        for row in self.targets.itertuples():
            found = "not measured" if pd.isna(row.found) else f"{row.found:.3g}"
            parts.append(f"| {row.target} | {row.wanted} | {found} | {row.met} |")
        return "\n".join(parts) + "\n"


_NOTE = (
    "{threads} threads, {dtype}, {device}; repeats interleaved over the peers, one process. All take the same "
    "number of queries, such that each needs at most about {seconds:g} seconds for a workload, repeats together; where "
    "the least number takes longer, a peer is repeated less often. `bare` is one plain forward "
    "pass of each query, with nothing read or patched; `ours_copied` is our engine for models that take no 4-D mask "
    "and counts as no peer. The difference is the largest from a plain full forward of one query, as a share of the "
    "scale (for generated tokens: the share that differs)."
)


def _line(row: pd.Series) -> str:
    if row["verdict"] == "not run":
        return f"| {row['peer']} | {row['version']} | 0 | | | | {row['note']} |"
    span = f"{row['seconds']:.3g} ({row['seconds_min']:.3g} to {row['seconds_max']:.3g})"
    ratio = f"{row['ratio']:.3g} ({row['ratio_min']:.3g} to {row['ratio_max']:.3g})"
    shown = "" if pd.isna(row.get("difference")) else f"{row['difference']:.1e}"
    return f"| {row['peer']} | {row['version']} | {row['repeats']} | {span} | {ratio} | {shown} | {row['verdict']} |"


def _summary(name: str, values: Sequence[float]) -> dict[str, float]:
    return {name: statistics.median(values), f"{name}_min": min(values), f"{name}_max": max(values)}


def _target(target: str, limit: float, found: float | None, *, lower: bool = False) -> dict[str, Any]:
    """A row of the table of targets; ``lower`` says that at least the limit is wanted."""
    wanted = f"{'at least' if lower else 'at most'} {limit:g}"
    if found is None or pd.isna(found):
        return {"target": target, "wanted": wanted, "found": None, "met": "not measured"}
    met = found >= limit if lower else found <= limit
    return {"target": target, "wanted": wanted, "found": found, "met": "yes" if met else "no"}
