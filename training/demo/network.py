"""One BERT with three heads, which learn together: masked words, next sentences, and sentiment."""

from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

from training.pretrain.network import BertForPreTraining

LABELS: Final = ("NEGATIVE", "POSITIVE")
SENTIMENT: Final = "rated_"
"""Before the names of what the third head gets."""
_WEIGHT: Final = 0.7
"""Of the loss of sentiment, beside those of words and sentences."""
_HEADS: Final = 4
"""The learning rate of the heads, in that of the encoder."""


class DemoBert(BertForPreTraining):
    """BERT as it is pretrained, with a classifier on its pooler, of the names that transformers has for them."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.dropout = torch.nn.Dropout(config.hidden_dropout_prob)
        self.classifier = torch.nn.Linear(config.hidden_size, len(LABELS))
        self.post_init()

    def forward(self, **inputs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the loss of a batch of both kinds, or of pairs alone."""
        rated = {name.removeprefix(SENTIMENT): inputs.pop(name) for name in list(inputs) if name.startswith(SENTIMENT)}
        # Without dropout: pairs are seen about once, and are learnt faster so. Rated sentences come again.
        self.bert.eval()
        outputs = super().forward(**inputs)
        self.bert.train(self.training)
        if rated:
            outputs["loss"] = outputs["loss"] + _WEIGHT * cross_entropy(self.sentiment(**rated), rated["labels"])
        return outputs

    def by_rate(self, rate: float) -> list[dict[str, Any]]:
        """Return the weights with their learning rates, as an optimizer takes them: the heads begin at random, and learn faster."""
        begun = ("bert.embeddings.", "bert.encoder.")
        body = [weight for name, weight in self.named_parameters() if name.startswith(begun)]
        heads = [weight for name, weight in self.named_parameters() if not name.startswith(begun)]
        return [{"params": body, "lr": rate}, {"params": heads, "lr": rate * _HEADS}]

    def sentiment(self, input_ids: Any, attention_mask: Any, **_: Any) -> Any:
        """Return the logits of texts: [texts, labels]."""
        pooled = self.bert(input_ids, attention_mask=attention_mask).pooler_output
        return self.classifier(self.dropout(pooled)).float()

    def save_demo(self, folder: Path) -> None:
        """Write the checkpoint as it is shipped: in 16 bits, without the decoder, whose weights are those of the words."""
        self.config.id2label = dict(enumerate(LABELS))
        self.config.label2id = {name: i for i, name in enumerate(LABELS)}
        self.config.architectures = ["BertForPreTraining", "BertForSequenceClassification"]
        self.config.save_pretrained(folder)
        tensors = {
            name: tensor.half().contiguous()
            for name, tensor in self.state_dict().items()
            if not name.startswith("cls.predictions.decoder.")
        }
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
