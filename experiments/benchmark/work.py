"""The units of a benchmark run, and how many queries fit into the time.

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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from experiments.benchmark.measure import difference, reference
from experiments.benchmark.memory import measured
from experiments.benchmark.peers import ELSEWHERE, make_peer
from experiments.benchmark.peers.base import Peer, Role
from experiments.benchmark.profiling import profiled
from experiments.benchmark.settings import OURS, Settings
from experiments.benchmark.tables import pilots
from experiments.benchmark.worker import WorkerPeer, environment
from experiments.benchmark.workloads import WORKLOADS, Call, Materials, Workload
from interp.errors import CrosstaskError
from interp.models.base import Model
from interp.runs import Run

PILOT_TOKENS, PILOT_SITES = 1024, 4
MEMORY_QUERIES = 40
DOUBLE_QUERIES, DOUBLE_ROWS = 2, 6
FULL_FORWARDS: tuple[Role, ...] = ("peer",)
"""Whose time for a sweep grows with its rows; the others' grows with its queries."""


class BenchmarkWork:
    """Performs the units of a run."""

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
            keys += self.settings.memory_keys(workload.name) if self.memory else []
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
        if "absent" in pilots(self.run, self.settings, workload)[name] or repeat >= self.repeats(workload, name):
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
            (
                pilot["seconds_a_query"]
                for pilot in pilots(self.run, self.settings, workload).values()
                if "absent" not in pilot
            ),
            default=0.0,
        )
        fit = int(self.settings.seconds / (self.settings.repeats * slowest)) if slowest else most
        return max(min(workload.least, most), min(most, fit))

    def repeats(self, workload: Workload, name: str) -> int:
        """How often a peer is measured: less often where even the least number of queries takes it too long."""
        peer, pilot = self._peer(name), pilots(self.run, self.settings, workload)[name]
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
