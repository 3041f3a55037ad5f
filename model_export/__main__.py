"""`python -m model_export`: export a checkpoint to a bundle, verify a bundle, or audit one."""

import signal
import sys

if __name__ == "__main__":
    # Before what takes seconds to import: process 1 of a container does not get a signal that it has no handler for. It raises,
    # so that temporary files are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

import argparse
import importlib
import io
import math
import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args


def _missing(error: ModuleNotFoundError, environment: str, target: str) -> str:
    """Return what to do about a package that is not installed.

    Raises:
        ModuleNotFoundError: it is one of our own modules.
    """
    package = (error.name or "").partition(".")[0]
    if package in ("app", "model_export"):
        raise error
    return (
        f"{sys.executable} has no package {package}: run this with .venv-{environment}/bin/python, which `make {target}` "
        f"installs, or install requirements/{environment}.txt."
    )


try:
    from app.bundle import BundleError
    from app.bundle.files import load_bundle
    from app.bundle.manifest import Pooling
    from model_export.audit.templates import DEFAULT_TEMPLATES
    from model_export.check.tolerances import TOLERANCE
    from model_export.checkpoint.tokenizer_choice import TokenizerChoice
    from model_export.errors import ExportError, system_message
    from model_export.export import CPU_VARIANTS, GPU_VARIANTS, VARIANTS, ExportOptions, export
    from model_export.report import print_bundle, progress
    from model_export.tasks import TASKS
    from model_export.verify import verify_bundle
except ModuleNotFoundError as missing:
    sys.exit(f"error: {_missing(missing, 'export', 'export')}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Return 0, or print one line that says what went wrong and return 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # of a label or a path that the terminal has no letters for
    options = _parser().parse_args(arguments)
    try:
        if options.command == "export":
            _export(options)
        elif options.command == "audit":
            return _audit(options)
        else:
            _verify(options.bundle)
    except (ExportError, BundleError, OSError) as error:
        message = system_message(error) if isinstance(error, OSError) else error
        print(f"error: {message}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def _export(options: argparse.Namespace) -> None:
    started_at = time.perf_counter()
    _import_transformers()
    with progress() as step:
        manifest = export(
            ExportOptions(**{name: getattr(options, name) for name in ExportOptions.__slots__}),
            step,
            lambda text: print(f"warning: {text}", file=sys.stderr),  # noqa: T201
        )
    measured = {variant.name: variant.parity for variant in manifest.variants}
    print_bundle(f"Exported {options.output}", manifest, measured, time.perf_counter() - started_at)
    print(f"Serve it; a running server takes it with --watch-models or on SIGHUP:\n  {_serving(options.output)}")  # noqa: T201


def _serving(bundle: Path) -> str:
    """Return the command that serves the folder of a bundle, by the Python that runs now, to type in this folder."""
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    return shlex.join([str(python), "-m", "app", "--models", str(bundle.parent)])


def _verify(folder: Path) -> None:
    started_at = time.perf_counter()
    bundle = load_bundle(folder)
    with progress() as step:
        measured = verify_bundle(bundle, step)
    print_bundle(f"Verified {folder}", bundle.manifest, measured, time.perf_counter() - started_at)


def _audit(options: argparse.Namespace) -> int:
    """Audit a bundle. Return 1 if a gap is above the limit that was asked for, else 0."""
    try:
        from model_export.audit.command import AuditOptions, audit  # noqa: PLC0415  # only this needs matplotlib
    except ModuleNotFoundError as missing:
        raise ExportError(_missing(missing, "audit", f"audit NAME={options.bundle.name}")) from missing
    with progress() as step:
        text, above = audit(AuditOptions(**{name: getattr(options, name) for name in AuditOptions.__slots__}), step)
    print(f"\n{text}")  # noqa: T201
    if above is not None:
        print(f"error: {above}", file=sys.stderr)  # noqa: T201
    return 0 if above is None else 1


def _import_transformers() -> None:
    """Import transformers without torch: if torch is installed, importing it takes seconds."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if "torch" in sys.modules:
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # find_spec and import both treat it as missing
    try:
        importlib.import_module("transformers")
    finally:
        del sys.modules["torch"]


def _variants(text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose from {','.join(VARIANTS)}")
    return names


def _above_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model_export", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("export", help="write the bundle of a checkpoint")
    command.add_argument(
        "--checkpoint", required=True, metavar="DIR_OR_HUB_ID", help="a folder, or OWNER/NAME on the hub"
    )
    command.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="models/NAME",
        help="the bundle's folder; an existing bundle is replaced",
    )
    command.add_argument(
        "--task",
        choices=("auto", *TASKS),
        default="auto",
        help="the head to export (default: the one that the config names)",
    )
    command.add_argument(
        "--pooling",
        choices=("auto", *get_args(Pooling)),
        default="auto",
        help="for embed (default: what the folder's sentence-transformers files say, else mean)",
    )
    command.add_argument(
        "--variants",
        type=_variants,
        metavar="NAME,...",
        help=f"choose from {','.join(VARIANTS)} (default: {','.join(GPU_VARIANTS)} where a GPU's driver is installed, "
        f"else {','.join(CPU_VARIANTS)}; of these, one that is not accurate enough is left out)",
    )
    command.add_argument(
        "--max-length", type=int, metavar="TOKENS", help="maximum tokens of a sequence (default: the checkpoint's)"
    )
    command.add_argument(
        "--tokenizer",
        choices=get_args(TokenizerChoice),
        default="auto",
        help="of two tokenizers, tokenizer.json as it is or what its class makes of it (default: the one the model was "
        "trained with, if that is known)",
    )
    command.add_argument("--revision", help="branch, tag or commit of a checkpoint on the hub")
    tolerances = f"{TOLERANCE['fp32']:g} in fp32 for answers up to 10, {TOLERANCE['fp16']:g} of the largest answer in fp16, {TOLERANCE['int8']:g} in int8"
    command.add_argument(
        "--tolerance",
        type=_above_zero,
        metavar="DIFFERENCE",
        help=f"largest allowed difference from the reference (default: {tolerances})",
    )
    command.add_argument(
        "--keep-inaccurate",
        action="store_true",
        dest="keeps_inaccurate",
        help="keep a cpu-int8 variant that changes more best answers than allowed",
    )

    command = commands.add_parser("verify", help="check the files and the answers of a bundle")
    command.add_argument("bundle", type=Path, metavar="models/NAME")

    command = commands.add_parser("audit", help="measure how scores change with names, pronouns, places and dialect")
    command.add_argument("bundle", type=Path, metavar="models/NAME")
    command.add_argument(
        "--templates",
        type=Path,
        default=DEFAULT_TEMPLATES,
        metavar="FILE",
        help=f"the sentences and words, in TOML (default: {DEFAULT_TEMPLATES}; copy and edit it)",
    )
    command.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="where the report goes; an older one is replaced (default: audit-NAME)",
    )
    command.add_argument("--variant", metavar="NAME", help="a variant for CPUs (default: cpu-fp32 where there is one)")
    command.add_argument(
        "--fail-above",
        type=_above_zero,
        metavar="GAP",
        help="end with status 1 if an interval lies wholly beyond this, in either direction",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
