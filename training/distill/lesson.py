"""What a student learns: its teacher's labels with their likelihoods, and its hidden states."""

from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from training.distill.student import kept_dimensions, taught_layers


class Lesson(torch.nn.Module):
    """A student beside its teacher; the loss is how far it answers from it.

    Of labels: the divergence of their likelihoods at a temperature (Hinton et al., 2015), or the squared difference of numbers.
    Of hidden states: the mean squared difference behind each layer (Jiao et al., 2020), after a linear map where the student is
    narrower.
    """

    accepts_loss_kwargs = False
    """Its loss is the mean of a batch, of which a step may have several."""

    def __init__(
        self, student: PreTrainedModel, teacher: PreTrainedModel, *, temperature: float, hidden_loss_weight: float
    ) -> None:
        super().__init__()
        self.student = student
        # In a list it is no part of what is learnt and kept.
        self._teacher = [teacher.eval().requires_grad_(False)]
        self._temperature = temperature
        self._weight = hidden_loss_weight
        width, wide = student.config.hidden_size, teacher.config.hidden_size
        self.widen = torch.nn.Linear(width, wide) if width < wide else torch.nn.Identity()
        if width < wide:
            with torch.no_grad():
                torch.nn.init.zeros_(self.widen.weight)
                torch.nn.init.zeros_(self.widen.bias)
                self.widen.weight[kept_dimensions(teacher, width), torch.arange(width)] = 1
        of = teacher.config.num_hidden_layers
        self._layers = [0, *(layer + 1 for layer in taught_layers(student.config.num_hidden_layers, of))]
        """Of the teacher, whose hidden states the student's are compared with; 0 is that of the embeddings."""

    def forward(self, return_loss: bool = True, **inputs: Any) -> dict[str, Any]:
        """Return the loss of a batch, and for an evaluation its two parts."""
        [teacher] = self._teacher
        with torch.no_grad():
            wanted = teacher.to(inputs["input_ids"].device)(**inputs, output_hidden_states=True)
        found = self.student(**inputs, output_hidden_states=True)
        mask = inputs["attention_mask"]
        labels = self._label_loss(found, wanted, mask)
        hidden = self._hidden_loss(found.hidden_states, wanted.hidden_states, mask)
        return {"loss": labels + self._weight * hidden}

    def _label_loss(self, found: Any, wanted: Any, mask: Any) -> Any:
        if self.student.config.problem_type == "regression":
            return functional.mse_loss(found.logits, wanted.logits)
        if self.student.config.problem_type == "multi_label_classification":
            return functional.binary_cross_entropy_with_logits(found.logits, wanted.logits.sigmoid())
        if "logits" in found:
            of_tokens = found.logits.dim() == 3  # else of texts
            pairs = [
                (found.logits[mask.bool()], wanted.logits[mask.bool()]) if of_tokens else (found.logits, wanted.logits)
            ]
        else:
            pairs = [(found.start_logits, wanted.start_logits), (found.end_logits, wanted.end_logits)]
            lowest = torch.finfo(found.start_logits.dtype).min
            pairs = [tuple(logits.masked_fill(~mask.bool(), lowest) for logits in pair) for pair in pairs]
        return sum(self._divergence(one, other) for one, other in pairs) / len(pairs)

    def _divergence(self, found: Any, wanted: Any) -> Any:
        soft = functional.softmax(wanted / self._temperature, -1)
        log_found = functional.log_softmax(found / self._temperature, -1)
        # Gradients shrink with the square of the temperature.
        return functional.kl_div(log_found, soft, reduction="batchmean") * self._temperature**2

    def _hidden_loss(self, found: Any, wanted: Any, mask: Any) -> Any:
        is_real = mask.bool()
        return sum(
            functional.mse_loss(self.widen(states[is_real]), wanted[layer][is_real])
            for states, layer in zip(found, self._layers, strict=True)
        ) / len(self._layers)
