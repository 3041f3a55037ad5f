"""Every setting of the server, its default and its limits.

Read once, in `__main__`, from the command line and from the environment (`BERT_<NAME>`). Of the rooms only `processes` sees
the object; the others are passed the values they need. Imports nothing of the project.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, HttpUrl, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX: Final = "BERT_"
_MEANT: Final = 0.7
"""How alike two names are, of 1, of which one is the other misspelt. Slips, a plural and a unit left out are above 0.72; what
other software calls its own (`BERT_BASE_DIR`, `BERT_SERVICE_HOST` of a Kubernetes Service) is below 0.67."""


class Settings(BaseSettings):
    """Serve BERT bundles over HTTP. Each flag can also be set in the environment, as BERT_<NAME>."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_prog_name="python -m app",
        cli_hide_none_type=True,
        extra="forbid",
    )

    models: Path = Field(Path("models"), description="folder of bundles, or one bundle")
    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for every interface")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one and logs it")
    workers: int = Field(
        1, ge=1, description="processes that read HTTP; with two or more the models run in one of their own"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where models run: cuda stops the start if there is none; auto takes cuda where it works"
    )
    precision: Literal["auto", "fp32", "fp16", "int8"] = Field(
        "auto", description="variant to serve: auto takes fp16 on cuda and fp32 on cpu"
    )
    threads: int = Field(
        0,
        ge=0,
        le=1024,
        description="CPU threads of one batch; the cores they leave run other batches meanwhile; 0 measures what is best",
    )
    gpu_memory_mib: int = Field(
        0, ge=0, description="most GPU memory that one model takes, MiB; 0 takes what its largest batch needs"
    )
    batch_tokens: int = Field(
        0, ge=0, description="most tokens that share a batch; 0 measures what is best when the model loads"
    )
    max_queue_s: float = Field(
        5.0, gt=0, allow_inf_nan=False, description="longest estimated wait that is accepted before 429, seconds"
    )
    request_timeout_s: float = Field(
        30.0, gt=0, allow_inf_nan=False, description="longest time from admission to answer, seconds"
    )
    read_timeout_s: float = Field(
        60.0,
        gt=0,
        allow_inf_nan=False,
        description="longest time for a request to arrive, and for its caller to take the answer, seconds",
    )
    shutdown_timeout_s: float = Field(
        30.0, gt=0, allow_inf_nan=False, description="longest time to finish accepted requests after SIGTERM, seconds"
    )
    max_inputs: int = Field(512, ge=1, le=4096, description="most inputs in one request")
    max_body_bytes: int = Field(4 * 1024 * 1024, ge=1, description="largest request body, bytes")
    api_key: SecretStr | None = Field(
        None, min_length=1, description="key that /v1 asks for as 'Authorization: Bearer KEY'"
    )
    api_key_file: Path | None = Field(None, description="file that holds the key instead")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe log to write")
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="auto writes text to a terminal, else one JSON object a line"
    )
    access_log: bool = Field(True, description="log every answered request")
    otlp_endpoint: HttpUrl | None = Field(
        None,
        description="where traces go: the OTLP/HTTP address of an OpenTelemetry collector, as in http://localhost:4318",
    )

    @field_validator("api_key", mode="before")
    @classmethod
    def _without_its_line_end(cls, key: object) -> object:
        """Take a key as one out of a file: what `$(cat key)` or a Secret's editor puts around it is no part of it."""
        return key.strip() if isinstance(key, str) else key


def unknown_variables(environment: Iterable[str]) -> dict[str, str | None]:
    """Return the variables with the prefix that are no settings, each with the one that was probably meant, if any."""
    known = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    unknown: dict[str, str | None] = {}
    for variable in sorted(environment):
        name = variable.upper()  # their case does not count
        if name.startswith(PREFIX) and name not in known:
            # Without the prefix, which would make all names alike.
            alike = get_close_matches(
                name.removeprefix(PREFIX), [one.removeprefix(PREFIX) for one in known], n=1, cutoff=_MEANT
            )
            unknown[variable] = f"{PREFIX}{alike[0]}" if alike else None
    return unknown
