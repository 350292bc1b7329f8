"""Chips on the host: what each refuses, where its numbers end, and that training survives both.

Expected values are published ones (chips/behaviour.py has the sources), never what the code gave.
"""

from __future__ import annotations

import math
import re
import time

import numpy as np
import pytest

import anefast
from anefast import _C
from anefast.chips.behaviour import CHIPS, COMMON, find_chip, find_profile
from anefast.config import ConfigError, ModelConfig, TrainConfig
from anefast.fuse import find_plan
from anefast.fuse.legal import HOST, target_of
from anefast.mil.lint import Platform, catalogue, lint
from anefast.runtime import TrainingStep, fused_ffn
from anefast.runtime.auto import resolve

from .host_programs import In, Name, Text, run, run_op

INF, NAN = np.float16(np.inf), np.float16(np.nan)
ALL = list(CHIPS)
TINY = np.float16(2.0**-20)  # a denormal


def device(chip: str) -> _C.Device:
    return _C.Device("host", find_profile(chip).options)


def half(*values: float) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.array(values, np.float16)


# What is refused, and how.


def several(dtype: str, cast: bool) -> str:
    """Weights as a function input, rank 3, through a matmul: the form of the published attempt."""
    kind = f"tensor<{dtype}, [1, 32, 32]>"
    half_kind = "tensor<fp16, [1, 32, 32]>"
    to, back = "", f"{kind} y = matmul(x = a, y = b, transpose_x = no, transpose_y = no)"
    names = ("a", "b")
    if cast:
        to = (
            'string h = const()[name = string("h"), val = string("fp16")];\n'
            'string f = const()[name = string("f"), val = string("fp32")];\n'
            f'{half_kind} a16 = cast(x = a, dtype = h)[name = string("a16")];\n'
            f'{half_kind} b16 = cast(x = b, dtype = h)[name = string("b16")];\n'
        )
        product = "matmul(x = a16, y = b16, transpose_x = no, transpose_y = no)"
        back = f'{half_kind} p = {product}[name = string("p")];\n{kind} y = cast(x = p, dtype = f)'
    return (
        f"program(1.3)\n{{\nfunc main<ios18>({kind} {names[0]}, {kind} {names[1]}) {{\n{to}"
        'bool no = const()[name = string("no"), val = bool(false)];\n'
        f'{back}[name = string("y")];\n}} -> (y);\n}}\n'
    )


def test_several_inputs_of_the_published_form_have_no_descriptor():
    with pytest.raises(_C.MILError, match=r"nil descriptor.*several inputs to be fp16") as caught:
        device("m1-pro").compile(several("fp32", cast=True), {})
    assert caught.value.line == 3
    device("m1-pro").compile(several("fp16", cast=False), {})
    with pytest.raises(_C.MILError, match="expected one input, got 2"):
        device("m1-pro,inputs=one").compile(several("fp16", cast=False), {})
    device("m4").compile(several("fp32", cast=True), {})


def sliced_weight(groups: int = 1, as_input: bool = False) -> tuple[Text, list[Name]]:
    x = np.zeros((1, 32, 1, 96), np.float16)
    w = np.zeros((32, 32 // groups, 1, 1), np.float16)
    t = Text(a0_x=x, **({"a1_w": w} if as_input else {}))
    part = np.zeros((1, 32, 1, 32), np.float16)
    weight = Name("a1_w")
    if not as_input:
        cut = t.op("slice_by_size", part, x=Name("a0_x"), begin=[0, 0, 0, 64], size=[1, 32, 1, 32])
        weight = t.op("reshape", w, x=cut, shape=[32, 32, 1, 1])
    y = t.op(
        "conv", x, x=Name("a0_x"), weight=weight, strides=[1, 1], pad_type="valid",
        pad=[0, 0, 0, 0], dilations=[1, 1], groups=groups,
    )  # fmt: skip
    return t, [y]


@pytest.mark.parametrize("chip", ALL)
def test_a_sliced_conv_weight_is_refused_at_parse_time(chip):
    t, y = sliced_weight()
    with pytest.raises(_C.MILError, match=r"nil descriptor.*constant weight of conv"):
        device(chip).compile(t.program(y), t.blobs)
    _C.Device("host").compile(t.program(y), t.blobs)  # `exact` runs it
    device(f"{chip},weights=any").compile(t.program(y), t.blobs)


def test_a_conv_weight_that_is_an_input_passes_when_dense():
    t, y = sliced_weight(as_input=True)
    device("m4").compile(t.program(y), t.blobs)
    t, y = sliced_weight(groups=2, as_input=True)
    with pytest.raises(_C.CompileError, match=r"compiler Code=1 .*2 groups"):
        device("m4").compile(t.program(y), t.blobs)


def test_a_weight_file_overwritten_after_compile_changes_nothing(tmp_path):
    x = np.ones((1, 32, 1, 32), np.float16)
    t = Text(a=x)
    w = t.const(np.full((32, 32, 1, 1), 0.5, np.float16))
    y = t.op(
        "conv", x, x=Name("a"), weight=Name(w), strides=[1, 1], pad_type="valid",
        pad=[0, 0, 0, 0], dilations=[1, 1], groups=1,
    )  # fmt: skip
    ((path, blob),) = t.blobs.items()
    file = tmp_path / "weight.bin"
    file.write_bytes(blob)
    mapped = np.memmap(file, np.uint8, "r+")
    program = device("m1-pro").compile(t.program([y]), {path: mapped})
    mapped[128:] = 0
    mapped.flush()
    assert file.read_bytes() != blob
    surfaces = [device("m1-pro").surface(x.nbytes) for _ in range(2)]
    surfaces[0].lock()[:] = x.reshape(-1).view(np.uint8)
    surfaces[0].unlock()
    program.evaluate(surfaces[:1], surfaces[1:])
    assert (surfaces[1].lock(read_only=True).view(np.float16) == 16).all()
    surfaces[1].unlock(read_only=True)


def unary(kind: str, shape: tuple[int, ...], **more: object) -> tuple[str, dict[str, bytes]]:
    x = np.zeros(shape, np.float16)
    t = Text(a=x)
    y = t.op(kind, x, x=Name("a"), **more)
    return t.program([y]), t.blobs


@pytest.mark.parametrize(
    ("chip", "kind", "shape", "more", "why"),
    [
        ("m1", "rsqrt", (1, 4), {}, "expected epsilon of rsqrt"),
        ("m4", "sin", (1, 4), {}, "got sin"),
        ("m2", "abs", (1, 1, 1, 16385), {}, "axis 3 of a up to 16384"),
        ("m3", "abs", (1, 65537, 1, 1), {}, "axis 1 of a up to 65536"),
        ("m5", "abs", (1, 1, 1, 65537), {}, "axis 3 of a up to 65536"),
    ],
)
def test_the_compiler_says_no_as_apple_s_does(chip, kind, shape, more, why):
    program, blobs = unary(kind, shape, **more)
    pattern = rf"{chip}, emulated\] com\.apple\.appleneuralengine\.compiler Code=1 .*{why}"
    with pytest.raises(_C.CompileError, match=pattern):
        device(chip).compile(program, blobs)
    _C.Device("host").compile(program, blobs)


def test_axis_caps_differ_by_generation():
    program, blobs = unary("abs", (1, 1, 1, 16385))
    device("m4").compile(program, blobs)


def test_more_of_what_the_compiler_refuses():
    x = np.zeros((1, 4, 1, 32), np.float16)
    t = Text(a=x)
    small = np.zeros((1, 1, 1, 32), np.float16)
    total = t.op("reduce_sum", small, x=Name("a"), axes=[1], keep_dims=True)
    root = t.op("rsqrt", small, x=total, epsilon=np.float16(1e-3))
    with pytest.raises(_C.CompileError, match="no rsqrt behind a reduction"):
        device("m1,after_reduce=refuse").compile(t.program([root]), t.blobs)
    t = Text(a=x)
    total = t.op("reduce_sum", small, x=Name("a"), axes=[1], keep_dims=True)
    zero = t.op("mul", small, x=total, y=np.float16(0))
    with pytest.raises(_C.CompileError, match="no sum times 0"):
        device("m1").compile(t.program([zero]), t.blobs)
    for chip, width in (("m1", 13), ("m5", 15)):
        for got in (width, width + 1):
            t = Text(a=np.zeros((1, 1, 1, 64), np.float16))
            y = t.op(
                "conv", np.zeros((1, 1, 1, 65 - got), np.float16), x=Name("a"),
                weight=np.ones((1, 1, 1, got), np.float16), strides=[1, 1], pad_type="valid",
                pad=[0, 0, 0, 0], dilations=[1, 1], groups=1,
            )  # fmt: skip
            if got == width:
                device(chip).compile(t.program([y]), t.blobs)
                continue
            with pytest.raises(_C.CompileError, match=rf"up to {width} wide, got {got} .*ANE039"):
                device(chip).compile(t.program([y]), t.blobs)
    t = Text(a=np.zeros((1, 16385), np.float16))
    wide = np.zeros((16385, 4), np.float16)
    y = t.op(
        "matmul", np.zeros((1, 4), np.float16),
        x=Name("a"), y=wide, transpose_x=False, transpose_y=False,
    )  # fmt: skip
    with pytest.raises(_C.CompileError, match="sums of up to 16384 terms, got 16385"):
        device("m5").compile(t.program([y]), t.blobs)


def test_short_surfaces_fail_with_the_published_status():
    program, _ = unary("abs", (1, 4, 1, 33))
    compiled = device("m1").compile(program, {})
    assert compiled.inputs[0].nbytes == 4 * 128  # rows of 66 bytes start every 128
    short, full = device("m1").surface(4 * 66), device("m1").surface(4 * 128)
    with pytest.raises(_C.EvaluationError, match="status=0x1d"):
        compiled.evaluate([short], [full])


def test_ports_are_bound_by_sorted_name():
    x = half(*range(4)).reshape(1, 4)
    t = Text(b=x, a=x)
    y = t.op("sub", x, x=Name("b"), y=Name("a"))
    compiled = device("m2").compile(t.program([y]), {})
    assert [p.name for p in compiled.inputs] == ["a", "b"]


# Numbers.


def product(chip: str, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    like = np.zeros((x.shape[0], w.shape[1]), np.float16)
    arguments = {"x": In(x), "y": In(w), "transpose_x": False, "transpose_y": False}
    return run_op(device(chip), "matmul", like, **arguments)


@pytest.mark.parametrize("chip", ALL)
def test_products_end_at_32768(chip):
    x = half(16376, -16376, 16384, -16384).reshape(4, 1) * half(1, 0).reshape(1, 2)
    got = product(chip, x, half(2, 0).reshape(2, 1)).ravel()
    assert got.tolist() == [32752, -32752, math.inf, -math.inf]


def conv_1x1(chip: str, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    like = np.zeros((1, w.shape[0], 1, x.shape[-1]), np.float16)
    return run_op(
        device(chip), "conv", like, x=In(x), weight=w, strides=[1, 1], pad_type="valid",
        pad=[0, 0, 0, 0], dilations=[1, 1], groups=1,
    )  # fmt: skip


def test_a_conv_of_one_channel_passes_60000():
    x = half(60000, 1).reshape(1, 1, 1, 2)
    assert conv_1x1("m1", x, np.ones((1, 1, 1, 1), np.float16)).ravel().tolist() == [60000, 1]
    two = np.concatenate([x, x * 0], axis=1)
    got = conv_1x1("m1", two, np.ones((1, 2, 1, 1), np.float16))
    assert got.ravel().tolist() == [math.inf, 1]


@pytest.mark.parametrize("chip", ALL)
def test_nan_comes_in_as_inf_and_never_out(chip):
    x = half(NAN, INF, -INF, 0, -1)
    got = run_op(device(chip), "abs", x, x=In(x))
    assert got.tolist() == [math.inf, math.inf, math.inf, 0, 1]
    difference = run_op(device(chip), "sub", x, x=In(half(INF, NAN, 1, 2, 3)), y=In(x))
    assert difference.tolist() == [0, 0, math.inf, 2, 4]  # inf - inf is 0
    zeros = run_op(device(chip), "mul", x, x=In(x), y=In(half(0, 0, 0, 0, 0)))
    assert zeros.tolist() == [0, 0, 0, 0, 0]
    roots = run_op(device(chip), "sqrt", half(0, 0), x=In(half(-1, 4)))
    assert roots.tolist() == [0, 2]
    if not float(CHIPS[chip].switches["tiny"].value):
        log = run_op(device(chip), "log", half(0), x=In(half(0)), epsilon=np.float16(0))
        assert log.tolist() == [-45440]


def test_sums_overflow_where_fp16_does_and_means_behind_them():
    x = np.full((1, 4, 1, 1), 30000, np.float16)
    like = np.zeros((1, 1, 1, 1), np.float16)
    more = {"axes": [1], "keep_dims": True}
    for chip in ALL:
        assert np.isinf(run_op(device(chip), "reduce_sum", like, x=In(x), **more)).all()
        assert np.isinf(run_op(device(chip), "reduce_mean", like, x=In(x), **more)).all()
    wide = device("m1,sums=wide")
    assert run_op(wide, "reduce_mean", like, x=In(x), **more).item() == 30000
    exact = run_op(_C.Device("host"), "reduce_mean", like, x=In(x), **more)
    assert exact.item() == 30000
    fits = np.full((1, 2, 1, 1), 32000, np.float16)
    assert run_op(device("m1"), "reduce_sum", like, x=In(fits), **more).item() == 64000


@pytest.mark.parametrize("chip", ALL)
def test_products_see_denormals_as_the_chip_does(chip):
    kept = (CHIPS[chip].like or chip) in ("m4", "m4-max", "m5", "m6")
    one = half(1, 0).reshape(1, 2)
    for x, w in ((one * TINY, half(1024, 1)), (one * 1024, half(TINY, 1))):
        got = product(chip, x, w.reshape(2, 1)).item()
        assert got == (1024 * float(TINY) if kept else 0)
    weight = np.full((1, 2, 1, 1), TINY, np.float16)  # a baked one
    x = np.full((1, 2, 1, 1), 1024, np.float16)
    assert conv_1x1(chip, x, weight).item() == (2048 * float(TINY) if kept else 0)
    kept_elsewhere = run_op(device(chip), "mul", half(0), x=In(half(TINY)), y=In(half(2)))
    assert kept_elsewhere.item() == 2 * float(TINY)


@pytest.mark.parametrize("chip", ALL)
@pytest.mark.parametrize("rows", [1, 3])  # of one row, `exact` takes a slice without a copy
def test_slices_behind_the_start_saturate_on_the_first_two_generations(chip, rows):
    x = np.tile(half(5000, 4094, 4096, -4098, 1, 5000), (1, rows, 1, 1))
    t = Text(a=x)
    part = x[..., 1:]
    cut = t.op(
        "slice_by_size", part, x=Name("a"), begin=[0, 0, 0, 1], size=[1, rows, 1, 5]
    )  # fmt: skip
    first = t.op("slice_by_size", part, x=Name("a"), begin=[0, 0, 0, 0], size=[1, rows, 1, 5])
    again = t.op("abs", x, x=Name("a"))
    got = run(device(chip), t.program([cut, first, again]), t.blobs, {"a": x})
    old = (CHIPS[chip].like or chip) in ("m1", "m1-pro", "m2")
    want = half(4094, INF, -INF, 1, INF) if old else half(4094, 4096, -4098, 1, 5000)
    assert (got[cut] == want).all()
    assert (got[first] == x[..., :5]).all() and (got[again] == np.abs(x)).all()


def test_fp32_values_are_fp16_inside():
    x = np.array([[np.nan, 1e-6, 40000, 0.3]], np.float32)
    with np.errstate(over="ignore"):
        rounded = x.astype(np.float16).astype(np.float32)
    got = run_op(device("m4"), "add", x, x=In(x), y=In(np.zeros_like(x)))
    assert got.ravel().tolist() == [math.inf, *rounded.ravel()[1:].tolist()]
    twice = run_op(device("m4"), "add", x, x=In(x), y=In(x))
    assert twice.ravel()[2] == math.inf
    assert run_op(_C.Device("host"), "add", x, x=In(x), y=In(x)).ravel()[2] == 80000


BOUNDS = {  # function, largest published error, value at 0
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), 0.0034, 0.5),
    "tanh": (np.tanh, 0.002, 0.0),
    "erf": (np.vectorize(math.erf), 0.001, 0.0),
    "gelu": (lambda x: x / 2 * (1 + np.vectorize(math.erf)(x / np.sqrt(2))), 0.0059, -0.000543),
    "silu": (lambda x: x / (1 + np.exp(-x)), 0.015, -0.001259),
    "softplus": (lambda x: np.logaddexp(0, x), 0.006, math.log(2)),
}


@pytest.mark.parametrize("kind", BOUNDS)
def test_tables_err_as_much_as_published_and_no_more(kind):
    true, bound, at_zero = BOUNDS[kind]
    x = np.linspace(-12, 12, 4801).astype(np.float16)
    more = {"mode": "EXACT"} if kind == "gelu" else {}
    got = run_op(device("m1"), kind, x, x=In(x), **more).astype(np.float64)
    error = np.abs(got - true(x.astype(np.float64)))
    rounding = np.abs(got) * 2.0**-11
    assert (error <= 1.1 * bound + rounding).all() and error.max() > 0.8 * bound
    origin = run_op(device("m1"), kind, half(0), x=In(half(0)), **more).item()
    assert origin == pytest.approx(at_zero, abs=1e-6, rel=1e-3)
    exact = run_op(device("m1,tables=off"), kind, x, x=In(x), **more)
    assert (exact == run_op(_C.Device("host"), kind, x, x=In(x), **more)).all()


@pytest.mark.parametrize("chip", ["m4", "m6", "m1,tables=sampled"])
@pytest.mark.parametrize(
    ("kind", "high", "beyond", "bound"), [("sigmoid", 8, None, 0.0034), ("tanh", 4, 1.0, 0.0016)]
)
def test_measured_tables_are_straight_lines_between_halves(chip, kind, high, beyond, bound):
    """NumPy draws the lines; the largest error is the published one."""
    true = BOUNDS[kind][0]
    low = -high if kind == "sigmoid" else 0
    knots = np.linspace(low, high, 33)
    heights = true(knots).astype(np.float16).astype(float)
    x = np.arange(65536, dtype=np.uint16).view(np.float16)
    x = x[np.isfinite(x)]
    wide = np.abs(x).astype(float) if kind == "tanh" else x.astype(float)
    lines = np.interp(wide, knots, heights)
    if beyond is not None:
        lines = np.where(wide >= high, beyond, lines)
    want = (lines * (np.sign(x) if kind == "tanh" else 1)).astype(np.float16)
    got = run_op(device(chip), kind, x, x=In(x))
    assert (got == want).all()
    error = np.abs(got.astype(float) - true(np.clip(x.astype(float), -30, 30))).max()
    assert 0.85 * bound < error < 1.15 * bound


def test_extreme_arguments_of_tables():
    x = half(-INF, INF, -60000, 60000, NAN)
    assert run_op(device("m2"), "sigmoid", x, x=In(x)).tolist() == pytest.approx(
        [0, 1, 0, 1, 1], abs=0.0034
    )
    assert run_op(device("m2"), "softplus", x, x=In(x)).tolist() == [0, 0, 0, 60000, 0]
    assert run_op(device("m2"), "silu", x, x=In(x)).tolist()[2:4] == [0, 60000]


# Budgets, delays, switches.


def test_budgets_of_compiles_and_of_loaded_programs():
    program, _ = unary("abs", (1, 4))
    small = device("m4,compiles=2,loaded=1")
    first = small.compile(program, {})
    with pytest.raises(_C.CompileError, match="at most 1 programs loaded"):
        small.compile(program, {})
    first.unload()
    with pytest.raises(_C.CompileError, match="at most 2 compiles"):
        small.compile(program, {})


def test_delays_are_off_unless_asked_for():
    program, _ = unary("abs", (1, 4, 1, 32))

    def seconds(chip: str) -> float:
        on = device(chip)
        surfaces = [on.surface(4 * 64) for _ in range(2)]
        began = time.perf_counter()
        on.compile(program, {}).evaluate(surfaces[:1], surfaces[1:])
        return time.perf_counter() - began

    assert seconds("m1,compile_us=30000,dispatch_us=30000") > 0.06
    assert min(seconds("m1") for _ in range(5)) < 0.05


def test_every_switch_argues_for_its_default():
    for chip in CHIPS.values():
        assert set(chip.differs) <= set(COMMON)
        for key, switch in chip.switches.items():
            assert len(switch.source) > 15 and " " not in switch.value, (chip.name, key)


def test_refusals_cite_the_linter_s_rules():
    rules = set(catalogue())
    cited = set(re.findall(r"@(\w+)", " ".join(find_profile(c).options for c in CHIPS)))
    assert len(cited) > 15 and cited <= rules
    x = np.zeros((1, 4, 1, 32), np.float16)
    for kind, rule, more in (("gather", 40, {"indices": [0]}), ("log", 30, {})):
        like = x[:1] if kind == "gather" else x
        with pytest.raises(_C.CompileError, match=rf"\(rule ANE0{rule}\)\. Hint"):
            run_op(device("m1"), kind, like, x=In(x), **more)


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_the_linter_predicts_the_refusals_of_the_seed(dtype):
    target = Platform(CHIPS["m1-pro"])
    sliced, y = sliced_weight()
    for text, rule in ((several(dtype, dtype == "fp32"), "ANE025"), (sliced.program(y), "ANE034")):
        found = {finding.rule.id for finding in lint(text, target=target)}
        assert rule in found, (dtype, found)


def test_unknown_chips_and_switches():
    with pytest.raises(ValueError, match="did you mean m1-pro"):
        anefast.Device(chip="m1pro")
    with pytest.raises(ValueError, match="did you mean inputs"):
        anefast.Device(chip="m1,input=one")
    with pytest.raises(ValueError, match=r'inputs to be any, fp16 or one, got "two"\.'):
        anefast.Device(chip="m1,inputs=two")
    with pytest.raises(ValueError, match=r"a chip's name alone, got .*Hint: use m1; only"):
        find_chip("m1,inputs=one")
    with pytest.raises(ValueError, match="--device host emulates it"):
        anefast.Device("ane", chip="m1")
    with pytest.raises(ConfigError, match="known chip"):
        TrainConfig(chip="m9")


# Training.


def test_one_input_is_calibrated_and_planned_for(tmp_path, monkeypatch):
    monkeypatch.setenv("ANEFAST_CACHE", str(tmp_path))
    device = anefast.Device(chip="m3,inputs=one")
    spec, _ = resolve("auto", CONFIG, device, 1, 32, 2)
    step = TrainingStep(CONFIG, anefast.init_params(CONFIG, 0), device, 1, 32, find_plan(spec))
    assert all(len(bound.inputs) == 1 for bound in step.compiled.bound)
    step.close()
    with pytest.raises(ValueError, match="expected ports of packed, got several"):
        TrainingStep(CONFIG, anefast.init_params(CONFIG, 0), device, 1, 32, find_plan("all"))


CONFIG = ModelConfig(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=64, vocab_size=33)


def step_of(chip: str, plan: str, batch: int = 2) -> tuple[float, dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    x = rng.integers(0, 33, (batch, 32)).astype(np.int32)
    on = anefast.Device(chip=chip) if chip else anefast.Device("host")
    step = TrainingStep(CONFIG, anefast.init_params(CONFIG, 0), on, batch, 32, find_plan(plan))
    loss, tokens = step.micro_step(x, np.roll(x, -1, 1), 64.0)
    step.wait()
    grads = {name: g.copy() for name, g in step.grads.items()}
    step.close()
    return loss / tokens, grads


@pytest.mark.parametrize("chip", ALL)
def test_a_step_agrees_with_exact_and_the_cut_law_holds(chip):
    loss, grads = step_of(chip, "all")
    exact, wanted = step_of("", "all")
    assert loss != exact and loss == pytest.approx(exact, rel=1e-3)
    for name, g in grads.items():
        assert np.linalg.norm(g - wanted[name]) < 0.02 * np.linalg.norm(wanted[name]), name
    for plan in ("unfused,ports=packed", "layer,recompute,weights=params"):
        other, again = step_of(chip, plan)
        assert other == loss and all((again[n] == g).all() for n, g in grads.items()), plan


def test_a_device_as_a_chip_is_named_and_planned_for():
    on = anefast.Device(chip="m1-pro")
    assert on.description.startswith("host as m1-pro (") and on.label == "emulated"
    assert target_of(on).name == "m1-pro" and target_of(anefast.Device("host")) is HOST
    plan = target_of(on).fitted(find_plan("all"))
    assert plan.dialect == "ios16" and plan.max_axis == 16384
    ffn = fused_ffn(32, 64, 1, 32, anefast.models.init_ffn(32, 64, 1, 0), on)
    assert "program(1.0)" in ffn.compiled.kernels[0].text
