"""The Trainer, which tells the loss of the masked words from that of the next sentences."""

from typing import Any

import torch
from transformers import Trainer


class PretrainingTrainer(Trainer):
    """One whose log has the masked-word loss of the examples that were learnt from."""

    def __init__(self, *arguments: Any, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self._learnt = torch.zeros(2, device=self.args.device)
        """The sum of the losses since the last entry of the log, and how many they are."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **others: Any) -> Any:
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **others)
        if model.training:
            self._learnt += torch.stack([outputs["word_losses"].sum(), outputs["words"].sum()])
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            losses, count = self._learnt.tolist()
            logs["masked_word_loss"] = losses / max(count, 1)
            self._learnt.zero_()
        super().log(logs, start_time)
