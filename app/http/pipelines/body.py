"""What a pipeline is sent."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

Form = Literal["hosted", "pipeline"]

ANY_CASE: Final = ("aggregation_strategy", "function_to_apply", "truncation_direction")
"""Parameters whose words may be written in capitals."""


class PipelineBody(BaseModel):
    """A request to a pipeline. `inputs` has the form that the model's task needs; without it, the body itself has.

    Parameters may also stand beside what they are for, in the body or in `inputs`. Other keys of the body are ignored.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    model: str | None = None
    inputs: Any = None
    parameters: dict[str, Any] | None = None
    options: Any = None
    """The hosted API's, which change no answer."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request in the terms of pipelines."""

    inputs: Any
    parameters: Mapping[str, Any]
    beside: Mapping[str, Any]
    """Keys where parameters may stand, too: in the body, and in inputs that are an object."""
    form: Form

    @property
    def is_list(self) -> bool:
        return isinstance(self.inputs, list)

    @property
    def first(self) -> Any:  # noqa: ANN401 - JSON
        """The inputs, or the first of a list."""
        return self.inputs[0] if isinstance(self.inputs, list) and self.inputs else self.inputs

    def has(self, *keys: str) -> bool:
        """Whether an input is an object with these keys."""
        return isinstance(self.first, dict) and self.first.keys() >= set(keys)


def asked_by(body: PipelineBody, form: Form) -> Asked:
    """Return what a body asks for."""
    root = body.model_extra or {}
    inputs = body.inputs if "inputs" in body.model_fields_set else root
    beside = root | inputs if isinstance(inputs, dict) else root
    return Asked(inputs, _in_lower_case(body.parameters or {}), _in_lower_case(beside), form)


def _in_lower_case(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.lower() if name in ANY_CASE and isinstance(value, str) else value
        for name, value in parameters.items()
    }
