"""The published measurements of an M1 Pro that everything here is put beside, as data.

From maderix/ANE issue 24 (M1 Pro, macOS 26.2, build 25C56), with the programs that were measured
described by their products, weights and ports. Shapes of the static training pipeline are those of
that project's sources (training/stories_mil.h). Where the publication is silent, what was taken is
said here:

- Transformers: 256 positions, as its training runs; the FFN proxy says 64, but for one row of 128.
- "12 separate" is 12 times the time of one layer (2197 = 12 x 183), and "separate" of transformers
  is 253 or 634 us times the number of halves: single figures, published several times.
- The first rows of the probes for toy sizes, real sizes and whole transformers were the first
  compile of their process.
- "3 ms" and "8 ms" per step, which compiles are hidden behind, are conditions, not results.

What a model makes of these rows is `model.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from anefast.chips.behaviour import SEED
from anefast.fuse.timing import Product

SOURCE, CHIP, SEQ, VOCAB = SEED, "m1-pro", 256, 32000


@dataclass(frozen=True)
class Described:
    """A program that others measured, as the time model needs it."""

    products: tuple[Product, ...]
    channels: int  # of all ports together
    seq: int
    operations: int = 0  # not published
    value_bytes: int = 0
    copied_bytes: int = 0

    @cached_property
    def weight_bytes(self) -> int:
        return sum(p.weight_bytes for p in self.products)

    @property
    def port_bytes(self) -> int:
        return 2 * self.channels * self.seq

    @property
    def flops(self) -> int:
        return sum(p.flops for p in self.products)


@dataclass(frozen=True)
class Shape:
    """A transformer layer: channels, hidden channels, heads, positions."""

    dim: int
    hidden: int
    heads: int
    seq: int

    def convs(self, *sizes: tuple[int, int]) -> tuple[Product, ...]:
        return tuple(Product(2 * i * o * self.seq, 2 * i * o, 0) for i, o in sizes)

    def pairs(self, n: int) -> tuple[Product, ...]:
        """Products of two values, such as scores = q k."""
        return (Product(2 * self.dim * self.seq * self.seq, 0, self.heads),) * n

    @property
    def attention(self) -> tuple[Product, ...]:
        d = self.dim
        return self.convs((d, d), (d, d), (d, d), (d, d)) + self.pairs(2)

    @property
    def ffn(self) -> tuple[Product, ...]:
        d, h = self.dim, self.hidden
        return self.convs((d, h), (d, h), (h, d))


def ffn_proxy(dim: int, hidden: int, seq: int, layers: int) -> Described:
    """Gated SiLU feed-forwards with residuals, `layers` of them in one program."""
    return Described(Shape(dim, hidden, 0, seq).ffn * layers, 2 * dim, seq)


def transformer(shape: Shape, layers: int) -> Described:
    """Whole layers in one program, activations in and out."""
    return Described((shape.attention + shape.ffn) * layers, 2 * shape.dim, shape.seq)


def halves(shape: Shape) -> tuple[Described, Described]:
    """Attention and FFN of one layer apart."""
    ports = 2 * shape.dim, shape.seq
    return Described(shape.attention, *ports), Described(shape.ffn, *ports)


STORIES15M = Shape(288, 768, 6, SEQ)
STORIES110M = Shape(768, 2048, 12, SEQ)


@dataclass(frozen=True)
class Pipeline:
    """The unfused training step: six programs a layer, and what the CPU moves around them.

    Channels converted between fp16 surfaces and fp32, and copied between surfaces, per layer.
    """

    shape: Shape
    layers: int

    @property
    def forward(self) -> list[Described]:
        s = self.shape
        d, h = s.dim, s.hidden
        attn = Described(s.attention, d + 6 * d, s.seq)  # in; o q k v attn xnorm
        ffn = Described(s.ffn, d + 2 * d + 3 * h, s.seq)  # in; y h1 h3 gate xnorm
        return [attn, ffn] * self.layers

    @property
    def backward(self) -> list[Described]:
        s = self.shape
        d, h, score = s.dim, s.hidden, s.heads * s.seq
        ffn = Described(s.convs((d, h), (h, d), (h, d)), 2 * (d + 2 * h), s.seq)
        first = Described(s.convs((d, d)) + s.pairs(3), 4 * d + d + 2 * score, s.seq)
        second = Described(s.pairs(2), 2 * score + 2 * d + 2 * d, s.seq)
        qkv = Described(s.convs((d, d), (d, d), (d, d)), 3 * d + d, s.seq)
        return [ffn, first, second, qkv] * self.layers

    @property
    def converted(self) -> tuple[int, int]:
        """Bytes of fp16, forward and backward."""
        d, h = self.shape.dim, self.shape.hidden
        return self._bytes(7 * d + 3 * h), self._bytes(7 * d + 2 * h)

    @property
    def copied(self) -> int:
        """Bytes of fp16 from surface to surface, backward."""
        s = self.shape
        return self._bytes(8 * s.dim + 2 * s.hidden + 2 * s.heads * s.seq)

    @property
    def classifier(self) -> int:
        """Flops of one of the classifier's three products."""
        return 2 * VOCAB * self.shape.dim * self.shape.seq

    @property
    def weight_grads(self) -> int:
        """Flops on the CPU's queue: every linear map's, and the classifier's."""
        linear = self.shape.attention[:4] + self.shape.ffn
        return self.layers * sum(p.flops for p in linear) + self.classifier

    @property
    def compiled(self) -> list[Described]:
        """The programs with weights, which an update makes stale."""
        return [p for p in (*self.forward, *self.backward) if p.weight_bytes]

    def _bytes(self, channels: int) -> int:
        return 2 * channels * self.shape.seq * self.layers


TRAINING = Pipeline(STORIES110M, 12)

# The tables.


@dataclass(frozen=True)
class Ffn:
    """us, us, us, ms."""

    dim: int
    hidden: int
    seq: int
    one: float
    fused: float
    separate: float
    compile_ms: float
    first: bool  # compile of its process

    @property
    def name(self) -> str:
        return f"D {self.dim}, H {self.hidden}, S {self.seq}"


FFNS = (
    Ffn(64, 128, 64, 183, 247, 2197, 209, True),
    Ffn(128, 256, 64, 160, 344, 1921, 145, False),
    Ffn(288, 768, 64, 218, 705, 2611, 244, True),
    Ffn(288, 768, 128, 228, 654, 2740, 179, False),
    Ffn(768, 2048, 64, 429, 1839, 5153, 512, False),
)


@dataclass(frozen=True)
class Mega:
    """us, us, ms."""

    preset: str
    shape: Shape
    layers: int
    fused: float
    separate: float
    compile_ms: float
    first: bool

    @property
    def name(self) -> str:
        return f"{self.preset}, {self.layers} layers"


MEGAS = (
    Mega("stories15m", STORIES15M, 6, 728, 3039, 1000, True),
    Mega("stories110m", STORIES110M, 4, 1978, 5076, 1000, False),
    Mega("stories110m", STORIES110M, 8, 3515, 10150, 2500, False),
    Mega("stories110m", STORIES110M, 12, 5081, 15227, 4200, False),
)


@dataclass(frozen=True)
class Sweep:
    """Accumulation: micro-steps per update, steps that were run in all, and what came of it."""

    accumulation: int
    steps: int
    step_ms: float
    steps_s: float
    compile_share: float


SWEEP = (
    Sweep(10, 50, 208.6, 0.66, 0.862),
    Sweep(50, 200, 175.4, 2.56, 0.550),
    Sweep(100, 200, 169.4, 3.15, 0.467),
    Sweep(500, 279, 168.7, 4.68, 0.20),
)
WARM_UP = {1: 258.0, 30: 175.0, 136: 169.0}  # step of a batch: ms

STEP_MS = {  # stories110m in steady state: (published, or the ends of a published range)
    "forward": (62.5, 62.5),
    "forward: ANE, 24 evaluations": (33.3, 33.3),
    "forward: I/O": (6.7, 6.7),
    "forward: classifier": (6.6, 6.6),
    "forward: elementwise": (15.9, 15.9),
    "backward": (105.9, 105.9),
    "backward: ANE, 48 evaluations": (66.5, 66.5),
    "backward: I/O": (8.0, 13.0),
    "backward: classifier": (6.6, 6.6),
    "backward: CPU operations": (4.0, 4.0),
    "weight gradients, overlapped": (29.0, 29.0),
    "step": (168.7, 168.7),
}
ASYNC_MS = {"alone": 0.337, "while 20 kernels compile": 0.381}
ASYNC_PROGRAM = Described(Shape(768, 768, 0, SEQ).convs((768, 768)), 2 * 768, SEQ)
STACK = {"accumulation 10": 0.66, "accumulation 100": 3.15, "and async compile": 5.24} | {
    "asymptote": 5.93
}
CPU_PROBE_MS = {
    "malloc and free, 133 buffers, 144 MB": (0.0, 0.1),
    "memcpy, 144 MB": (3.4, 3.4),
    "residual adds, 24 scalar loops, 4.7 M elements": (0.53, 0.53),
    "residual adds, vDSP": (0.22, 0.22),
    "surface locks, 228 pairs": (0.14, 0.14),
}
CAPTURED_BYTES, LOCK_PAIRS, BUFFERS, RESIDUAL_ADDS = 144e6, 228, 133, 24


@dataclass(frozen=True)
class Hide:
    """K: micro-steps per update that hide a compile, given what a micro-step takes."""

    name: str
    step_ms: float
    k: int
    program: Described
    first: bool


HIDES = (
    Hide("stories15m, FFN only", 3, 82, ffn_proxy(288, 768, 64, 12), True),
    Hide("stories15m, transformer", 3, 338, transformer(STORIES15M, 6), True),
    Hide("stories110m, FFN only", 8, 64, ffn_proxy(768, 2048, 64, 12), False),
    Hide("stories110m, transformer", 8, 520, transformer(STORIES110M, 12), False),
    Hide("stories110m, 4 layers", 8, 125, transformer(STORIES110M, 4), False),
)
COMPILES = ("312 in one process: 72, then 60 per update", "150 of a 768-channel convolution")
CACHE = {"without weights, again": "hit", "with weights, after an update": "miss"}
TERMINAL = {"stderr to a file": 4.68, "stderr to a terminal": 0.63}  # steps/s
MUTABILITY = {
    "weights as inputs": "refused: several inputs",
    "weights sliced from the input": "refused for conv",
    "weight file overwritten": "no effect",
}


def total(works: Iterable[Described]) -> int:
    """Port bytes of several programs."""
    return sum(w.port_bytes for w in works)
