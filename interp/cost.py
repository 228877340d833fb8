"""What a sweep costs, on paper: token-forwards, passes of the vision tower, arithmetic and cache.

For Q queries of T tokens (the delimiter included) with I images each, V vectors patched at every one of L layers, so
R = V L patches a query, and answers of A tokens:

    engine                  token-forwards                     vision passes   cached positions of a query at the end
    plain without a cache   Q R (A T + A (A - 1)/2)            Q R I A         0
    plain                   Q R (T + A - 1)                    Q R I           R (T + A - 1)
    copied                  Q (T - 1 + R A)                    Q I             R (T + A - 1), and T - 1 of the prefix
    packed                  Q (T + V (L - 1)/2 + R (A - 1))    Q I             T + R A, and T - 1 of the prefix

The first answer token comes from the delimiter's own forward pass, so A tokens need A - 1 steps after it; the last
token is never run. Answers that end early cost less. A packed row patched at layer l is the bare delimiter up to there,
so its first step runs it from block l + 1 on, which is half of the blocks on average; the bare row goes before them.
(Where that would not save anything, with a single layer, or a model whose blocks take more than transformers' common
arguments, rows run through all blocks without the bare one.)

A token-forward of context C takes ``2 P + 4 L H E C`` floating-point operations: P parameters of the blocks, once to
multiply and once to add, and in each of L layers H heads of width E that score C keys and mix C values. A position of
the cache holds ``2 L K E`` numbers, with K heads of keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from interp.errors import CrosstaskError

Engine: TypeAlias = Literal["uncached", "plain", "copied", "packed"]
ENGINES: tuple[Engine, ...] = ("uncached", "plain", "copied", "packed")


@dataclass(frozen=True)
class Shape:
    """A decoder on paper.

    Attributes:
        layers: L, decoder blocks.
        width: D, of the residual stream.
        inner: width of the gated feed-forward layer.
        heads: H, of queries.
        key_heads: K, of keys and values.
        head_width: E.
        vocabulary: rows of the unembedding.
        image_tokens: tokens of one image.
        image_operations: floating-point operations of the vision tower for one image.
    """

    layers: int
    width: int
    inner: int
    heads: int
    key_heads: int
    head_width: int
    vocabulary: int
    image_tokens: int = 0
    image_operations: float = 0.0

    @property
    def block_parameters(self) -> int:
        """P: the matrices of all blocks; norms and biases are left out."""
        attention = 2 * self.width * self.head_width * (self.heads + self.key_heads)
        return self.layers * (attention + 3 * self.width * self.inner)

    def weight_bytes(self, itemsize: int) -> int:
        """Blocks, embedding and unembedding; the vision tower is left out."""
        return (self.block_parameters + 2 * self.vocabulary * self.width) * itemsize

    def position_bytes(self, itemsize: int) -> int:
        """One position of the cache."""
        return 2 * self.layers * self.key_heads * self.head_width * itemsize


@dataclass(frozen=True)
class Sweep:
    """What is swept: Q queries of T tokens with I images, V vectors at each of L layers, A answer tokens."""

    queries: int
    tokens: int
    vectors: int
    layers: int
    answer: int = 1
    images: int = 0

    def __post_init__(self) -> None:
        for name in ("queries", "tokens", "vectors", "layers", "answer"):
            if getattr(self, name) < 1:
                raise CrosstaskError(f"a sweep of {getattr(self, name)} {name}; expected at least 1")

    @property
    def patches(self) -> int:
        """R, patches of a query."""
        return self.vectors * self.layers


def token_forwards(engine: Engine, sweep: Sweep) -> float:
    """Tokens that pass through all blocks, over the whole sweep; one that passes through half of them counts half.

    Raises:
        CrosstaskError: for an unknown engine.
    """
    q, t, r, a = sweep.queries, sweep.tokens, sweep.patches, sweep.answer
    if engine == "uncached":
        return q * r * (a * t + a * (a - 1) / 2)
    if engine == "plain":
        return q * r * (t + a - 1)
    if engine == "copied":
        return q * (t - 1 + r * a)
    if engine == "packed":
        return q * (t + sweep.vectors * (sweep.layers - 1) / 2 + r * (a - 1))
    raise CrosstaskError(f"unknown engine {engine!r}; expected one of {', '.join(ENGINES)}")


def vision_passes(engine: Engine, sweep: Sweep) -> int:
    """Images that pass through the tower."""
    per_query = {"uncached": sweep.patches * sweep.answer, "plain": sweep.patches}.get(engine, 1)
    return sweep.queries * sweep.images * per_query


def cached_positions(engine: Engine, sweep: Sweep) -> int:
    """Positions of keys and values that one query holds at the end of its longest answer, all its patches at once."""
    t, r, a = sweep.tokens, sweep.patches, sweep.answer
    return {
        "uncached": 0,
        "plain": r * (t + a - 1),
        "copied": t - 1 + r * (t + a - 1),
        "packed": t - 1 + t + r * a,
    }[engine]


def operations(engine: Engine, sweep: Sweep, shape: Shape) -> float:
    """Floating-point operations of the whole sweep: blocks, attention, a row of logits per answer token, the tower.

    Contexts are counted as the kernels see them: a prefill of T tokens has a mean context of (T + 1)/2, and a packed
    row is scored against every row of its query that runs beside it, though it sees only its own. The attention of the
    first packed step is counted at its widest.
    """
    q, t, r, a = sweep.queries, sweep.tokens, sweep.patches, sweep.answer
    if engine == "uncached":
        lengths = [t + step for step in range(a)]
        contexts = q * r * sum(n * (n + 1) / 2 for n in lengths)
    elif engine == "plain":
        contexts = q * r * (t * (t + 1) / 2 + sum(t + step for step in range(1, a)))
    else:
        held = [1 + step if engine == "copied" else r * (1 + step) for step in range(a)]
        contexts = q * ((t - 1) * t / 2 + r * sum(t - 1 + own for own in held))
    attention = 4 * shape.layers * shape.heads * shape.head_width * contexts
    logits = 2.0 * shape.width * shape.vocabulary * q * r * a
    blocks = 2.0 * shape.block_parameters * token_forwards(engine, sweep)
    return blocks + attention + logits + shape.image_operations * vision_passes(engine, sweep)


def tower_operations(*, layers: int, width: int, inner: int, tokens: int, gated: bool = False) -> float:
    """Operations of a vision transformer for one image whose tokens all see each other."""
    parameters = layers * (4 * width**2 + (3 if gated else 2) * width * inner)
    return 2.0 * parameters * tokens + 4.0 * layers * width * tokens**2


SHAPES = {
    "LLaVA-1.5-7B": Shape(
        layers=32, width=4096, inner=11008, heads=32, key_heads=32, head_width=128, vocabulary=32064, image_tokens=576,
        image_operations=tower_operations(layers=24, width=1024, inner=4096, tokens=577),
    ),
    "Qwen2.5-VL-7B": Shape(
        layers=28, width=3584, inner=18944, heads=28, key_heads=4, head_width=128, vocabulary=152064, image_tokens=256,
        image_operations=tower_operations(layers=32, width=1280, inner=3420, tokens=1024, gated=True),
    ),
    "Qwen2.5-VL-32B": Shape(
        layers=64, width=5120, inner=27648, heads=40, key_heads=8, head_width=128, vocabulary=152064, image_tokens=256,
        image_operations=tower_operations(layers=32, width=1280, inner=3456, tokens=1024, gated=True),
    ),
}  # fmt: skip
"""Models of the papers, from their published configurations. LLaVA-1.5 takes 336 pixels; Qwen2.5-VL is shown 448
by 448 pixels, and the windows of its tower are counted as if they were whole images."""
