"""The units of a benchmark run, how many queries fit into the time, and the tables.

1. pilot     per workload and peer, a warm-up and a small part of the work; it also says who cannot take part, and why
2. size      the number of queries that the slowest peer does in the time allowed, all repeats together; all take it.
             Where the least number takes a peer longer, that peer is repeated less often, but measured once at least
3. measure   repeats interleaved: every peer once, then every peer once more; the first in a process is warmed up
4. float64   ours against a plain full forward in double precision
5. memory    peak of ours and of the bare forward passes, a process each

A finished unit is in the journal, so a killed run continues with the next.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from experiments.benchmark.measure import TOLERANCE, difference, reference
from experiments.benchmark.memory import measured
from experiments.benchmark.peers import ELSEWHERE, PEERS, make_peer
from experiments.benchmark.peers.base import Peer, Role
from experiments.benchmark.profiling import profiled
from experiments.benchmark.worker import WorkerPeer, environment
from experiments.benchmark.workloads import WORKLOADS, Call, Materials, Workload
from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.prompts import Template
from interp.runs import Run
from interp.tasks import Task

OURS, BARE = "ours", "bare"
PILOT_TOKENS, PILOT_SITES = 1024, 4
MEMORY_QUERIES = 40
CAPTURES = ("capture_text", "capture_images")
DOUBLE_QUERIES, DOUBLE_ROWS = 2, 6
FULL_FORWARDS: tuple[Role, ...] = ("peer",)
"""Whose time for a sweep grows with its rows; the others' grows with its queries."""

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


@dataclass(frozen=True)
class Settings:
    """What decides the numbers.

    Attributes:
        models: names of the ``vlm`` and the ``llm``.
        repeats: interleaved measurements of each peer.
        seconds: most seconds of any peer on a workload, all repeats together.
        queries: most queries of a workload.
    """

    models: dict[str, str]
    tasks: tuple[str, ...]
    peers: tuple[str, ...]
    repeats: int
    seconds: float
    queries: int
    lengths: tuple[int, int]
    vectors: int
    threads: int
    seed: int
    template: str
    dtype: str
    device: str

    def __post_init__(self) -> None:
        for name, least in (("repeats", 1), ("queries", 1), ("vectors", 1), ("threads", 1), ("seconds", 0)):
            if getattr(self, name) < least:
                raise CrosstaskError(f"--{name} is {getattr(self, name)}; it must be at least {least}.")
        if not 1 <= self.lengths[0] <= self.lengths[1]:
            raise CrosstaskError(f"--lengths {self.lengths[0]} {self.lengths[1]}: give the shortest, then the longest.")
        if self.dtype not in TOLERANCE:
            raise CrosstaskError(f"--dtype {self.dtype!r}: numbers are compared in {' or '.join(TOLERANCE)}.")
        if unknown := [name for name in self.peers if name not in PEERS]:
            raise CrosstaskError(f"--peers {unknown[0]!r} is unknown; expected some of {', '.join(PEERS)}.")
        if OURS not in self.peers:
            raise CrosstaskError(f"--peers leaves out {OURS!r}, which all others are compared with.")

    def config(self) -> dict[str, Any]:
        """As config.json has it."""
        return asdict(self)

    def materials(self, tasks: Sequence[Task]) -> Materials:
        """What the calls are built from."""
        template = Template.parse(self.template)
        return Materials(tuple(tasks), template, self.lengths, self.vectors, self.seed)


class BenchmarkWork:
    """Performs the units of a run and makes its tables."""

    def __init__(
        self,
        settings: Settings,
        workloads: Sequence[str],
        materials: Materials,
        load: Callable[[str, str], Model],
        run: Run,
        *,
        environments: Path,
        memory: bool = True,
    ) -> None:
        """``load`` is called with a model's name and dtype; ``environments`` is where peers' own ones are made."""
        if unknown := [name for name in workloads if name not in WORKLOADS]:
            raise CrosstaskError(f"--workloads {unknown[0]!r} is unknown; expected some of {', '.join(WORKLOADS)}.")
        self.settings, self.materials, self.run, self.load = settings, materials, run, load
        self.workloads = [WORKLOADS[name] for name in dict.fromkeys(workloads)]
        self.environments, self.memory = environments, memory
        self._peers: dict[str, Peer] = {}
        self._warm: set[tuple[str, str]] = set()
        self._calls: dict[tuple[str, int], Call] = {}
        self._expected: dict[str, Tensor] = {}

    def close(self) -> None:
        """End the workers."""
        gc.unfreeze()
        for peer in self._peers.values():
            if isinstance(peer, WorkerPeer):
                peer.close()

    # Units

    def units(self) -> list[tuple[Any, ...]]:
        """The keys of all units in order."""
        keys: list[tuple[Any, ...]] = []
        for workload in self.workloads:
            keys += [("pilot", workload.name, peer) for peer in self.settings.peers]
            keys += [
                ("measure", workload.name, repeat, peer)
                for repeat in range(self.settings.repeats)
                for peer in self.settings.peers
            ]
            keys.append(("float64", workload.name))
            if self.memory and workload.name in CAPTURES:
                repeats = range(self.settings.repeats)
                keys += [("memory", workload.name, repeat, peer) for repeat in repeats for peer in (OURS, BARE)]
        return keys

    def perform(self, key: tuple[Any, ...]) -> None:
        """Do a unit unless the journal holds it."""
        if self.run.done(key) is not None:
            return
        kind, workload, *rest = key
        self.run.record(key, getattr(self, f"_{kind}")(WORKLOADS[workload], *rest))

    def _pilot(self, workload: Workload, name: str) -> dict[str, Any]:
        model, call = self._model(workload), self._pilot_call(workload)
        try:
            peer = self._peer(name)
            if not peer.does(call):
                return {"absent": "not its work"}
            self._warm_up(peer, name, workload)
            seconds = peer.run(model, call).seconds
        except Exception as error:
            if name == OURS:
                raise
            known = isinstance(error, CrosstaskError)
            said = str(error).strip().partition("\n")[0]
            return {"absent": f"not run: {said if known else f'{type(error).__name__}: {said}'}"}
        whole = self._call(workload, len(call.prompts))
        share = whole.rows / call.rows if peer.role in FULL_FORWARDS else 1.0
        return {"seconds_a_query": seconds * share / len(call.prompts), "version": peer.version}

    def _measure(self, workload: Workload, repeat: int, name: str) -> dict[str, Any]:
        if "absent" in self._pilots(workload)[name] or repeat >= self.repeats(workload, name):
            return {"absent": True}
        peer, call = self._peer(name), self._call(workload, self.size(workload))
        self._warm_up(peer, name, workload)
        outcome = peer.run(self._model(workload), call)
        lengths = [prompt.n_tokens for prompt in call.prompts]
        done = {"seconds": outcome.seconds, "difference": None, "queries": len(lengths), "rows": call.rows}
        done |= {"shortest": min(lengths), "longest": max(lengths)}
        if outcome.kept is None:
            return done
        if workload.name not in self._expected:
            self._expected = {workload.name: reference(self._model(workload), call)}
        return done | {"difference": difference(outcome.kept, self._expected[workload.name])}

    def _float64(self, workload: Workload) -> dict[str, Any]:
        model = self.load(self.settings.models[workload.model], "float64")
        call = self._few_rows(self.materials.call(workload, model, DOUBLE_QUERIES))
        kept = self._peer(OURS).run(model, call).kept
        assert kept is not None
        return {"difference": difference(kept, reference(model, call))}

    def _memory(self, workload: Workload, _repeat: int, name: str) -> dict[str, Any]:
        settings = self.settings
        return measured(
            name,
            workload.name,
            self.materials,
            queries=min(self.size(workload), MEMORY_QUERIES),
            threads=settings.threads,
            model=settings.models[workload.model],
            dtype=settings.dtype,
            device=settings.device,
        )

    # What units share

    def size(self, workload: Workload) -> int:
        """Queries that every peer does in the time allowed, repeats together."""
        most = min(workload.queries, self.settings.queries)
        slowest = max(
            (pilot["seconds_a_query"] for pilot in self._pilots(workload).values() if "absent" not in pilot),
            default=0.0,
        )
        fit = int(self.settings.seconds / (self.settings.repeats * slowest)) if slowest else most
        return max(min(workload.least, most), min(most, fit))

    def repeats(self, workload: Workload, name: str) -> int:
        """How often a peer is measured: less often where even the least number of queries takes it too long."""
        peer, pilot = self._peer(name), self._pilots(workload)[name]
        if peer.role not in FULL_FORWARDS:
            return self.settings.repeats
        fit = int(self.settings.seconds / (self.size(workload) * pilot["seconds_a_query"]))
        return max(1, min(self.settings.repeats, fit))

    def profile(self, name: str) -> Path:
        """Run ours under the profilers and write where the time goes; the path of what was written.

        Raises:
            CrosstaskError: for an unknown workload.
        """
        if name not in WORKLOADS:
            raise CrosstaskError(f"--profile {name!r} is unknown; expected one of {', '.join(WORKLOADS)}.")
        workload = WORKLOADS[name]
        ours, model, call = self._peer(OURS), self._model(workload), self._profiled(workload)
        report = profiled(lambda: ours.run(model, call).seconds)
        head = f"{workload.title}: {len(call.prompts)} queries, {call.rows} rows, {self.settings.threads} threads"
        return self.run.write_text(f"profile_{name}.txt", f"{head}\n{report}")

    def _profiled(self, workload: Workload) -> Call:
        """The call that a profile is taken of: of the measured size, or of a moderate one if nothing was measured."""
        known = all(self.run.done(("pilot", workload.name, peer)) is not None for peer in self.settings.peers)
        most = min(workload.queries, self.settings.queries)
        return self._call(workload, self.size(workload) if known else min(most, 2 * workload.least))

    def _pilots(self, workload: Workload) -> dict[str, dict[str, Any]]:
        found = {peer: self.run.done(("pilot", workload.name, peer)) for peer in self.settings.peers}
        return {peer: pilot for peer, pilot in found.items() if pilot is not None}

    def _pilot_call(self, workload: Workload) -> Call:
        first = self._call(workload, 1)
        tokens = first.prompts[0].n_tokens * (PILOT_SITES if workload.kind == "sweep" else 1)
        queries = max(1, min(PILOT_TOKENS // tokens, workload.queries, self.settings.queries))
        return self._call(workload, queries).begun(queries, PILOT_SITES)

    def _few_rows(self, call: Call) -> Call:
        """A few of each query's sites, from the first to the last, all of them checked."""
        chosen = []
        for sites in call.sites:
            step = max(1, -(-len(sites) // DOUBLE_ROWS))
            chosen.append(tuple(dict.fromkeys((*sites[::step], *sites[-1:]))))
        few = Call(call.kind, call.prompts, call.vectors, tuple(chosen), ())
        return Call(call.kind, few.prompts, few.vectors, few.sites, tuple(range(few.rows)))

    def _warm_up(self, peer: Peer, name: str, workload: Workload) -> None:
        """Once a process: what is set up at first use is not measured."""
        if (name, workload.name) not in self._warm:
            peer.run(self._model(workload), self._call(workload, 1).begun(1, PILOT_SITES))
            self._warm.add((name, workload.name))

    def _call(self, workload: Workload, queries: int) -> Call:
        key = (workload.name, queries)
        if key not in self._calls:
            self._calls = {kept: call for kept, call in self._calls.items() if kept[0] == workload.name}
            self._calls[key] = self.materials.call(workload, self._model(workload), queries)
        return self._calls[key]

    def _model(self, workload: Workload) -> Model:
        return self.load(self.settings.models[workload.model], self.settings.dtype)

    def _peer(self, name: str) -> Peer:
        if name not in self._peers:
            self._peers[name] = self._elsewhere(name) if name in ELSEWHERE else make_peer(name)
        return self._peers[name]

    def _elsewhere(self, name: str) -> Peer:
        python = environment(self.environments / f"{name}-venv", ELSEWHERE[name])
        settings, log = self.settings, self.run.folder / f"{name}.log"
        options = {"threads": settings.threads, "dtype": settings.dtype, "device": settings.device}
        return WorkerPeer(python, name, **options, log=log)  # type: ignore[arg-type]

    # Tables

    @cached_property
    def results(self) -> pd.DataFrame:
        """One row per workload and peer."""
        return pd.DataFrame(row for workload in self.workloads for row in self._rows(workload))

    def _rows(self, workload: Workload) -> Iterator[dict[str, Any]]:
        seconds, tolerance = self._seconds(workload), TOLERANCE[self.settings.dtype]
        size = {name: self._measured(workload, OURS)[0][name] for name in ("queries", "rows", "shortest", "longest")}
        for name, pilot in self._pilots(workload).items():
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
        rows = []
        for kind, workload, *rest in self.units():
            if kind == "memory":
                repeat, name = rest
                held = self.run.done((kind, workload, repeat, name))
                rows.append({"workload": workload, "peer": name, "repeat": repeat, **(held or {})})
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
        """Median over repeats of the ratio of two peers' times."""
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
