"""Which variants of a model would be faster on the CPU of this machine, and how to get it."""

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from app.bundle.cpus import BF16, FAST_INT8, instruction_sets
from app.bundle.files import Bundle
from app.bundle.manifest import Precision
from app.engine.messages import Faster, Loaded
from app.runtime.session import OPENVINO, needs_openvino

log = logging.getLogger(__name__)


class _Gain(NamedTuple):
    """A precision that is faster than fp32 on a CPU that has one of these instruction sets."""

    precision: Precision
    sets: frozenset[str]
    price: str


_GAINS: Final = (
    _Gain("int8", FAST_INT8, "changes some answers"),
    _Gain("bf16", BF16, "rounds scores"),
)
"""The fastest first."""


_OF_ONE_MODEL: Final = re.compile(r"--output models/.+? --task \S+")


def advised(bundle: Bundle, loaded: Loaded) -> Loaded:
    """Return how a model is served with what the CPU has and what would be faster there, if it runs on the CPU."""
    if not loaded.threads:
        return loaded
    sets = instruction_sets()
    return replace(loaded, instruction_sets=sets, faster=tuple(_faster(bundle, loaded.variant, frozenset(sets))))


def _faster(bundle: Bundle, served: str, sets: frozenset[str]) -> Iterator[Faster]:
    """Yield the variants that are faster than the one that is served on a CPU with these instruction sets."""
    manifest = bundle.manifest
    for gain in _GAINS:
        name = f"cpu-{gain.precision}"
        if name == served:
            return
        if not gain.sets.isdisjoint(sets) and name not in (manifest.left_out or ()):
            yield Faster(name, f"BERT_PRECISION={gain.precision}", _command(bundle, name), gain.price)


def _command(bundle: Bundle, name: str) -> str | None:
    """Return what makes a variant, None if it is there."""
    manifest = bundle.manifest
    if name in (variant.name for variant in manifest.servable):
        return f"pip install '{OPENVINO}'" if name == "cpu-bf16" and needs_openvino() else None
    # An export replaces the bundle: it names the variants that are there, too. bf16 runs the graph of fp32.
    held = [variant.name for variant in manifest.variants]
    variants = ",".join([*held, name.replace("bf16", "fp32")])
    return (
        f"python -m model_export export --checkpoint DIR_OR_HUB_ID --output models/{bundle.name} "
        f"--task {manifest.task} --variants {variants}"
    )


def log_advice(models: Mapping[str, Loaded]) -> None:
    """Log a line: what the CPU has, in which variant each model runs on it, and what would be faster."""
    alike: dict[str, dict[str, str]] = {}
    for name, one in models.items():
        if one.threads:
            how = _how(one)
            alike.setdefault(_OF_ONE_MODEL.sub("--output models/NAME --task TASK", how), {})[name] = how
    if alike:
        sets = next(one.instruction_sets for one in models.values() if one.threads)
        ways = ((how if len(by_name) > 1 else next(iter(by_name.values())), by_name) for how, by_name in alike.items())
        log.info(
            "this CPU has %s. %s",
            ", ".join(sets) or "no instruction sets that are known",
            " ".join(f"As {how}: {', '.join(names)}." for how, names in ways),
        )


def _how(one: Loaded) -> str:
    ways = (
        f"{other.variant}, which {other.price} ({f'run {other.command}, then ' if other.command else ''}set {other.setting})"
        for other in one.faster
    )
    return f"{one.variant} (faster here: {'; '.join(ways)})" if one.faster else one.variant
