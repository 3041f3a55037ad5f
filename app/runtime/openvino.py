"""Run a graph for the CPU in OpenVINO, with products in bf16. The only module that imports `openvino`, which not every server has.

OpenVINO reads the graph of `cpu-fp32` as it is, but it joins the parts of a loop only if all have one size. So what runs over the
groups of a batch is replaced. Attention runs over bins instead: rows of the length of the longest sequence, each with
as many whole sequences as fit, which a mask keeps apart. Everything else processes the packed tokens.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import openvino as ov
import openvino.opset15 as ops

from app.bundle.cpus import usable_cpus
from app.bundle.graph_inputs import Feeds
from app.bundle.manifest import Architecture
from app.runtime.execution import Finish, RunOptions, Values

PROVIDER: Final = f"OpenVINO {ov.__version__.partition('-')[0]}"
PRECISION = "bf16"
HIDDEN: Final = -1e30
"""Added to the score of a token of another sequence, whose weight is then exactly 0. bf16 has it, too."""
_GROUPS: Final = ("group_start", "group_end", "group_shape")
_NEW: Final = ("bin_tokens", "bin_mask", "bin_places", "sequence_tokens", "sequence_starts")


class OpenVinoExecution:
    """`launch` does nothing, and the returned function runs the model. Several threads may run batches at once."""

    launches_ahead = False

    def __init__(self, path: Path, architecture: Architecture, *, threads: Sequence[int]) -> None:
        """Load a graph, once for each number of threads, with as many streams as such runs fit onto the cores. Streams share weights.

        Raises:
            ValueError: the export of an earlier release wrote it.
            RuntimeError: OpenVINO cannot read it.
        """
        core = ov.Core()
        model = core.read_model(path)
        self.inputs: Final = [_name(one) for one in model.inputs]
        self.outputs: Sequence[str] = [_name(one) for one in model.outputs]
        _replace_branches(model, architecture)
        self._models = {count: _compile(core, model, count) for count in sorted(threads)}
        self._used: Final = {_name(one) for one in model.inputs}
        self._free: Final[dict[int, list[Any]]] = {count: [] for count in threads}

    @property
    def threads(self) -> Sequence[int]:
        return list(self._models)

    def keep(self, threads: Sequence[int]) -> None:
        for count in {*self._models}.difference(threads):
            self._free[count].clear()
            del self._models[count]

    def launch(self, feeds: Feeds, outputs: Sequence[str], options: RunOptions = None, *, threads: int = 0) -> Finish:  # noqa: ARG002
        count = threads or max(self._models)
        both = feeds | bins(feeds["group_shape"])
        inputs = {name: both[name].astype(both[name].dtype if name == "bin_mask" else np.int64) for name in self._used}

        def finish() -> Values:
            free = self._free[count]
            try:
                request = free.pop()
            except IndexError:
                request = self._models[count].create_infer_request()
            try:
                request.infer(inputs)
                return [request.get_tensor(name).data.copy() for name in outputs]
            finally:
                free.append(request)

        return finish


def _compile(core: Any, model: Any, threads: int) -> Any:  # noqa: ANN401
    streams = max(1, usable_cpus() // threads)
    options = {
        "INFERENCE_PRECISION_HINT": PRECISION,
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": streams * threads,
    }
    return core.compile_model(model, "CPU", options)


def bins(group_shape: npt.NDArray[np.generic]) -> Feeds:
    """Return the inputs that take the place of a batch's groups.

    Sequences are packed by length, so a bin is a run of the packed tokens: the next ones that fit.

    Args:
        group_shape: As in `app.bundle.graph_inputs`.

    Returns:
        bin_tokens: int64[bins, length], the packed position of each token in the bins; free room repeats a token.
        bin_mask: float32[bins, 1, length or 1, length], what is added to a token's score for another.
        bin_places: int64[tokens], where the bins, end to end, have each packed token.
        sequence_tokens: int64[tokens], the packed positions, in order.
        sequence_starts: int64[batch], the first of each sequence in packed order.
    """
    counts, sizes = group_shape.astype(np.int64)[:, :2].T
    lengths = np.repeat(sizes, counts)
    ends = np.cumsum(lengths)
    starts, length = ends - lengths, int(lengths[-1])
    firsts = [0]  # the first sequence of each bin
    while (after := int(np.searchsorted(ends, starts[firsts[-1]] + length, side="right"))) < len(lengths):
        firsts.append(after)
    begins = starts[firsts]
    used = np.diff(begins, append=ends[-1])
    places = np.arange(length)
    is_token = places < used[:, None]
    bin_tokens = begins[:, None] + np.minimum(places, used[:, None] - 1)
    tokens = np.arange(ends[-1])
    if len(firsts) == len(lengths):
        sees = is_token[:, None]
    else:
        sequence = np.where(is_token, np.repeat(np.arange(len(lengths)), lengths)[bin_tokens], -1)
        sees = sequence[:, :, None] == sequence[:, None]
    return {
        "bin_tokens": bin_tokens,
        "bin_mask": np.where(sees, np.float32(0), np.float32(HIDDEN))[:, None],
        "bin_places": tokens + np.repeat(np.arange(len(firsts)) * length - begins, used),
        "sequence_tokens": tokens,
        "sequence_starts": starts,
    }


def _replace_branches(model: Any, architecture: Architecture) -> None:  # noqa: ANN401 - openvino has no types where these are checked
    """Compute from the inputs of `bins` what the branches do, for one group and for several."""
    dtypes = {name: ov.Type.f32 if name == "bin_mask" else ov.Type.i64 for name in _NEW}
    ranks = {"bin_tokens": 2, "bin_mask": 4}
    new = {name: ops.parameter([-1] * ranks.get(name, 1), dtypes[name], name=name) for name in _NEW}
    for name, parameter in new.items():
        parameter.output(0).set_names({name})
    used: set[str] = set()
    branches = [node for node in model.get_ordered_ops() if node.get_type_name() == "If"]
    if not branches:
        raise ValueError("an earlier release has exported it")
    for node in branches:
        values = [value for value in node.input_values() if value.get_element_type() == ov.Type.f32]
        name = node.get_friendly_name()
        if name == "means":
            hidden, *_ = values  # once more for each branch
            places = {"sequence_tokens", "sequence_starts"}
            rows = ops.embedding_bag_offsets(hidden, new["sequence_tokens"], new["sequence_starts"], reduction="mean")
        else:
            packed = {name: value for value in values for name in value.get_names()}
            parts = [packed[f"{name.removesuffix('attention')}{part}"] for part in ("query", "key", "value")]
            places = {"bin_tokens", "bin_mask", "bin_places"}
            rows = _attention(parts, new, architecture)
        used |= places
        for one in node.output(0).get_target_inputs():
            one.replace_source_output(rows.output(0))
    model.add_parameters([new[name] for name in _NEW if name in used])
    for parameter in model.get_parameters():
        if parameter.get_friendly_name() in _GROUPS:
            model.remove_parameter(parameter)
    model.validate_nodes_and_infer_types()


def _attention(parts: Sequence[Any], new: Mapping[str, Any], architecture: Architecture) -> Any:  # noqa: ANN401
    """Return what each packed token attends to, all heads side by side, of the packed queries, keys and values."""
    rows, order = ops.constant(np.int64(0)), ops.constant(np.array([0, 2, 1, 3]))
    heads, hidden = architecture.attention_heads, architecture.hidden_size
    by_head = ops.constant(np.array([0, 0, heads, hidden // heads]))
    binned = [ops.reshape(ops.gather(one, new["bin_tokens"], rows), by_head, special_zero=True) for one in parts]
    attended = ops.scaled_dot_product_attention(*(ops.transpose(one, order) for one in binned), new["bin_mask"])
    joined = ops.reshape(ops.transpose(attended, order), ops.constant(np.array([-1, hidden])), special_zero=False)
    return ops.gather(joined, new["bin_places"], rows)


def _name(end: Any) -> str:  # noqa: ANN401
    name: str = end.get_any_name()
    return name
