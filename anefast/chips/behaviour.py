"""Each chip's Neural Engine: its known limits and behaviour, each with its source.

Data, no code paths. We have run no M-series chip: these are other people's findings, and
where none was found for a chip the nearest one's is taken and marked so. What sources disagree on,
or do not say, is a switch whose default is argued here and which `--chip m1,inputs=one` changes.
The host executor takes a profile on as options (`csrc/host/chip/profile.h`), the linter reads the
same data, `fuse/legal.py` the limits. How fast a chip is stands in `chips/rates.py`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from anefast.chips.asked import WHOLE, Verdicts, of_facts
from anefast.errors import shown
from anefast.files import read_json

GUIDE = "sbryngelson/ane-guide"
SEED = "maderix/ANE issue 24 (M1 Pro, macOS 26.2)"
MADERIX = "maderix/ANE"
HWX = "joshuaswarren/mil-hwx-compiler (Apple's compiler on an M1 Ultra, macOS 26.6.2)"


class Figure(NamedTuple):
    """A number and where it comes from."""

    value: float
    source: str


def assumed(figure: Figure, chip: str) -> Figure:
    """A figure of the nearest chip that has one."""
    return Figure(figure.value, f"assumed, as {chip}: {figure.source}")


_OLD_AXIS = Figure(16384, f"{GUIDE} appendix A, jafreck/ironmill: 16385 is refused up to M3")
_NEW_AXIS = Figure(65536, f"{GUIDE} appendix A: from M4")
_CHANNELS = Figure(65536, f"{GUIDE} appendix A")
_LOADED = Figure(120, "omlx, ncdrone/rustane; jafreck/ironmill saw trouble from about 55")
_SLICE = Figure(4094, f"{GUIDE} ch. 19: larger values of such slices read inf, M1 and M2")
_SEVERAL = f"several inputs per program: refused in {SEED}, taken on other M1s"


class Switch(NamedTuple):
    """A behaviour as the host executor spells it, how sure it is, and why this is the default.

    rule: the linter's rule that says the same of a text, which refusals then cite.
    """

    value: str
    sure: Literal["agreed", "single", "disputed", "inferred"]
    source: str
    rule: str = ""


# Operations that the compiler does not take, by the linter's rule. None: it has none.
_MISSING = {
    "ANE040": "gather gather_along_axis gather_nd",
    "ANE041": "scatter scatter_along_axis scatter_nd",
    "ANE042": "sin cos",
    "ANE043": "tan sinh cosh asin acos cumsum one_hot band_part mod",
    "ANE045": "logical_and logical_or logical_xor",
    "ANE046": "reduce_prod",
    "ANE049": "batch_norm",
}


def _refused(missing: Mapping[str, str]) -> str:
    """Operations as the executor reads them: gather@ANE040+..."""
    return "+".join(f"{op}@{rule}" for rule, ops in missing.items() for op in ops.split())


COMMON: dict[str, Switch] = {
    # What the parser takes.
    "opsets": Switch("ios16+ios17+ios18", "agreed", "every project writes one of these", "ANE095"),
    "inputs": Switch(
        "any", "agreed",
        "imperatormk/ane-train (M1, M1 Pro), mechramc/Orion (M4 Max) and others run several fp16 "
        "inputs; `one` is the strict reading of reports that none may be had",
        "ANE025",
    ),
    "weights": Switch(
        "input", "disputed",
        f"conv with a sliced weight is refused at parse time in {SEED}; an input of its own passed "
        f"on M1 for one dense sequence ({GUIDE} ch. 19, imperatormk/ane-train), ANEForge says not "
        "implemented",
        "ANE034",
    ),
    # What the compiler takes.
    "dtypes": Switch(
        "fp16+fp32+int8+uint8+bool", "disputed",
        "fp32 with cast runs on M3 to M5 (maderix/ANE, Orion, ironmill), ANEForge refuses it; "
        f"int8 and uint8: ANEForge; bool: {HWX}, though others see it refused, as they do int32",
        "ANE022",
    ),
    "refuse": Switch(
        _refused(_MISSING),
        "agreed",
        f"jafreck/ironmill and libane compile none of these; {GUIDE} calls gather native from M2, "
        "sin and cos from M3, batch_norm everywhere: the stricter is the safer. concat, refused by "
        "Orion alone (M4 Max, macOS 15), is taken",
    ),
    "together": Switch("", "single", "only jafreck/ironmill saw such a set refused"),
    "rank": Switch("5", "agreed", f"{GUIDE} ch. 19", "ANE012"),
    "terms": Switch(
        "16384", "agreed", f"{GUIDE} appendix A; 32000 are refused in {MADERIX}",
        "ANE038",
    ),
    "kernel": Switch("15", "agreed", f"{GUIDE} ch. 17: 15 or 16 behind M1", "ANE039"),
    "epsilon": Switch("required", "agreed", "jafreck/ironmill, libane, ANEForge", "ANE030"),
    "after_reduce": Switch(
        "take", "disputed",
        "refused for ncdrone/rustane (M4 Max) and, of inputs, imperatormk/ane-train (M1); roots of "
        f"means are taken for h13 and h14 in {HWX}",
        "ANE031",
    ),
    "zero_gain": Switch(
        "refuse", "single", "ANEForge: a sum times 0 fails to compile", "ANE068"
    ),
    # Numbers. Of products, results end at the cap. That a partial sum beyond it is lost too, even
    # where later terms would bring it back, was measured (ane-guide ch. 3), but which partial sums
    # there are was not: a tree of four lanes comes first, then nobody has published an order, nor
    # how channels are shared out among cores. Some order of terms overflows wherever the positive
    # ones or the negative ones alone reach the cap; to say which do would be to invent hardware.
    "products": Switch(
        "fp32", "inferred",
        "fp32 sums stand in where the accumulator was not measured; of M3 Pro, gradients of 4.2e-4 "
        "times weights of 0.036 that gave zeros (slavko-at-klincov-it/ANE-Training) speak for "
        "q15.16, of M1 fp16 sums of four lanes (ane-guide) against it",
    ),
    "rounding": Switch(
        "even", "disputed",
        f"{GUIDE}: M1 rounds to nearest even; ANEForge sees 2049 -> 2050 on M2 Pro and M5",
    ),
    "product_cap": Switch("32768", "agreed", f"{GUIDE} ch. 3 and 20: M1 to M5 Pro"),
    "nan": Switch("coerce", "single", f"{GUIDE} ch. 3"),
    "denormals": Switch(
        "flush", "inferred", f"{GUIDE} ch. 3 measured M1 (flushed) and M5 (kept); taken as M1"
    ),
    "sums": Switch(
        "narrow", "inferred",
        "ANEForge sees totals on the fp16 grid; a mean is taken for such a total times 1/n",
    ),
    "tables": Switch(
        "on", "agreed",
        f"{GUIDE} ch. 3: 33 knots; largest errors by {GUIDE}, ironmill and ANEForge. Those of "
        "exp, log and rsqrt are no larger than fp16 rounding, so these are not tabled",
    ),
    "tiny": Switch("0", "disputed", f"libane alone; {GUIDE} has log(0) = -45440"),
    # Budgets and delays.
    "compiles": Switch(
        "0", "disputed", f"119 per process by five sources, 312 without failure in {SEED}: off",
        "ANE092",
    ),
    "compile_us": Switch("0", "inferred", "per operation; off: emulation is not a model of time"),
    "dispatch_us": Switch("0", "inferred", "per evaluation; off, as above"),
}  # fmt: skip
_M1_M2: dict[str, Switch] = {
    "dtypes": Switch(
        "fp16+int8+uint8+bool", "disputed",
        f"fp32 ports fail on M1 and M2 ({MADERIX} pull request 6, M1 Ultra in Espresso issue 18); "
        f"{GUIDE} calls the cast native",
        "ANE020",
    ),
    "refuse": Switch(
        _refused({**_MISSING, "ANE047": "neg"}), COMMON["refuse"].sure,
        COMMON["refuse"].source + f"; neg is missing on M1 and M2 ({GUIDE})",
    ),
}  # fmt: skip
_M1 = {**_M1_M2, "kernel": Switch("13", "agreed", f"{GUIDE} ch. 17", "ANE039")}
# Measured on M4 and M6 with equal results; the other chips were not tested.
M6_STUDY = "751K/Apple-Neural-Engine-Microarchitecture-Study-M6: M4 and M6, macOS 27.0.1"
_FIXED: dict[str, Switch] = {
    "products": Switch("q15.16", "single", M6_STUDY),
    "rounding": Switch("away", "single", M6_STUDY),
    "denormals": Switch("keep", "single", M6_STUDY),
    "tables": Switch(
        "sampled", "single",
        f"{M6_STUDY}: sigmoid by 0.5 to 8, tanh by 0.125 to 4 (M6; sigmoid also {MADERIX} on M4); "
        "of gelu and silu, whose knots are not all published, the bounds",
    ),
}  # fmt: skip
_DEPTH = Figure(380, f"{M6_STUDY}: 386 convolutions in a row crashed the compiler, 384 on an M4")
_INPUTS = Switch(
    "fp16", "disputed",
    f"every attempt was refused in {SEED}, which took fp32 ones of rank 3; fp16 ones run on M1 Pro "
    "in imperatormk/ane-train",
    "ANE025",
)  # fmt: skip
_KEPT = Switch("keep", "single", f"{GUIDE} ch. 3, M5")
_TOGETHER = Switch("split+matmul+softmax+tile", "single", "jafreck/ironmill, M3 Pro", "ANE064")
_TINY = Switch("7.63e-6", "single", "libane, an M3: log and rsqrt of less are inf")


# Switches that are limits as well, and the names of these.
LIMITS = {
    "axis": "max_axis", "channels": "max_channels", "loaded": "loaded_programs",
    "slice_cap": "slice_cap",
}  # fmt: skip
ENDLESS = 2.0**30  # what stands for no limit


@dataclass(frozen=True)
class Chip:
    """One chip's limits."""

    name: str
    max_axis: Figure = _OLD_AXIS  # longest axis of a port behind the channels
    max_channels: Figure = _CHANNELS
    # Magnitude above which a slice that starts behind the beginning of the last axis gives inf.
    slice_cap: Figure | None = None
    loaded_programs: Figure = _LOADED  # that a process may hold at once
    # Of one program: elementwise operations from which its compile takes seconds, then minutes, and
    # products in a row that the compiler was seen to take.
    quick_elementwise: Figure | None = None
    max_depth: Figure | None = None
    several_inputs: str = ""  # why a program with several inputs may be refused; empty: no report
    # The MIL dialect that is surest to be read: ios18 ran on M1 too, but ios16 was made for it.
    dialect: Literal["ios18", "ios16"] = "ios18"
    differs: Mapping[str, Switch] = field(default_factory=dict)  # from COMMON
    # The chip whose rates are taken where it has none of its own, in `rates` or in rates.py. A chip
    # with a `like` needs no row there, nor in the tables of docs/chips.md.
    like: str = ""
    # Of a chip that doctor examined: the file that says so, how fast it was (names of
    # chips/rates.py), the ways it took (names of runtime/doctor_facts.py), and the most inputs and
    # outputs that a program of its had.
    file: str = ""
    rates: Mapping[str, Figure] = field(default_factory=dict)
    tried: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    most_ports: tuple[int, int] | None = None
    refused: Mapping[str, str] = field(default_factory=dict)  # forms of ours, and what was said

    @property
    def target(self) -> str:
        """What Apple's compiler calls it, such as h13."""
        return next(k for k, first in TARGETS.items() if self.name.partition("-")[0] == first)

    @property
    def title(self) -> str:
        """Its name, and whose findings these are."""
        return f"{self.name} by {self.file}" if self.file else self.name

    @property
    def switches(self) -> dict[str, Switch]:
        """The options of the host executor for this chip, limits included."""
        limits = {k: getattr(self, name) for k, name in LIMITS.items()}
        rules = {"axis": "ANE028", "channels": "ANE029"}
        told = {
            k: Switch(f"{f.value:.0f}", "agreed", f.source, rules.get(k, ""))
            for k, f in limits.items()
            if f is not None
        }
        told.setdefault("slice_cap", Switch("0", "single", f"{GUIDE} ch. 19: clean from M3 on"))
        return {**COMMON, **told, **self.differs}

    def switched(self, to: Mapping[str, str], source: str) -> Chip:
        """This chip with other values of some switches, and of the limits among them."""
        known = self.switches
        differs = {k: Switch(v, "single", source, known[k].rule) for k, v in to.items()}
        limits: dict[str, Any] = {
            LIMITS[k]: Figure(float(v) or ENDLESS, source)
            for k, v in to.items()
            if k in LIMITS and v.isdecimal()
        }
        if limits.get("slice_cap", (0,))[0] == ENDLESS:
            limits["slice_cap"] = None
        return replace(self, differs={**self.differs, **differs}, **limits)


@dataclass(frozen=True)
class Profile:
    """A chip as the host executor emulates it; `spec` names it, and what was switched."""

    chip: Chip
    spec: str

    def value(self, key: str) -> str:
        """The value of a switch on this chip."""
        return self.chip.switches[key].value

    @property
    def options(self) -> str:
        """The device options of csrc/host/chip/profile.h."""
        words = [f"profile={self.spec}"]
        for key, switch in self.chip.switches.items():
            words.append(f"{key}={switch.value}" + (f"@{switch.rule}" if switch.rule else ""))
        return " ".join(words)


CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip("m1", slice_cap=_SLICE, dialect="ios16", differs=_M1),
        Chip(
            "m1-pro",
            slice_cap=assumed(_SLICE, "m1"),
            several_inputs=_SEVERAL,
            dialect="ios16",
            differs={**_M1, "inputs": _INPUTS},
        ),
        Chip("m2", slice_cap=_SLICE, dialect="ios16", differs=_M1_M2),
        Chip("m3", differs={"together": _TOGETHER, "tiny": _TINY}),
        Chip("m4", max_axis=_NEW_AXIS, max_depth=_DEPTH, differs=_FIXED),
        Chip("m4-max", max_axis=_NEW_AXIS, max_depth=_DEPTH, differs=_FIXED),
        Chip("m5", max_axis=assumed(_NEW_AXIS, "m4"), differs={"denormals": _KEPT}),
        Chip(
            "m6",
            max_axis=assumed(_NEW_AXIS, "m4"),
            quick_elementwise=Figure(
                256, f"{M6_STUDY}: two engines; 128 take 1.1 s, 256 13 s, 512 179 s"
            ),
            max_depth=_DEPTH,
            differs=_FIXED,
        ),
    )
}


def find_chip(name: str) -> Chip:
    """The chip called `name`, or the one of doctor's file, `doctor.json`.

    ValueError with a suggestion where there is none; FileError for a file that cannot be read.
    """
    if name in CHIPS:
        return CHIPS[name]
    if name.endswith(DOCTORS):
        return _of_doctor(name)[0]
    alone, comma, _ = name.partition(",")
    if comma and (alone in CHIPS or alone.endswith(DOCTORS)):
        raise ValueError(
            f"[chip] expected a chip's name alone, got {name!r}. Hint: use {alone}; only commands "
            "that run programs (train, generate, replay) take switches."
        )
    near = difflib.get_close_matches(name.lower().replace(" ", "-"), CHIPS, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(CHIPS)}."
    raise ValueError(f"[chip] expected a known chip, got {name!r}. Hint: {hint}")


def find_profile(spec: str) -> Profile:
    """The profile of a chip's name, perhaps with switches: `m1-pro` or `m1-pro,inputs=one`. In
    place of a name, doctor's file on a chip: `doctor.json` is the chip that it describes, with
    what was seen of its arithmetic and its limits. The profile's own `spec` names no file.

    ValueError with a suggestion where chip or switch is unknown; values are checked by the device.
    FileError where the file cannot be read or is not doctor's.
    """
    name, *words = spec.split(",")
    chip, seen = _of_doctor(name) if name.endswith(DOCTORS) else (find_chip(name), {})
    asked: dict[str, str] = {}
    for word in words:
        key, _, value = word.partition("=")
        if key not in chip.switches:
            near = difflib.get_close_matches(key, chip.switches, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(chip.switches)}."
            raise ValueError(f"[chip] expected a switch of {name}, got {word!r}. Hint: {hint}")
        if not re.fullmatch(VALUE, value):
            raise ValueError(f"[chip] expected {key}=VALUE without spaces, got {word!r}.")
        asked[key] = value
    if asked:
        chip = chip.switched(asked, "--chip")
    words = [f"{key}={value}" for key, value in {**seen, **asked}.items()]
    return Profile(chip, ",".join([chip.name, *words]))


# A chip that doctor examined.

DOCTORS = ".json"
# What Apple's compiler calls a chip, and the first of that generation.
TARGETS = {"h13": "m1", "h14": "m2", "h15": "m3", "h16": "m4", "h17": "m5", "h18": "m6"}
VALUE = r"[\w.+-]*"
UNASKED = ("compile_us", "dispatch_us")  # delays that may be asked for: no facts
WAYS = ("dialects", "weights", "ports", "seen")
DEEPEST = 512  # products in a row of the deepest program that doctor tries


def _of_doctor(path: str) -> tuple[Chip, dict[str, str]]:
    """The chip that a file of `anefast doctor --probe` is of, and its switches as far as they were
    probed. What was not is that of the nearest chip in the table."""
    found = read_json(path, where="chip")
    try:
        description, label = str(found["device"]["description"]), found["device"]["label"]
        facts = [result["facts"] for result in found["results"]]
        seen = _words(word for f in facts for word in f.get("numbers", ()))
        rates = _words(word for f in facts for word in f.get("rates", ()))
        tried = {way: tuple(map(str, found["learned"][way])) for way in WAYS}
        chip = chip_of(description)
        source = f"anefast doctor on {description}, {label}"
        limits = ("depth", "most_inputs", "most_outputs")
        depth, inputs, outputs = (int(seen.pop(k, 0)) for k in limits)
        figures = {k: Figure(float(v), source) for k, v in rates.items()}
        asked = of_facts(facts).get(chip.target, Verdicts())
        known = chip.switches
        sound = all(k in known and re.fullmatch(VALUE, v) for k, v in seen.items())
        if not seen or not sound or label == "measured on the host":
            raise ValueError(label)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            "[chip] expected a file on a chip that anefast.doctor --probe wrote, got "
            f"{shown(path)}. Hint: run it on a Mac, or with --chip."
        ) from error
    if depth:
        deepest = Figure(depth, source)
        chip = replace(chip, max_depth=deepest if depth < DEEPEST else None)
    if label != "measured":
        figures = {}  # times of what stands in for a chip are not the chip's
    most = (inputs, outputs) if inputs and outputs else None
    against = {
        form: why
        for form, why in asked.against.items()
        if not why.startswith("skipped") and not why.endswith(WHOLE)
    }
    chip = replace(chip, file=path, rates=figures, tried=tried, most_ports=most, refused=against)
    return chip.switched(seen, source), seen


def _words(words: Iterable[str]) -> dict[str, str]:
    """key=value words, of which a later one replaces an earlier one."""
    return dict(word.split("=") for word in words)


def unprobed(chip: Chip) -> str:
    """A note on what a doctor's file leaves out and which chip it is taken from; else empty."""
    if not chip.file:
        return ""
    mine = {k for k, s in chip.switches.items() if s.source.startswith("anefast doctor")}
    rest = [k for k in chip.switches if k not in mine and k not in UNASKED]
    return (
        f"[chip] {shown(chip.file)} has {len(mine)} measured facts of this {chip.name}. Not "
        f"measured, so taken from the table: {', '.join(rest)}."
    )


def chip_of(description: str) -> Chip:
    """The nearest chip of the table for a device that describes itself, such as `Apple M4 Max`.

    Caps rise with the generation, so an unknown variant is taken for its generation's base chip,
    and what names no generation for the oldest.
    """
    words = re.findall(r"[a-z0-9]+", description.lower())
    for i, word in enumerate(words):
        variant = f"{word}-{words[i + 1]}" if i + 1 < len(words) else word
        if variant in CHIPS or word in CHIPS:
            return CHIPS.get(variant) or CHIPS[word]
    return CHIPS["m1"]
