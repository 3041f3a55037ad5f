"""What the tests of the export share."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from safetensors.numpy import load_file, save_file

from app.bundle.files import Bundle
from app.bundle.manifest import Pooling, Target
from app.bundle.sequences import FloatArray, TokenSequence
from model_export.check.runnable_graph import RunnableGraph
from model_export.check.sequences import checked_sequence, random_sequences
from model_export.checkpoint.find import find_checkpoint
from model_export.checkpoint.network import Network
from model_export.checkpoint.sentence_transformers import read_embedding_settings
from model_export.checkpoint.tensors import read_network
from model_export.checkpoint.tokenizer import read_tokenizer
from model_export.checkpoint.weights import open_weights
from model_export.graph.build import build_graph
from model_export.graph.onnx_file import write_onnx
from model_export.tasks import TASKS
from tests.oracle.answers import oracles

ROOT = Path(__file__).parents[2]
CHECKPOINTS = ROOT / "tests" / "fixtures" / "checkpoints"
CUT = {"answer": "only_second", "zero-shot": "only_first"}
"""Which of two texts is cut where it is not the longer one, by task."""
NAMES = sorted(folder.name for folder in CHECKPOINTS.iterdir())


def task_of(name: str) -> str:
    return next((task for task in TASKS if task in name), "classify")


def network_of(folder: Path, task: str, pooling: Pooling | None = None) -> Network:
    checkpoint = find_checkpoint(str(folder))
    embedding = read_embedding_settings(folder, pooling or "auto") if task == "embed" else None
    return read_network(
        checkpoint.name,
        checkpoint.config,
        TASKS[task],
        open_weights(folder),
        tokenizer_tells_types=read_tokenizer(folder).tells_types,
        embedding=embedding,
    )


def sequences_for(folder: Path, network: Network, max_length: int) -> list[TokenSequence]:
    mask = network.task.mask(read_tokenizer(folder).special_tokens)
    return random_sequences(max_length, network.config.vocab_size, mask)


def written(network: Network, path: Path, target: Target = "cpu", **writing: Any) -> RunnableGraph:
    """Write the fp32 graph of a network and load it."""
    write_onnx(build_graph(network, target=target, precision="fp32"), path, **writing)
    return RunnableGraph(path, target=target, position_offset=network.config.position_offset)


def loaded(bundle: Bundle, variant_name: str) -> RunnableGraph:
    """Load a variant of a bundle."""
    manifest = bundle.manifest
    [variant] = [variant for variant in manifest.variants if variant.name == variant_name]
    path = bundle.verify_file(variant.graph)
    return RunnableGraph(path, target=variant.target, position_offset=manifest.position_offset)


def edit_tensors(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the tensors of a checkpoint in place."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def narrowed(name: str, folder: Path, *, hidden: int, heads: int) -> Path:
    """Write a small checkpoint with other heads and another hidden size: the first columns of its weights."""
    shutil.copytree(CHECKPOINTS / name, folder)
    config = json.loads((folder / "config.json").read_text())
    widths = {config["hidden_size"]: slice(hidden)}
    whole = slice(None)

    def cut(tensors: dict[str, Any]) -> None:
        for tensor, values in tensors.items():
            tensors[tensor] = values[tuple(widths.get(size, whole) for size in values.shape)].copy()

    edit_tensors(folder, cut)
    config |= {"hidden_size": hidden, "num_attention_heads": heads}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def answered_cases(bundle: Bundle) -> tuple[list[TokenSequence], list[FloatArray]]:
    """Return the inputs of `answers.json`, cut by the bundle's own tokenizer, and the stored logits or embeddings."""
    [oracle] = [oracle for oracle in oracles() if oracle.name == bundle.name]
    tokenizer = tokenizers.Tokenizer.from_file(str(bundle.path(bundle.manifest.tokenizer)))
    mask = TASKS[bundle.manifest.task].mask(bundle.manifest.special_tokens)
    prompt = (bundle.manifest.prompts or {}).get(bundle.manifest.default_prompt_name or "", "")
    sequences, logits = [], []
    for case in oracle.sequences:
        direction = case["answers"][0]["parameters"].get("truncation_direction", "right")
        strategy = CUT.get(oracle.task, "longest_first")
        tokenizer.enable_truncation(bundle.manifest.max_length, direction=direction, strategy=strategy)
        first, second = texts_of(case["input"])
        first = prompt + first
        encoding = tokenizer.encode(first.strip() if bundle.manifest.strips_whitespace else first, second)
        assert encoding.ids == case["input_ids"], case["input"]
        sequences.append(checked_sequence(encoding.ids, encoding.type_ids, mask))
        logits.append(np.array(case["embedding" if bundle.manifest.task == "embed" else "logits"], np.float32))
    return sequences, logits


def texts_of(item: str | dict[str, str] | list[str]) -> tuple[str, str | None]:
    """Return the one or two texts of an input; an empty second one counts as none, except of a pair that a task has made."""
    if isinstance(item, str):
        return item, None
    if isinstance(item, list):
        first, second = item
        return first, second
    first, second = item.values()
    return first, second or None
