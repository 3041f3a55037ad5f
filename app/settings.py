"""Every setting of the server, its default and its limits.

Read once, in `launch`, from the command line and from the environment (`BERT_<NAME>`); nothing else sees the whole
object. Imports nothing of the project.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, HttpUrl, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Serve BERT bundles over HTTP. Each flag can also be set in the environment, as BERT_<NAME>."""

    model_config = SettingsConfigDict(
        env_prefix="BERT_",
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
