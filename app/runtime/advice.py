"""Which variant of a model would be faster on the CPU of this machine, and how to get it."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from app.bundle.cpus import EXACT_INT8, instruction_sets
from app.bundle.files import Bundle
from app.bundle.manifest import Precision
from app.engine.messages import Faster, Loaded

log = logging.getLogger(__name__)


class _Gain(NamedTuple):
    """A precision that is faster than fp32 on a CPU that has one of these instruction sets."""

    precision: Precision
    sets: frozenset[str]


_GAINS: Final = (_Gain("int8", EXACT_INT8),)
"""The fastest first."""


def advised(bundle: Bundle, loaded: Loaded) -> Loaded:
    """Return how a model is served with what the CPU has and what would be faster there, if it runs on the CPU."""
    if not loaded.threads:
        return loaded
    sets = instruction_sets()
    return replace(loaded, instruction_sets=sets, faster=_faster(bundle, loaded.variant, frozenset(sets)))


def _faster(bundle: Bundle, served: str, sets: frozenset[str]) -> Faster | None:
    """Return the fastest variant for a CPU with these instruction sets; None if that is served."""
    manifest = bundle.manifest
    held = [variant.name for variant in manifest.variants]
    for gain in _GAINS:
        name = f"cpu-{gain.precision}"
        if name == served:
            return None
        if gain.sets.isdisjoint(sets) or name in (manifest.left_out or ()):
            continue
        # An export replaces the bundle: it names the variants that are there, too.
        command = (
            None
            if name in held
            else f"python -m model_export export --checkpoint DIR_OR_HUB_ID --output models/{bundle.name} "
            f"--task {manifest.task} --variants {','.join([*held, name])}"
        )
        return Faster(name, f"BERT_PRECISION={gain.precision}", command)
    return None


def log_advice(models: Mapping[str, Loaded]) -> None:
    """Log a line: what the CPU has, in which variant each model runs on it, and what would be faster."""
    on_cpu = {name: one for name, one in models.items() if one.threads}
    if on_cpu:
        sets = next(iter(on_cpu.values())).instruction_sets
        log.info(
            "this CPU has %s. %s",
            ", ".join(sets) or "no instruction sets that are known",
            " ".join(_how(name, one) for name, one in on_cpu.items()),
        )


def _how(name: str, one: Loaded) -> str:
    how = f"Model {name} runs as {one.variant}"
    if one.faster is None:
        return f"{how}."
    first = f"run '{one.faster.command}', then " if one.faster.command else ""
    return f"{how}; {one.faster.variant} is faster here and changes some answers: {first}set {one.faster.setting}."
