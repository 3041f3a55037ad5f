"""The body of errors."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ErrorResponse(BaseModel):
    """The body of every error."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": "inputs: is an empty string; send some text",
                    "error_type": "validation",
                    "request_id": "0a1b2c3d4e5f6071",
                }
            ]
        }
    )

    error: str = Field(description="What happened and what to do.")
    error_type: Literal[
        "invalid_json", "unauthorized", "not_found", "payload_too_large", "validation", "overloaded", "not_ready",
        "engine_lost", "deadline_exceeded", "internal",
    ]  # fmt: skip
    request_id: str
