"""Choose the variant and the device that serve a bundle."""

import logging
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Final, Literal

import onnxruntime as ort

from app.bundle.files import Bundle, Skipping, skipping_none
from app.bundle.manifest import Precision, Target, Variant
from app.bundle.session import PROVIDERS
from app.errors import BundleError, StartupError
from app.runtime.failures import DeviceUnavailable
from app.runtime.kept_weights import KeptWeights
from app.runtime.nvml import count_gpus
from app.runtime.runner import OrtRunner

log = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda"]
Wanted = Precision | Literal["auto"]
# fp16 runs on tensor cores and halves the memory traffic; int8 changes answers, so it
# is served on request, or if the bundle has nothing else.
PREFERENCE: Final[dict[Target, tuple[Precision, ...]]] = {"cpu": ("fp32", "int8"), "cuda": ("fp16", "fp32")}
# Not of auto: it changes answers a little, needs a processor that has it, and on x86 a package of its own.
ON_REQUEST: Final[dict[Target, tuple[Precision, ...]]] = {"cpu": ("bf16",), "cuda": ()}


class _NoVariant(BundleError):
    """The bundle is whole, but has no variant for the device and precision."""


def choose_precisions(
    bundles: Collection[Bundle],
    device: Device,
    precision_by_model: Mapping[str, Wanted],
    skipping: Skipping = skipping_none,
    bad: Collection[str] = (),
    *,
    may_lack: Collection[str] = (),
) -> dict[str, Wanted]:
    """Return what each model is to run in: the precision of its own name, else that of the empty name.

    A model that lacks the latter runs in what `auto` takes, with a warning, as long as another model has it.

    Args:
        bundles: The models.
        device: Where they run.
        precision_by_model: By name.
        skipping: The context in which a model that lacks the precision of its own name fails; see `find_bundles`.
        bad: The names of bundles that are not served, which may have a precision.
        may_lack: The names of models that may lack that of the empty name without a word, as they are served so.

    Raises:
        StartupError: a name is that of no model.
        BundleError: a model lacks the precision of its own name, or every one that of the empty name.
    """
    names = [bundle.name for bundle in bundles]
    for name in precision_by_model:
        if name and name not in names and name not in bad:
            raise StartupError(f"BERT_PRECISION: {name} is not served. Models are: {', '.join(names)}.")
    chosen: dict[str, Wanted] = {}
    lacking: dict[str, _NoVariant] = {}
    targets: tuple[Target, ...] = ("cpu", "cuda") if device == "auto" else (device,)
    for bundle in bundles:
        precision = precision_by_model.get(bundle.name, precision_by_model[""])
        has_it = any(v.precision == precision for v in bundle.manifest.servable if v.target in targets)
        if precision == "auto" or has_it:
            chosen[bundle.name] = precision
            continue
        missing = _no_variant(bundle, targets[0], (precision,))
        if bundle.name in precision_by_model:
            with skipping(bundle.name):
                raise missing
            continue
        chosen[bundle.name] = "auto"
        if bundle.name not in may_lack:
            lacking[bundle.name] = missing
    if lacking and not any(chosen[name] == precision_by_model[""] for name in chosen if name not in precision_by_model):
        raise next(iter(lacking.values()))
    for name, missing in lacking.items():
        log.warning(
            "%s Until then it runs as with auto, which BERT_PRECISION=%s,%s=auto asks for.",
            *(missing, precision_by_model[""], name),
        )
    return chosen


def runs_on_cpu(device: Device) -> bool:
    """Return whether models can run on nothing else, by what is asked for and installed."""
    return device == "cpu" or (device == "auto" and PROVIDERS["cuda"] not in ort.get_available_providers())


def open_runner(
    bundle: Bundle,
    *,
    device: Device,
    precision: Wanted,
    threads: Sequence[int],
    gpu_memory_bytes: int = 0,
    kept: KeptWeights | None = None,
) -> OrtRunner:
    """Return a runner for the best variant of a bundle on the best device that works.

    Args:
        bundle: The model.
        device: Where to run; `auto` takes CUDA if it works, and warns if it does not although there is a GPU.
        precision: What to run in; `auto` takes the fastest that keeps the answers.
        threads: How many CPU threads a run may have; see `OrtRunner`.
        gpu_memory_bytes: The most that the model takes of a GPU's memory, 0 for all that is left.
        kept: Where the weights as a CPU reads them are between two starts, if they are.

    Raises:
        BundleError: the bundle has no variant for the device and precision, or its graph is damaged.
        OutOfDeviceMemory: the weights do not fit into what is left of the device's memory.
        StartupError: CUDA is requested and does not work here, or both builds of ONNX Runtime are installed.
    """
    _check_installation()
    if device != "cpu":
        try:
            variant = choose_variant(bundle, "cuda", precision)
            return OrtRunner(bundle, variant, threads=threads, gpu_memory_bytes=gpu_memory_bytes)
        except DeviceUnavailable as missing:
            if device == "cuda":
                raise StartupError(
                    f"BERT_DEVICE is cuda, but CUDA cannot be used: {missing}. BERT_DEVICE=cpu serves from the CPU."
                ) from missing
            _warn_of_cpu(bundle, f"{missing}.")
        except _NoVariant as missing:
            if device == "cuda":
                raise
            _warn_of_cpu(bundle, str(missing))
    return OrtRunner(bundle, choose_variant(bundle, "cpu", precision), threads=threads, kept=kept)


def _warn_of_cpu(bundle: Bundle, missing: str) -> None:
    """Warn that a model runs on the CPU if the machine seems to have a GPU."""
    gpus = count_gpus()
    if gpus:
        reason = f"this machine has {gpus} GPU{'s' if gpus > 1 else ''}"
    elif PROVIDERS["cuda"] in ort.get_available_providers():
        reason = "onnxruntime-gpu is installed"
    else:
        return
    log.warning(
        "model %s does not run on CUDA, although %s: %s BERT_DEVICE=cuda stops the start instead, BERT_DEVICE=cpu asks for "
        "the CPU.",
        bundle.name,
        reason,
        missing,
    )


def choose_variant(bundle: Bundle, target: Target, precision: Wanted) -> Variant:
    """Return the variant of a bundle to serve on a kind of device.

    Raises:
        BundleError: it has none.
    """
    wanted = PREFERENCE[target] if precision == "auto" else (precision,)
    by_precision = {variant.precision: variant for variant in bundle.manifest.servable if variant.target == target}
    for candidate in wanted:
        if candidate in by_precision:
            return by_precision[candidate]
    raise _no_variant(bundle, target, wanted)


def _no_variant(bundle: Bundle, target: Target, wanted: Sequence[Precision]) -> _NoVariant:
    held = ", ".join(variant.name for variant in bundle.manifest.variants)
    return _NoVariant(
        f"Bundle {bundle.name} has no variant {target}-{' or '.join(wanted)}; it has {held}. {_remedy(bundle, target, wanted)}"
    )


def _remedy(bundle: Bundle, target: Target, wanted: Sequence[Precision]) -> str:
    [precision, *_] = wanted
    runs = (*PREFERENCE[target], *ON_REQUEST[target])
    if precision not in runs:
        place = "on a machine with a GPU, with BERT_DEVICE=cuda" if target == "cpu" else "with BERT_DEVICE=cpu"
        return (
            f"{precision} does not run on {'a CPU' if target == 'cpu' else 'CUDA'}. Set BERT_PRECISION to auto, "
            f"{', '.join(runs[:-1])} or {runs[-1]}, or serve {precision} {place}."
        )
    if precision == "bf16":
        return "It runs the graph of cpu-fp32: export it again with that among --variants, or change BERT_PRECISION."
    left_out = bundle.manifest.left_out or {}
    reasons = [left_out[name] for name in (f"{target}-{one}" for one in wanted) if name in left_out]
    if reasons:
        return (
            f"The export left it out: {' '.join(reasons)} Export it again with a larger --tolerance, if that is good enough "
            "for you, or change BERT_DEVICE or BERT_PRECISION."
        )
    return "Export it again with --variants, or change BERT_DEVICE or BERT_PRECISION."


def _check_installation() -> None:
    """Refuse both extras at once: they install two builds into one folder, where the later one overwrites the other.

    Raises:
        StartupError: both are installed.
    """
    found = []
    for package in ("onnxruntime", "onnxruntime-gpu"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    if len(found) > 1:
        raise StartupError(
            f"Both {' and '.join(found)} are installed, and one has overwritten the other. Make a new environment with "
            "one of the extras, cpu or gpu, or run: pip uninstall --yes onnxruntime onnxruntime-gpu, then install it."
        )
