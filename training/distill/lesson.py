"""What a student learns: its teacher's labels with their likelihoods, and its hidden states."""

from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from training.distill.evaluation import Form
from training.distill.student import kept_dimensions, taught_layers
from training.distill.teacher import Teacher


class Lesson(torch.nn.Module):
    """A student beside its teacher; the loss is how far it answers from it.

    Of labels: the divergence of their likelihoods at a temperature (Hinton et al., 2015), or the squared difference of numbers.
    Of hidden states: the mean squared difference behind each layer (Jiao et al., 2020), after a linear map where the student is
    narrower.
    """

    accepts_loss_kwargs = False
    """Its loss is the mean of a batch, of which a step may have several."""

    def __init__(
        self, student: PreTrainedModel, teacher: Teacher, *, temperature: float, hidden_loss_weight: float
    ) -> None:
        super().__init__()
        self.student = student
        # In a list it is no part of what is learnt and kept.
        network = teacher.network.eval().requires_grad_(False)
        self._teacher = [network]
        self._form: Form = teacher.form
        self._temperature = temperature
        self._weight = hidden_loss_weight
        width, wide = student.config.hidden_size, network.config.hidden_size
        self.widen = torch.nn.Linear(width, wide) if width < wide else torch.nn.Identity()
        if width < wide:
            with torch.no_grad():
                torch.nn.init.zeros_(self.widen.weight)
                torch.nn.init.zeros_(self.widen.bias)
                self.widen.weight[kept_dimensions(network, width), torch.arange(width)] = 1
        of = network.config.num_hidden_layers
        self._layers = [0, *(layer + 1 for layer in taught_layers(student.config.num_hidden_layers, of))]
        """Of the teacher, whose hidden states the student's are compared with; 0 is that of the embeddings."""

    def forward(self, return_loss: bool = True, **inputs: Any) -> dict[str, Any]:
        """Return the loss of a batch."""
        [teacher] = self._teacher
        with torch.no_grad():
            wanted = teacher.to(inputs["input_ids"].device)(**inputs, output_hidden_states=True)
        found = self.student(**inputs, output_hidden_states=True)
        mask = inputs["attention_mask"]
        labels = self._label_loss(found, wanted, mask)
        hidden = self._hidden_loss(found.hidden_states, wanted.hidden_states, mask)
        return {"loss": labels + self._weight * hidden}

    def _label_loss(self, found: Any, wanted: Any, mask: Any) -> Any:
        is_real = mask.bool()
        match self._form:
            case "number":
                return functional.mse_loss(found.logits, wanted.logits)
            case "labels":
                return functional.binary_cross_entropy_with_logits(found.logits, wanted.logits.sigmoid())
            case "label":
                return self._divergence(found.logits, wanted.logits)
            case "entities":
                return self._divergence(found.logits[is_real], wanted.logits[is_real])
            case "answer":
                lowest = torch.finfo(found.start_logits.dtype).min
                ends = ("start_logits", "end_logits")
                pairs = [[each[end].masked_fill(~is_real, lowest) for each in (found, wanted)] for end in ends]
                return sum(self._divergence(*pair) for pair in pairs) / 2

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
