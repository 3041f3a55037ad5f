"""Every setting of the server, its default and its limits. Imports nothing of the project.

Read once, by `app.flags`, from the command line and from the environment (`BERT_<NAME>`). Only `app.processes` and `app.predict`
see the object; the other rooms are passed the values that they need.
"""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from ipaddress import ip_network
from pathlib import Path
from typing import Final, Literal, cast, get_args

from pydantic import Field, HttpUrl, SecretStr, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

Precision = Literal["auto", "fp32", "fp16", "bf16", "int8"]

PREFIX: Final = "BERT_"
SERVICE_ADDRESS: Final = re.compile(r"(?:tcp|udp|sctp)://\S+")
"""What Kubernetes puts into `BERT_PORT` if there is a Service named bert in the namespace, and into `BERT_METRICS_PORT` for bert-metrics."""
_OF_A_SERVICE: Final = re.compile(
    r"(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_\w+)?)|\w+_PORT"
)
"""The variables of a Service, without the prefix: of one named bert, or bert-NAME."""
_USUAL_PORT: Final = re.compile(r"^(https://.*):443$|^(http://.*):80$")
_PATHS: Final = (
    *("models", "uds", "tuning_cache_dir", "api_key_file", "api_keys_file", "admin_key_file"),
    *("ssl_certfile", "ssl_keyfile", "ssl_ca_certs"),
)
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@*\s]+")
_MEANT: Final = 0.7
"""The similarity, at most 1, above which one name is the other misspelt. Slips, plurals and missing units are above 0.72; names
of other software (`BERT_BASE_DIR`) are below 0.67."""

GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "models and device": (
        "models",
        "default_models",
        "skip_bad_bundles",
        "watch_models",
        "swap",
        "device",
        "precision",
        "threads",
        "gpu_memory_mib",
        "batch_tokens",
        "tuning_cache",
        "tuning_cache_dir",
    ),
    "HTTP": (
        "host",
        "port",
        "uds",
        "listen_when_ready",
        "metrics_port",
        "admin_port",
        "workers",
        "apis",
        "page",
        "api_key",
        "api_key_file",
        "api_keys_file",
        "admin_key",
        "admin_key_file",
        "root_path",
        "forwarded_allow_ips",
        "cors_allow_origin",
        "http_compression",
        "timeout_keep_alive",
    ),
    "TLS": ("ssl_certfile", "ssl_keyfile", "ssl_keyfile_password", "ssl_ca_certs", "ssl_cert_reqs", "ssl_ciphers"),
    "limits": (
        "max_queue_s",
        "request_timeout_s",
        "read_timeout_s",
        "shutdown_timeout_s",
        "max_inputs",
        "max_body_bytes",
    ),
    "logs and traces": ("log_level", "log_format", "access_log", "otlp_endpoint"),
}
"""The settings as `--help` shows them."""


class Settings(BaseSettings):
    """The settings of the server: arguments count before environment variables, and these before defaults."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid")

    models: Path = Field(Path("models"), description="folder of bundles, or one bundle")
    default_models: str | None = Field(
        None,
        pattern=r"^([a-z-]+=)?[^=,\s]+(,([a-z-]+=)?[^=,\s]+)*$",
        description="models that answer requests that name none: MODEL for its own task, TASK=MODEL for one that it can do, too",
    )
    skip_bad_bundles: bool = Field(
        False, description="serve the other models if a bundle cannot be loaded, which otherwise ends the start"
    )
    watch_models: bool = Field(
        False, description="load, replace and unload models as their folder changes, once a change is complete"
    )
    swap: Literal["beside", "unload-first"] = Field(
        "beside",
        description="how a bundle replaces another one of its name: beside it, which needs memory for both, or after it is unloaded, "
        "so that requests get 503 meanwhile",
    )
    host: str = Field(
        "127.0.0.1",
        pattern=r"^[^,*\s]+(,[^,*\s]+)*$",
        description="addresses to listen on; 0.0.0.0 is every one of IPv4, :: alone every one of IPv6 and IPv4",
    )
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one and logs it")
    uds: Path | None = Field(None, description="Unix socket to listen on instead of that port")
    listen_when_ready: bool = Field(
        False,
        description="let nobody connect before the models are loaded: for a load balancer without a readiness check",
    )
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="port of /metrics, which is then on no other; plain HTTP"
    )
    admin_port: int | None = Field(None, ge=0, le=65535, description="port of /admin, which is then on no other")
    workers: int = Field(
        1, ge=1, description="processes that read HTTP; with two or more the models run in one of their own"
    )
    apis: str = Field(
        "all",
        min_length=1,
        description="APIs of other servers to answer beside /v1: all, none, or names (docs/clients.md)",
    )
    page: bool = Field(True, description="show people a page at / on which they try the models (docs/page.md)")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where models run: cuda stops the start if there is none; auto takes cuda where it works"
    )
    precision: str = Field(
        "auto",
        description="variant to serve: auto (fp16 on cuda and fp32 on cpu, else what the bundle has), fp32, fp16, bf16 or int8; "
        "MODEL=PRECISION for one model",
    )
    threads: int = Field(
        0,
        ge=0,
        le=1024,
        description="CPU threads of one batch, whatever the load; 0 gives a batch all cores while nothing else waits, and one under load",
    )
    gpu_memory_mib: int = Field(
        0, ge=0, description="most GPU memory that one model takes, MiB; 0 takes what its largest batch needs"
    )
    batch_tokens: int = Field(
        0, ge=0, description="most tokens that share a batch; 0 measures what is best when the model loads"
    )
    tuning_cache: bool = Field(
        True,
        description="keep what is measured of a model on this CPU, and its weights as the CPU reads them, for the next start",
    )
    tuning_cache_dir: Path | None = Field(
        None,
        description="folder to keep it in, which can be deleted at any time; by default bert-inference-service in XDG_CACHE_HOME or "
        "~/.cache",
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
        None, min_length=1, description="key that inference asks for as 'Authorization: Bearer KEY'"
    )
    api_key_file: Path | None = Field(None, description="file that holds the key instead")
    api_keys_file: Path | None = Field(
        None, description="file of the keys of several callers, with their shares and rates (docs/operations.md)"
    )
    admin_key: SecretStr | None = Field(
        None,
        min_length=1,
        description="key that /admin asks for, which loads and unloads models; without one it is off",
    )
    admin_key_file: Path | None = Field(None, description="file that holds the admin key instead")
    root_path: str | None = Field(
        None, pattern=r"^(/[^/?#%\s]+)+$", description="path below which a proxy serves this server, as in /bert"
    )
    forwarded_allow_ips: str = Field(
        "127.0.0.1",
        description="proxies whose X-Forwarded-For names the caller in the log: addresses and networks, or *",
    )
    cors_allow_origin: str | None = Field(
        None,
        description="origins whose pages may ask in a browser, as in https://example.com,https://example.org; or *",
    )
    http_compression: bool = Field(
        False,
        description="compress answers of 2 KiB and more by gzip or zstd for callers whose Accept-Encoding asks for it",
    )
    timeout_keep_alive: int = Field(
        130,
        ge=1,
        description="time that an idle connection stays open, seconds: longer than the proxy in front keeps it",
    )
    ssl_certfile: Path | None = Field(
        None, description="certificate of the server, in PEM, its chain after it: turns TLS on"
    )
    ssl_keyfile: Path | None = Field(None, description="its key, if that is not in the same file")
    ssl_keyfile_password: SecretStr | None = Field(None, min_length=1, description="password of that key")
    ssl_ca_certs: Path | None = Field(None, description="certificates of those who may sign callers' certificates")
    ssl_cert_reqs: Literal["none", "optional", "required"] = Field(
        "none", description="whether callers show a certificate; 0, 1 and 2 mean the same, as in Python"
    )
    ssl_ciphers: str | None = Field(
        None,
        min_length=1,
        description="ciphers for TLS 1.2, as OpenSSL writes a list of them; those of 1.3 are its own",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe log to write")
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="auto writes text to a terminal, else one JSON object a line"
    )
    access_log: bool = Field(True, description="log every answered request")
    otlp_endpoint: HttpUrl | None = Field(
        None,
        description="the OTLP/HTTP address of an OpenTelemetry collector, which gets traces, as in http://localhost:4318; counts before "
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    )

    @property
    def collector(self) -> str | None:
        """`otlp_endpoint`, as text."""
        return None if self.otlp_endpoint is None else str(self.otlp_endpoint)

    @property
    def default_model_pairs(self) -> list[tuple[str, str]]:
        """`default_models`, as task and model; the task is empty where only a model is named."""
        items = (item.rpartition("=") for item in (self.default_models or "").split(",") if item)
        return [(task, model) for task, _, model in items]

    @property
    def precision_by_model(self) -> dict[str, Precision]:
        """`precision`, by model; the empty name stands for all that are not named."""
        items = (item.rpartition("=") for item in self.precision.split(","))
        return {"": "auto", **{model: cast("Precision", precision) for model, _, precision in items}}

    @property
    def waits_for_models(self) -> bool:
        """Whether there is a way to load models later, for which a server without any waits. Without one its start ends."""
        return self.watch_models or self.admin_key is not None or self.admin_key_file is not None

    @property
    def models_named(self) -> set[str]:
        """The models that settings name. One that is unloaded, or whose folder is gone, is named still."""
        return {name for _, name in self.default_model_pairs} | {name for name in self.precision_by_model if name}

    @field_validator("precision")
    @classmethod
    def _check_precision(cls, text: str) -> str:
        items = [item.rpartition("=") for item in text.split(",")]
        names = [model for model, _, _ in items]
        if {precision for _, _, precision in items} <= set(get_args(Precision)) and len(set(names)) == len(names):
            return text
        raise PydanticCustomError(
            "precision",
            "Input should be 'auto', 'fp32', 'fp16', 'bf16' or 'int8', once for all models, and MODEL=PRECISION for single ones, as in int8,reviews=fp32",
        )

    @field_validator("api_key", "admin_key", mode="before")
    @classmethod
    def _strip(cls, key: object) -> object:
        """Remove the whitespace around a key, which `$(cat key)` and editors of Secrets add."""
        return key.strip() if isinstance(key, str) else key

    @field_validator(*_PATHS, mode="before")
    @classmethod
    def _refuse_no_path(cls, path: object) -> object:
        """Refuse a variable that a file of settings leaves empty: it would be the folder in which the server was started."""
        if path == "":
            raise PydanticCustomError("path", "Input should be a path, and is empty: leave the setting out instead")
        return path

    @field_validator("ssl_cert_reqs", mode="before")
    @classmethod
    def _by_number(cls, requirement: object) -> object:
        """Return the name of a number of Python's `ssl`, as uvicorn takes them."""
        return {"0": "none", "1": "optional", "2": "required"}.get(str(requirement), requirement)

    @field_validator("root_path", mode="before")
    @classmethod
    def _without_last_slash(cls, path: object) -> object:
        return path.rstrip("/") or None if isinstance(path, str) else path

    @field_validator("cors_allow_origin")
    @classmethod
    def _origins(cls, text: str | None) -> str | None:
        """Return them as browsers write them: in lower case, without spaces, a slash at the end and a port that goes without saying."""
        if text is None:
            return None
        origins = [origin.strip().lower().removesuffix("/") for origin in text.split(",") if origin.strip()]
        origins = [_USUAL_PORT.sub(r"\1\2", origin) for origin in origins]
        if origins == ["*"] or (origins and all(_ORIGIN.fullmatch(origin) for origin in origins)):
            return ",".join(origins)
        raise PydanticCustomError(
            "origins",
            "Input should be origins with commas between, as in https://example.com:8443, without a path; or *",
        )

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _addresses(cls, proxies: str) -> str:
        if proxies != "*":
            for proxy in filter(None, proxies.split(",")):
                try:
                    ip_network(proxy.strip(), strict=False)
                except ValueError:
                    raise ValueError("should be IP addresses and networks with commas between, or *") from None
        return proxies


def variable_of(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"{PREFIX}{name.upper()}"


def service_ports(environment: Mapping[str, str]) -> list[str]:
    """Return the variables of ports whose value is not ours but Kubernetes', which has the same names for those of Services."""
    ours = {variable_of(name) for name in Settings.model_fields if name == "port" or name.endswith("_port")}
    return [name for name, value in environment.items() if name.upper() in ours and SERVICE_ADDRESS.fullmatch(value)]


def unknown_variables(environment: Iterable[str]) -> dict[str, str | None]:
    """Return the variables with the prefix that are no settings, each with the one that was probably meant, if any."""
    known = [variable_of(name) for name in Settings.model_fields]
    unknown: dict[str, str | None] = {}
    for variable in sorted(environment):
        name = variable.upper()  # their case does not count
        if name.startswith(PREFIX) and name not in known:
            plain = name.removeprefix(PREFIX)  # the prefix would make all names alike
            alike = (
                []
                if _OF_A_SERVICE.fullmatch(plain)
                else get_close_matches(plain, [one.removeprefix(PREFIX) for one in known], n=1, cutoff=_MEANT)
            )
            unknown[variable] = f"{PREFIX}{alike[0]}" if alike else None
    return unknown
