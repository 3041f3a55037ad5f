"""The network: BERT with both of its heads, new or of a checkpoint."""

from typing import Any, Final

import torch
import transformers
from torch.nn.functional import cross_entropy
from transformers import BertConfig

from training.checkpoint import Checkpoint, reading_weights
from training.errors import TrainingError, few, tell
from training.pretrain.arguments import Options
from training.pretrain.masking import IGNORED

_SIZES: Final = {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12}
_OF_A_NEW_ONE: Final = (*_SIZES, "intermediate_size", "vocab", "vocab_size", "cased")


class BertForPreTraining(transformers.BertForPreTraining):
    """The library's, of the same name and weights, which looks for words only where one is masked: a seventh of the tokens."""

    accepts_loss_kwargs = False
    """The loss is an average: the Trainer divides it by the parts of a step."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor,
        labels: torch.Tensor,
        next_sentence_label: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Return the loss, and by sequence what its parts are: [sequences] each."""
        outputs = self.bert(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        masked = labels != IGNORED
        words = labels[masked]
        scores = self.cls.predictions(outputs.last_hidden_state[masked]).float()
        losses = cross_entropy(scores, words, reduction="none")
        next_scores = self.cls.seq_relationship(outputs.pooler_output).float()
        next_loss = cross_entropy(next_scores, next_sentence_label, ignore_index=IGNORED, reduction="sum")
        labelled = next_sentence_label != IGNORED
        row = masked.nonzero()[:, 0]
        sums = torch.zeros(2, len(labels), device=losses.device)
        sums.index_add_(1, row, torch.stack([losses.detach(), (scores.argmax(-1) == words).float()]))
        return {
            # A batch without a masked word has a loss of 0 for them, and so for next sentences.
            "loss": losses.sum() / max(len(words), 1) + next_loss / labelled.sum().clamp(min=1),
            "word_losses": sums[0],
            "right_words": sums[1],
            "words": masked.sum(1),
            "right_next": next_scores.argmax(-1) == next_sentence_label,
            "labelled": labelled,
        }


def check_options(options: Options) -> None:
    """Check what needs no text.

    Raises:
        TrainingError: options do not fit each other.
    """
    given = [name for name in _OF_A_NEW_ONE if getattr(options, name)]
    if options.checkpoint is not None and given:
        raise TrainingError(f"{_flag(given[0])} is for a new network, and --checkpoint has its own: give one of them.")
    if options.vocab is not None and options.vocab_size is not None:
        raise TrainingError(
            "--vocab-size is for a vocabulary that is learnt, and --vocab has its own: give one of them."
        )
    sizes = _sizes(options)
    if sizes["hidden_size"] % sizes["num_attention_heads"]:
        raise TrainingError(
            f"--hidden-size {sizes['hidden_size']} is no multiple of --num-attention-heads {sizes['num_attention_heads']}; "
            "64 for each head is usual."
        )
    if options.max_length < 8:
        raise TrainingError("--max-length must be 8 or more: two texts and three special tokens have to fit.")


def check_checkpoint(checkpoint: Checkpoint, options: Options) -> None:
    """Check that a checkpoint can go on.

    Raises:
        TrainingError: it is of another family, or shorter than what it would learn from.
    """
    if checkpoint.config.model_type != "bert":
        raise TrainingError(
            f"{checkpoint.name} is of the family {checkpoint.config.model_type}; this goes on only with bert, which learns "
            "next sentences, too."
        )
    checkpoint.length(options.max_length)


def make_network(options: Options, tokenizer: Any) -> BertForPreTraining:
    """Return the network of a checkpoint, or a new one with random weights."""
    if options.checkpoint is None:
        sizes = _sizes(options)
        return BertForPreTraining(
            BertConfig(
                vocab_size=len(tokenizer),
                max_position_embeddings=options.max_length,
                pad_token_id=tokenizer.pad_token_id,
                intermediate_size=options.intermediate_size or 4 * sizes["hidden_size"],
                **sizes,
            )
        )
    with reading_weights(options.checkpoint):
        model, found = BertForPreTraining.from_pretrained(
            options.checkpoint, dtype=torch.float32, output_loading_info=True
        )
    if new := sorted(found["missing_keys"]):
        tell(f"{options.checkpoint} has no {few(new)}: they begin with random weights.")
    return model


def _sizes(options: Options) -> dict[str, int]:
    return {name: getattr(options, name) or value for name, value in _SIZES.items()}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
