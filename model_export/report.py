"""Output for people: the current step on stderr, a short table on stdout."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TextIO

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from app.bundle.manifest import Manifest, Parity, Variant

_FEW: Final = 6
_WIDE: Final = 1000


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Give a function that shows the current step: a spinner on a terminal, else a line per step."""
    console = _console(sys.stderr)
    if not console.is_terminal:
        yield lambda step: console.print(f"{step} ...")
        return
    with console.status("") as status:
        yield lambda step: status.update(f"{step} ...")


def print_bundle(title: str, manifest: Manifest, parities: Mapping[str, Parity], duration_s: float) -> None:
    """Print what a bundle contains and how long the command took.

    For each variant: its answers' largest difference from the reference, and between a batch and each sequence alone; for
    int8, also the share of best answers that differ from fp32's.
    """
    console = _console(sys.stdout)
    console.print(f"\n{title} in {duration_s:.1f} s", markup=False)
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for row in _facts(manifest):
        facts.add_row(*map(Text, row))  # a label may look like markup of rich
    console.print(facts)
    console.print()
    variants = Table(box=None, padding=(0, 2, 0, 0))  # all columns fit into 80 characters
    any_changed = any(variant.agreement for variant in manifest.variants)
    for heading in ("variant", "size", "vs reference", "vs alone", "tolerance", "changed", "checked with"):
        if heading != "changed" or any_changed:
            justify: JustifyMethod = "left" if heading in ("variant", "checked with") else "right"
            variants.add_column(heading, justify=justify, overflow="fold")
    for variant in manifest.variants:
        parity = parities[variant.name]
        variants.add_row(
            variant.name,
            _size(variant),
            f"{parity.reference_max_abs_diff:.1e}",
            f"{parity.alone_max_abs_diff:.1e}",
            f"{parity.tolerance:.1e}",
            *([_changed(variant)] if any_changed else []),
            parity.checked_with,
        )
    for name in manifest.left_out or ():
        variants.add_row(name, "left out")
    console.print(variants)
    for reason in (manifest.left_out or {}).values():
        console.print(f"Left out: {reason}", markup=False)


def _console(stream: TextIO) -> Console:
    """Return a console on a stream; what is no terminal gets whole lines, however long, for a log or a program to read."""
    console = Console(file=stream, highlight=False)
    return console if console.is_terminal else Console(file=stream, highlight=False, width=_WIDE)


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    architecture = manifest.architecture
    yield "task", manifest.task
    if manifest.labels:
        shown = ", ".join(manifest.labels[:_FEW])
        yield "labels", f"{len(manifest.labels)}: {shown}{', ...' if len(manifest.labels) > _FEW else ''}"
    if manifest.pooling:
        shape = f"{manifest.dimensions} numbers, {manifest.pooling} of the tokens"
        yield "embeddings", f"{shape}{', normalized' if manifest.normalizes else ''}"
    if manifest.prompts:
        yield "prompts", ", ".join(f"{name}: {text!r}" for name, text in manifest.prompts.items())
    layers = f"{architecture.layers} layers of {architecture.hidden_size}, {architecture.attention_heads} heads"
    yield "network", f"{architecture.family}, {layers}, {architecture.parameters / 1e6:.1f} M parameters"
    if manifest.tokenizer_origin:
        yield "tokenizer", manifest.tokenizer_origin
    cut = ", longer texts lose their beginning" if manifest.truncation_side == "left" else ""
    yield "max length", f"{manifest.max_length} tokens{cut}"


def _size(variant: Variant) -> str:
    size_bytes = variant.graph.size_bytes + (variant.external_data.size_bytes if variant.external_data else 0)
    return f"{size_bytes / 1e6:.1f} MB"


def _changed(variant: Variant) -> str:
    return f"{variant.agreement.changed / variant.agreement.answers:.1%}" if variant.agreement else ""
