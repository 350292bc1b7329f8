"""What an addition costs: a made-up family, optimiser, format, chip and op, each from one file.

Each is written here as a contributor would write it: the text of one file, imported from a folder
of its own, and one row in a table. Then it is used. CONTRIBUTING.md lists the same files; a change
that makes an addition cost more fails here.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import anefast
from anefast import formats, ir, mil
from anefast.chips import behaviour
from anefast.config import ModelConfig, TrainConfig
from anefast.formats import registry
from anefast.models import families
from anefast.optim import registry as optimisers
from anefast.runtime import Device
from tests import host_programs
from tests.conftest import ROOT


def contributed(folder: Path, name: str, text: str) -> ModuleType:
    """The one file of an addition, imported."""
    path = folder / f"{name}.py"
    path.write_text(textwrap.dedent(text))
    return module_at(path)


def module_at(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SHAPE = ModelConfig(dim=32, n_layers=2, n_heads=2, max_seq_len=64)


def settings(folder: Path, **changes: Any) -> TrainConfig:
    """A short run on the built-in stories."""
    config = TrainConfig.from_preset("bytes", steps=3, out=str(folder / "run"))
    data = config.data.replace(source="stories:20", batch=2, seq_len=32)
    config = config.replace(model=SHAPE, data=data, sample_tokens=0, eval_batches=1)
    return config.replace(**changes)


# 1) a family: attention and a feed-forward beside each other, of one norm (GPT-J, Falcon)

FAMILY = '''
    """Layers whose two branches read the same norm and are added at once."""

    from anefast import ir
    from anefast.models import decoder
    from anefast.models.family import Family, Parameter
    from anefast.models.layers import LLAMA, attention, linear, rms_norm


    def parameters(config):
        found = decoder.parameters(config, LLAMA)
        hidden = (config.hidden_dim, config.dim)
        for i in range(config.n_layers):
            del found[f"layers.{i}.ffn.norm"], found[f"layers.{i}.ffn.w3"]
        return found


    def trunk(x, config, past):
        for i in range(config.n_layers):
            name = f"layers.{i}"
            y = attention(x, f"{name}.attn", config, past)
            with ir.scope(f"{name}.ffn"):
                first = linear(rms_norm(x, f"{name}.attn.norm", config.stream_eps),
                               f"{name}.ffn.w1", config.hidden_dim)
                x = y + linear(ir.square(ir.relu(first)), f"{name}.ffn.w2", config.dim)
        return x


    FAMILY = Family("beside", parameters, trunk)
'''


def test_a_family_is_one_file_and_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = contributed(tmp_path, "beside", FAMILY)
    monkeypatch.setitem(families.FAMILIES, "beside", made.FAMILY)
    result = anefast.fit(settings(tmp_path, model=SHAPE.replace(family="beside")))
    model = result.model
    assert np.isfinite(result.losses).all() and result.losses[-1] < result.losses[0]
    assert "layers.1.ffn.w1" in model.params and "layers.1.ffn.w3" not in model.params
    assert len(model.generate("Once", tokens=8, device=Device("host"))) > 4
    again = anefast.load(tmp_path / "run")
    assert again.config.family == "beside"
    for name, value in model.params.items():
        assert again.params[name].tobytes() == value.tobytes(), name


@pytest.mark.parametrize("plan", ["unfused", "all"])
def test_a_made_up_family_keeps_the_cut_law(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: str
) -> None:
    made = contributed(tmp_path, "beside", FAMILY)
    monkeypatch.setitem(families.FAMILIES, "beside", made.FAMILY)
    model = anefast.Model.from_config(
        SHAPE.replace(family="beside"), anefast.open_tokenizer("bytes")
    )
    tokens = np.random.default_rng(3).integers(0, 256, (1, 33)).astype(np.int32)
    grads = {}
    for which in ("layer", plan):
        step = model.training_step(Device("host"), batch=1, seq=32, plan=which)
        step.micro_step(tokens[:, :-1], tokens[:, 1:], 64.0)
        step.wait()
        grads[which] = {n: g.tobytes() for n, g in step.grads.items()}
        step.close()
    assert grads["layer"] == grads[plan]


# 2) an optimiser: sign of the momentum's sign, SIGNUM (Bernstein et al. 2018)

OPTIMISER = '''
    """The sign of a momentum (Bernstein et al., arXiv 1802.04434)."""

    import numpy as np

    from anefast.optim.record import Record


    def states(config, name, shape):
        return {"momentum": shape}


    def reference(one):
        f, m, mu = np.float32, one.states["momentum"], np.float32(one.config.momentum)
        m[...] = mu * m + (f(1) - mu) * (one.grad * f(one.factor))
        one.weight[...] = one.weight * f(1 - one.rate * one.decay) - f(one.rate) * np.sign(m)


    def update(work):
        for one in work.each():
            reference(one)


    RECORD = Record("signum", {"momentum": 0.9, "weight_decay": 0.0}, states, update, reference,
                    rate=0.1)
'''


def test_an_optimiser_is_one_file_and_one_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = contributed(tmp_path, "signum", OPTIMISER)
    monkeypatch.setitem(optimisers.RECORDS, "signum", made.RECORD)
    optim = anefast.OptimConfig(name="signum", accumulation=1, warmup_steps=0, lr=1e-2)
    config = settings(tmp_path, optim=optim, steps=1)
    result = anefast.fit(config)
    first = anefast.Model.from_config(result.model.config, result.model.tokenizer, config.seed)
    moved = np.abs(result.model.params["layers.0.ffn.w1"] - first.params["layers.0.ffn.w1"])
    assert moved.max() > 0 and np.allclose(moved[moved > 0], moved.max(), rtol=1e-3)  # a sign
    longer = anefast.fit(config.replace(resume=str(tmp_path / "run"), steps=2))
    assert len(longer.losses) == 2  # its momentum was in the checkpoint


# 3) a format: weights as a line of JSON and raw numbers behind it

FORMAT = '''
    """A line of JSON that says what is in the file, and fp32 numbers behind it."""

    import json

    import numpy as np

    from anefast import files
    from anefast.config import ModelConfig, model_settings
    from anefast.formats.format import ModelFormat
    from anefast.formats.source import ModelSource
    from anefast.formats.stored import Stored
    from anefast.models import shapes
    from anefast.models.foreign import Place
    from anefast.tokenizer import open_tokenizer

    MAGIC = b"#!lines\\n"


    def opens(path):
        content = files.read_bytes(path, 1 << 30, "lines").removeprefix(MAGIC)
        head, _, rest = content.partition(b"\\n")
        config = ModelConfig(**json.loads(head))
        tensors, at = {}, 0
        for name, shape in shapes(config).items():
            count = int(np.prod(shape))
            values = np.frombuffer(rest, "<f4", count, at).reshape(shape)
            tensors[name] = Stored(name, shape, "F32", 4 * count, values.copy)
            at += 4 * count
        places = {name: Place(name) for name in tensors}
        return ModelSource(path, "a file of lines", config, places, tensors,
                           lambda: open_tokenizer("bytes"))


    def save(out, config, params, dtype, tokenizer):
        head = json.dumps(model_settings(config)).encode() + b"\\n"
        numbers = b"".join(np.ascontiguousarray(p, "<f4").tobytes() for p in params.values())
        files.write_atomic(out, MAGIC + head + numbers, "lines")


    FORMAT = ModelFormat("lines", ("F32",), lambda path, head: head.startswith(MAGIC), opens, save,
                         ending=".lines")
'''


def test_a_format_is_one_file_and_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = contributed(tmp_path, "lines", FORMAT)
    monkeypatch.setitem(registry.MODELS, "lines", made.FORMAT)
    model = anefast.Model.from_config(SHAPE, anefast.open_tokenizer("bytes"))
    path = model.save(tmp_path / "model.lines")
    plain = path.rename(tmp_path / "no-ending")  # known by its content
    assert formats.open_source(plain) is not None
    again = anefast.load(plain)
    for name, value in model.params.items():
        assert again.params[name].tobytes() == value.tobytes(), name
    from anefast.export import ExportConfig, export

    export(ExportConfig(str(plain), str(tmp_path / "hf")))
    export(ExportConfig(str(tmp_path / "hf"), str(tmp_path / "back"), to="lines"))
    assert (tmp_path / "back").read_bytes()[:8] == plain.read_bytes()[:8]


# 4) a chip: a row, whose rates are those of the nearest one

CHIP = '''
    """A chip that nobody makes: short axes, and dispatches that take a long time."""

    from anefast.chips.behaviour import Chip, Figure

    CHIP = Chip("m0", max_axis=Figure(128, "made up"), like="m1",
                rates={"dispatch_us": Figure(9000, "made up")})
'''


def test_a_chip_is_one_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from anefast.chips.rates import rates_of
    from anefast.plan import main

    made = contributed(tmp_path, "m0", CHIP)
    monkeypatch.setitem(behaviour.CHIPS, "m0", made.CHIP)
    rates = rates_of(made.CHIP)
    assert rates.dispatch_us.value == 9000 and "assumed, as m1" in rates.tflops.source
    assert Device("host", chip="m0").description.startswith("host as m0")
    with pytest.raises(SystemExit) as ended:
        main(["--chip", "m0", "--preset", "tiny", "--seq-len", "64"])
    assert ended.value.code == 0 and "m0" in capsys.readouterr().out
    shape = ModelConfig(dim=64, n_layers=1, n_heads=2, max_seq_len=256)
    model = anefast.Model.from_config(shape, anefast.open_tokenizer("bytes"))
    device = Device("host", chip="m0")
    model.training_step(device, batch=1, seq=128).close()
    with pytest.raises((ValueError, anefast._C.CompileError), match="128"):  # the chip's limit
        model.training_step(device, batch=1, seq=256)


# 5) an op that the host has a kernel of: one record

OP = '''
    """x / (1 + |x|), whose derivative is 1 / (1 + |x|)^2."""

    import numpy as np

    from anefast import ir
    from anefast.ir.op import Mil, Op, apply, register


    def softsign(x):
        return apply("softsign", x)


    RECORD = register(Op(
        "softsign",
        shape=lambda xs, attrs: xs[0].shape,
        meaning=lambda xs, attrs: xs[0] / (1 + np.abs(xs[0])),
        grad=lambda node, dy, i: dy / ir.square(1.0 + ir.abs(node.inputs[0])),
        mil=Mil(("x",)),
    ))
'''


def test_an_op_is_one_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ir.OPS, "softsign", None)  # what is there afterwards goes with the test
    del ir.OPS["softsign"]
    made = contributed(tmp_path, "softsign", OP)
    rng = np.random.default_rng(0)
    feeds = {n: rng.standard_normal((1, 32, 1, 64)).astype(np.float16) for n in ("a", "b")}
    x, dy = (ir.input(n, (1, 32, 1, 64)) for n in ("a", "b"))
    y = made.softsign(x)
    (dx,) = ir.gradients([y], [dy], [x])
    graph = ir.simplify(ir.Graph([x, dy], {"y": y, "z": dx}))
    program = ir.Program.cut(
        "made", [(t.name, t) for t in graph.inputs], list(graph.outputs.items())
    )
    text, layout = mil.emit(program)
    got = host_programs.run(anefast._C.Device("host"), text, layout.fill({}), feeds)
    v, g = (feeds[n].astype(np.float64) for n in ("a", "b"))
    for port, want in (("y", v / (1 + np.abs(v))), ("z", g / (1 + np.abs(v)) ** 2)):
        assert np.abs(got[port] - want).max() < 4e-3, port


# 6) an op that the host has no kernel of: a file of C++ with its type rule and its kernel, its name
# in a list, and the Python record

KERNEL = """
    // Sums of neighbours in pairs: (..., 2 n) to (..., n).
    #include "convert.h"
    #include "registry.h"

    namespace anefast::host {

    namespace {

    std::vector<mil::Type> halved(const mil::Call &call) {
        mil::Type type = call.type("x");
        if (type.shape.empty() || type.shape.back() % 2)
            call.wrong("x", "an even last axis of x of pair_sum", mil::described(type));
        type.shape.back() /= 2;
        return {type};
    }

    Runnable pair_sum(const Builder &b) {
        const mil::DType dtype = b.result_type().dtype;
        const Ref x = b.at("x"), y = b.at(b.result());
        const size_t n = b.result_type().elements(), size = mil::bytes_of(dtype);
        return [=, load = loader<float>(dtype), store = storer<float>(dtype)](const Frame &frame) {
            for (size_t i = 0; i < n; i++) {
                float pair[2];
                load(frame.at(x) + 2 * i * size, pair, 2);
                pair[0] += pair[1];
                store(pair, frame.at(y) + i * size, 1);
            }
        };
    }

    } // namespace

    void add_pairs(Table &t) {
        using namespace declare;
        t.add({"pair_sum", 15, FLOAT, FLOAT, {in("x")}, halved}, {pair_sum});
    }

    } // namespace anefast::host
"""

PAIRS = """
    import numpy as np

    from anefast import _C, ir, mil
    from anefast.ir.op import Mil, Op, apply, register
    from tests import host_programs

    register(Op(
        "pair_sum",
        shape=lambda xs, attrs: (*xs[0].shape[:-1], xs[0].shape[-1] // 2),
        meaning=lambda xs, attrs: xs[0][..., ::2] + xs[0][..., 1::2],
        grad=None,
        mil=Mil(("x",)),
    ))
    x = ir.input("x", (1, 32, 1, 64))
    graph = ir.Graph([x], {"y": apply("pair_sum", x)})
    program = ir.Program.cut("made", [("x", x)], list(graph.outputs.items()))
    text, layout = mil.emit(program)
    feeds = {"x": np.random.default_rng(0).standard_normal(x.shape).astype(np.float16)}
    got = host_programs.run(_C.Device("host"), text, layout.fill({}), feeds)["y"]
    v = feeds["x"].astype(np.float32)
    assert np.array_equal(got, (v[..., ::2] + v[..., 1::2]).astype(np.float16))
    try:
        _C.check(text.replace("64]", "63]"))
    except _C.MILError as refused:
        assert "an even last axis" in str(refused), refused
    else:
        raise AssertionError("63 columns were taken")
"""


def test_an_op_that_the_host_has_not_is_one_file_and_one_row(tmp_path: Path) -> None:
    """Both halves of it, the type rule and the kernel, are in that file, and one call adds them."""
    tag = f"{sys.implementation.cache_tag}-{sysconfig.get_platform()}"
    if not (ROOT / "build" / tag).is_dir():
        pytest.skip("no build/ here, from which a tree with one more file is built in seconds")
    for folder in ("anefast", "csrc", f"build/{tag}"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.so", "__pycache__")
        )
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    ops = tmp_path / "csrc" / "host" / "ops"
    (ops / "pairs.cpp").write_text(textwrap.dedent(KERNEL))
    registry_file = ops / "registry.cpp"
    rows = registry_file.read_text()
    assert rows.count("FILE(composed)") == 1
    registry_file.write_text(rows.replace("FILE(composed)", "FILE(composed) FILE(pairs)"))
    (tmp_path / "pairs.py").write_text(textwrap.dedent(PAIRS))
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
        "PYTHONSAFEPATH": "1",
    }
    for words in (["setup.py", "-q", "build_ext", "--inplace"], ["pairs.py"]):
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


# What the map says


ENDINGS = "py|pyi|c|cpp|h|m|md|toml|svg|yml"


def test_files_of_the_map_exist() -> None:
    """Every path and bare name of a file in CONTRIBUTING.md, in the drawing and in its page."""
    made = module_at(ROOT / "docs" / "images" / "architecture.py")
    named = {word for box in made.BOXES.values() for word in box[3].split()}
    folders = ("anefast", "csrc", "docs", "tests")
    files = [f"/{f}" for f in folders] + [str(p) for f in folders for p in (ROOT / f).rglob("*")]
    for page in ("CONTRIBUTING.md", "docs/architecture.md"):
        found = re.findall(rf"`((?:[\w.]+/)+[\w.*]*|[\w*]+\.(?:{ENDINGS}))`", read(page))
        assert len(found) > 20, page
        named |= set(found)
    for path in named:
        pattern = re.escape(f"/{path.rstrip('/')}").replace(r"\*", r"\w*")
        known = (ROOT / path).exists() or any(re.search(f"{pattern}$", f) for f in files)
        assert known or "NAME" in path, f"{path}: no file ends so"
    assert read("docs/images/architecture.svg") == made.drawing()


def test_every_module_is_in_the_tables_of_the_map() -> None:
    named = set(re.findall(r"`(?:anefast/)?([\w.]+)`", read("docs/architecture.md")))
    modules = {p.name for p in (ROOT / "anefast").glob("[!_]*.py")}
    modules |= {p.parent.name for p in (ROOT / "anefast").glob("*/__init__.py")}
    assert modules <= named, modules - named


def read(path: str) -> str:
    return (ROOT / path).read_text()
