"""From rows of a long table to arrays over seeds, sources and targets, with nothing twice and nothing missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np
from jaxtyping import Float

from interp.errors import CrosstaskError
from interp.transfer.names import BASELINE, identity, near_misses, ordered
from interp.transfer.reading import Row

_SHOWN = 3


@dataclass
class Grid:
    """Rows by (seed, source, target), and the names that they use.

    Attributes:
        path: the file.
        source_column: what it calls the source.
        target_column: what it calls the target.
        rows: cell -> its row.
        labels: identity -> spelling; a target's own before a source's, else the first in the alphabet.
    """

    path: Path
    source_column: str = "ft_task"
    target_column: str = "task"
    rows: dict[tuple[str, str, str], Row] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    _of_target: set[str] = field(default_factory=set)

    def add(self, row: Row) -> None:
        """Add a row; a baseline's source may be empty.

        Raises:
            CrosstaskError: the cell has a row already.
        """
        source = row[self.source_column]
        source = BASELINE if source.lower() in ("", BASELINE) else identity(source)
        target = identity(row.name(self.target_column))
        seed = row["seed"] if source == BASELINE else row.name("seed")
        key = (seed, source, target)
        if key in self.rows:
            raise row.wrong(
                f"seed {seed!r}, {self.source_column} {row[self.source_column]!r}, {self.target_column} "
                f"{row[self.target_column]!r} was in line {self.rows[key].line} already."
            )
        self.rows[key] = row
        if source != BASELINE:
            self._note(source, row[self.source_column], of_target=False)
        self._note(target, row[self.target_column], of_target=True)

    def _note(self, name: str, spelling: str, *, of_target: bool) -> None:
        known = name in self._of_target
        if (
            name not in self.labels
            or (of_target and not known)
            or (of_target == known and spelling < self.labels[name])
        ):
            self.labels[name] = spelling
        if of_target:
            self._of_target.add(name)

    @property
    def seeds(self) -> tuple[str, ...]:
        """Of the fine-tuned models."""
        return tuple(sorted({seed for seed, source, _ in self.rows if source != BASELINE}))

    @property
    def sources(self) -> tuple[str, ...]:
        """In one order whatever that of the rows."""
        return tuple(ordered({source for _, source, _ in self.rows} - {BASELINE}))

    @property
    def targets(self) -> tuple[str, ...]:
        """In one order whatever that of the rows."""
        return tuple(ordered({target for _, _, target in self.rows}))

    def check(self) -> None:
        """Hold the grid to two tasks or more, and to a row for every cell.

        Raises:
            CrosstaskError: it is too small, cells are missing, or a source looks like a slip of a target's name.
        """
        seeds, sources, targets = self.seeds, self.sources, self.targets
        self._check_names(sources, targets)
        common = [name for name in targets if name in sources]
        if len(common) < 2:
            raise CrosstaskError(
                f"{self.path} has {_counted(len(common), 'task')} that {'is' if len(common) == 1 else 'are'} both "
                f"{self.source_column} and {self.target_column}; a transfer matrix needs two or more."
            )
        missing = [cell for cell in product(seeds, sources, targets) if cell not in self.rows]
        if missing:
            raise CrosstaskError(
                f"{self.path}: {len(missing)} of {len(seeds) * len(sources) * len(targets)} cells are missing: "
                f"{self._listed(missing)}{self._slip(missing)}"
            )

    def _check_names(self, sources: Sequence[str], targets: Sequence[str]) -> None:
        lone = {
            self.target_column: [name for name in targets if name not in sources],
            self.source_column: [name for name in sources if name not in targets],
        }
        for name in lone[self.source_column]:
            close = near_misses(name, lone[self.target_column], cutoff=0.8)
            if close:
                raise CrosstaskError(
                    f"{self.path}: {self.source_column} {self.labels[name]!r} is no {self.target_column}, but "
                    f"{self.labels[close[0]]!r} is: name them alike."
                )

    def _slip(self, cells: Sequence[tuple[str, str, str]]) -> str:
        """A question, if the name of a missing cell is nearly another one."""
        for name in dict.fromkeys(name for _, *names in cells for name in names):
            if close := near_misses(name, [other for other in self.labels if other != name], cutoff=0.8):
                return f"; are {self.labels.get(name, name)!r} and {self.labels[close[0]]!r} one task?"
        return "."

    def _listed(self, cells: Sequence[tuple[str, str, str]]) -> str:
        shown = [
            f"seed {seed!r}, {self.source_column} {self.labels.get(source, source)!r}, {self.target_column} "
            f"{self.labels[target]!r}"
            for seed, source, target in cells[:_SHOWN]
        ]
        return "; ".join(shown) + (f"; and {len(cells) - _SHOWN} more" if len(cells) > _SHOWN else "")

    def array(self, value: Callable[[Row], float]) -> Float[np.ndarray, "S I J"]:
        """One value of every cell of the fine-tuned models."""
        cells = [value(self.rows[cell]) for cell in product(self.seeds, self.sources, self.targets)]
        return np.array(cells).reshape(len(self.seeds), len(self.sources), len(self.targets))

    def baseline(self, value: Callable[[Row], float]) -> Float[np.ndarray, "S J"]:
        """One value of the frozen model for every seed and target: its own row, or the one row for all seeds.

        Raises:
            CrosstaskError: a target has no baseline, or rows for some of the seeds alone.
        """
        seeds = self.seeds
        found: dict[str, dict[str, Row]] = {target: {} for target in self.targets}
        for (seed, source, target), row in self.rows.items():
            if source == BASELINE:
                found[target][seed] = row
        absent = [self.labels[target] for target, rows in found.items() if not rows]
        if absent:
            raise CrosstaskError(
                f"{self.path} has no baseline for {_listed_names(absent)}; expected rows whose {self.source_column} is "
                f"'{BASELINE}' or empty, for every {self.target_column}."
            )
        columns = []
        for target, rows in found.items():
            if len(rows) == 1:
                columns.append([value(*rows.values())] * len(seeds))
                continue
            if set(rows) != set(seeds):
                raise CrosstaskError(
                    f"{self.path}: the baseline of {self.labels[target]!r} has rows of the seeds "
                    f"{', '.join(sorted(rows))}; expected one row, or one for each of {', '.join(seeds)}."
                )
            columns.append([value(rows[seed]) for seed in seeds])
        return np.array(columns).T

    def per_target(self, value: Callable[[Row], float], *, name: str) -> Float[np.ndarray, " J"]:
        """One value of every target, which all its rows must agree in.

        Raises:
            CrosstaskError: two rows of a target differ.
        """
        first: dict[str, Row] = {}
        for (_, _, target), row in self.rows.items():
            other = first.setdefault(target, row)
            if value(row) != value(other):
                raise row.wrong(
                    f"{name} of {self.labels[target]!r} is {row[name]}, and in line {other.line} it was {other[name]}; "
                    "expected the same items for every model."
                )
        return np.array([value(first[target]) for target in self.targets])


def by_fraction(
    rows: Iterable[Row], make: Callable[[], Grid], *, baseline_of: Callable[[Row], bool]
) -> dict[float, Grid]:
    """A grid for each training fraction, ascending; rows of the baseline belong to all. Without the column it is 1."""
    rows = list(rows)
    fractions = {
        row.line: row.number("fraction", low=0, high=1, hint="looks like per cent") if row["fraction"] else 1.0
        for row in rows
        if not baseline_of(row)
    }
    grids: dict[float, Grid] = {fraction: make() for fraction in sorted(set(fractions.values()))}
    for fraction, grid in grids.items():
        for row in rows:
            if baseline_of(row) or fractions[row.line] == fraction:
                grid.add(row)
        grid.check()
    return grids


def _counted(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def _listed_names(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def labels_of(grids: Mapping[float, Grid]) -> dict[str, str]:
    """One spelling of each task for all fractions: that of the whole training."""
    labels: dict[str, str] = {}
    for _, grid in sorted(grids.items(), reverse=True):
        for name, spelling in grid.labels.items():
            labels.setdefault(name, spelling)
    return labels
