"""Run packed batches of one model with ONNX Runtime.

A runner is made, and launches batches, in the engine's one thread; they may be finished in another. Both release the GIL while
the device works.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from app.bundle.files import Bundle
from app.bundle.graph_inputs import pack
from app.bundle.heads import Head, head_of, joined
from app.bundle.manifest import Variant
from app.bundle.onnx_contents import check_contents
from app.bundle.sequences import SequenceResult, TokenSequence
from app.bundle.session import PROVIDERS
from app.errors import EngineLost, NotFinite, OutOfDeviceMemory, StartupError
from app.runtime.execution import DeviceExecution, Execution, RunOptions
from app.runtime.failures import DeviceUnavailable, classified, first_line, is_out_of_memory
from app.runtime.kept_weights import KeptWeights
from app.runtime.options import run_options
from app.runtime.session import open_in_bf16, open_kept, open_on_cpu, open_on_cuda, require_provider

log = logging.getLogger(__name__)

MASK_BYTES: Final = 128 * 2**20
"""Most bytes that the scores of a batch's masks may take, one for each token of the vocabulary; ONNX Runtime takes several times
as much. On a CPU, which never says that a batch does not fit, sequences that take more together run in halves."""


class OrtRunner:
    """One variant of one model on one device."""

    def __init__(
        self,
        bundle: Bundle,
        variant: Variant,
        *,
        threads: Sequence[int],
        gpu_memory_bytes: int = 0,
        kept: KeptWeights | None = None,
    ) -> None:
        """Load the graph.

        Args:
            bundle: The model.
            variant: One of its own.
            threads: How many CPU threads a run may have. With several numbers, each run has one of them, if memory and disk allow;
                else the most.
            gpu_memory_bytes: The most that it takes of a GPU's memory, 0 for all that is left.
            kept: Where the weights as a CPU reads them are between two starts, if they are. Then the bundle's own are not read.

        Raises:
            BundleError: the graph is missing, damaged or not for this runtime.
            OutOfDeviceMemory: the weights do not fit into the memory of this process.
            DeviceUnavailable: CUDA does not work here, or ONNX Runtime has no code for the GPU.
            StartupError: the weights are over the limit of the GPU's memory.
        """
        self.variant = variant
        self.provider = PROVIDERS[variant.target]
        self._mask_bytes: Final = 4 * bundle.manifest.architecture.vocab_size if variant.target == "cpu" else 0
        self._position_offset: Final = bundle.manifest.position_offset
        self._max_length: Final = bundle.manifest.max_length
        self._vocab_size: Final = bundle.manifest.architecture.vocab_size
        self._options: Final = run_options(variant.target)
        self.nodes_on_cpu: Sequence[str] = ()
        """Of a session on CUDA, the nodes that are in the wrong place: their operators and names."""
        require_provider(variant.target)  # first, as it decides whether the files matter
        in_bf16 = variant.precision == "bf16"
        opened = None
        if kept is not None:
            # What the next start without them would need is not missed by this one.
            for file in filter(None, (variant.graph, variant.external_data)):
                bundle.check_size(file)
            opened = open_kept(kept, threads=threads, in_bf16=in_bf16)
        self._execution: Execution
        if opened is not None:
            self._execution = opened
        else:
            path = _checked(bundle, variant)
            if in_bf16:
                self._execution, self.provider = open_in_bf16(
                    path, bundle.manifest.architecture, threads=threads, size_bytes=variant.size_bytes, kept=kept
                )
            elif variant.target == "cpu":
                self._execution = open_on_cpu(path, threads=threads, size_bytes=variant.size_bytes, kept=kept)
            else:
                _require_room(bundle, variant, gpu_memory_bytes)
                self._execution, self.nodes_on_cpu = open_on_cuda(
                    path, threads=max(threads), memory_limit_bytes=gpu_memory_bytes
                )
        head = head_of(self._execution.outputs)
        assert head is not None  # or there would be no session
        self._head: Final[Head] = head
        if isinstance(self._execution, DeviceExecution):
            self._require_code(self._execution)
        if self.nodes_on_cpu:
            log.warning(
                "model %s is slower than it could be: ONNX Runtime runs %d of its nodes on the CPU, the first %s. Report "
                "this with the variant, %s, and the version of onnxruntime-gpu, %s",
                *(bundle.name, len(self.nodes_on_cpu), self.nodes_on_cpu[0], variant.name, ort.__version__),
            )

    def _require_code(self, execution: DeviceExecution) -> None:
        """Run one token: a card that ONNX Runtime has no code for fails at the first kernel.

        Raises:
            DeviceUnavailable: this is such a card.
        """
        none = np.empty(0, np.int32)
        one = TokenSequence(np.zeros(1, np.int32), np.zeros(1, np.int32), none)
        try:
            with suppress(NotFinite):  # the golden answers tell more
                self.run([one])
        except DeviceUnavailable as error:
            raise DeviceUnavailable(
                f"{error}, {execution.card}; docs/deploy.md lists the cards that can be used instead"
            ) from error

    @property
    def variant_name(self) -> str:
        return self.variant.name

    @property
    def launches_ahead(self) -> bool:
        """Whether a batch should be launched while another one runs."""
        return self._execution.launches_ahead

    @property
    def threads(self) -> Sequence[int]:
        """How many CPU threads a run may have, from the fewest; empty where another device runs."""
        return self._execution.threads

    def keep_threads(self, threads: Sequence[int]) -> None:
        """Run with no other numbers of threads from now on."""
        self._execution.keep(threads)

    def run(self, batch: Sequence[TokenSequence], threads: int = 0) -> list[SequenceResult]:
        """Return the results of the sequences, in order. No result depends on the others in the batch, nor on the threads.

        In bf16, how it is rounded does.

        `threads` is one of the numbers that a run may have; 0 is the most.

        Raises:
            EngineLost: the device failed for good.
            OutOfDeviceMemory: the batch is too large for what is left of the device's memory.
            NotFinite: the model answers with NaN or infinity.
        """
        return self.launch(batch, threads)()

    def trim(self, batch: Sequence[TokenSequence]) -> list[SequenceResult]:
        """Run a batch as `run` does, then free the device's memory that it does not need."""
        try:
            return self._launch(batch, run_options(self.variant.target, shrinks_arena=True))()
        except (EngineLost, OutOfDeviceMemory):
            raise
        except Exception as error:  # there is no arena to shrink: more memory than necessary is held
            log.warning("the memory that warm-up took is kept: %s", first_line(error))
            return self.run(batch)

    def launch(self, batch: Sequence[TokenSequence], threads: int = 0) -> Callable[[], list[SequenceResult]]:
        """Begin to run a batch, and return a function that returns or raises what `run` does. Call that once, in any thread."""
        return self._launch(batch, self._options, threads)

    def _launch(
        self, batch: Sequence[TokenSequence], options: RunOptions, threads: int = 0
    ) -> Callable[[], list[SequenceResult]]:
        if len(batch) > 1 and self._mask_bytes * sum(len(one.masks) for one in batch) > MASK_BYTES:
            raise OutOfDeviceMemory("the scores of all masks would take too much")
        feeds = pack(batch, target=self.variant.target, position_offset=self._position_offset)
        self._refuse_unknown(batch, feeds["input_ids"])
        starts = feeds["cls_index"].astype(np.int64, copy=False)
        feeds |= self._head.inputs(batch, starts)
        outputs = self._head.outputs(batch)
        try:
            finish = self._execution.launch(feeds, outputs, options, threads=threads)
        except Exception as error:
            if len(batch) == 1 and len(batch[0].masks) > 1 and is_out_of_memory(error):
                masks = len(batch[0].masks)
                log.warning(
                    "the scores of %d masks did not fit into memory; those of the halves follow: %s", masks, error
                )
                return self._launch_halves(batch[0], options, threads)
            raise classified(error, self.variant.target) from error

        def results() -> list[SequenceResult]:
            try:
                values = finish()
            except Exception as error:
                raise classified(error, self.variant.target) from error
            if not all(np.isfinite(value).all() for value in values):
                raise NotFinite("the model answers with NaN or infinity")
            return self._head.split(dict(zip(outputs, values, strict=True)), batch, starts)

        return results

    def _launch_halves(
        self, sequence: TokenSequence, options: RunOptions, threads: int
    ) -> Callable[[], list[SequenceResult]]:
        """Run a sequence once for each half of its masks, none of whose scores depends on another mask.

        The first run is over before the second begins: only two batches at once have a place for their inputs.
        """
        halves = [replace(sequence, masks=masks) for masks in np.array_split(sequence.masks, 2)]
        scores = [one for half in halves for one in self._launch([half], options, threads)()]
        return lambda: [joined(scores)]

    def _refuse_unknown(self, batch: Sequence[TokenSequence], input_ids: npt.NDArray[np.generic]) -> None:
        """Refuse what kernels read beyond their tables with: negative ids count from the end, and CUDA checks no id at all.

        Raises:
            ValueError: a token is not of the vocabulary, or a sequence is longer than the model takes.
        """
        if max(map(len, batch)) > self._max_length:
            raise ValueError(f"a sequence has more than {self._max_length} tokens")
        if not 0 <= input_ids.min() <= input_ids.max() < self._vocab_size:
            raise ValueError(f"a token id is not one of the {self._vocab_size} of the vocabulary")


def _checked(bundle: Bundle, variant: Variant) -> Path:
    """Return where the graph of a variant is, whose files are those of the manifest and hold what an export writes.

    Raises:
        BundleError: they do not.
    """
    path = bundle.verify_file(variant.graph)
    if variant.external_data is not None:
        bundle.verify_file(variant.external_data)
    check_contents(path, variant.external_data.file if variant.external_data else None)
    return path


def _require_room(bundle: Bundle, variant: Variant, gpu_memory_bytes: int) -> None:
    """Raise if the limit of a GPU's memory is less than the weights."""
    if 0 < gpu_memory_bytes < variant.size_bytes:
        raise StartupError(
            f"BERT_GPU_MEMORY_MIB is {gpu_memory_bytes >> 20}, but the weights of {bundle.name} alone take "
            f"{-(-variant.size_bytes >> 20)}. Raise it, or set 0 for what the model needs."
        )
