"""Settings from flags and the environment, and what is told of those that cannot be."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

import app.__main__ as command
from app.settings import GROUPS, Settings, unknown_variables


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command as far as to its settings, which are returned, or to its exit status."""

    def start(*arguments: str, **environment: str) -> Settings | int:
        taken: list[Settings] = []

        def take(settings: Settings) -> int:
            taken.append(settings)
            return 0

        monkeypatch.setattr("app.processes.launch.launch", take)
        monkeypatch.setattr(sys, "argv", ["app", *arguments])
        for name in [name for name in os.environ if name.upper().startswith("BERT_")]:
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        status = command.main()
        return taken[0] if taken else status

    return start


def test_the_defaults_are_one_worker_on_loopback_without_a_key(start: Any) -> None:
    settings = start()
    assert (settings.models, settings.host, settings.port) == (Path("models"), "127.0.0.1", 8000)
    assert (settings.workers, settings.device, settings.precision) == (1, "auto", "auto")
    assert settings.api_key is None


def test_serve_takes_models_and_port_where_sagemaker_has_them(start: Any) -> None:
    image = {"BERT_MODELS": "/models", "BERT_PORT": "8000", "BERT_HOST": "0.0.0.0"}
    settings = start("serve", **image)
    assert (settings.models, settings.port, settings.host) == (Path("/opt/ml/model"), 8080, "0.0.0.0")
    assert start("serve", "--port", "1", **image).port == 1


def test_every_setting_is_a_flag_and_a_variable(start: Any) -> None:
    given: dict[str, Any] = {
        "models": Path("elsewhere"), "default_models": "one,embed=two", "host": "0.0.0.0", "port": 1, "uds": Path("socket"), "listen_when_ready": True, "metrics_port": 2, "admin_port": 3, "workers": 3, "apis": "tei,openai", "page": False, "device": "cpu", "precision": "int8,one=fp32",
        "threads": 2, "gpu_memory_mib": 512, "batch_tokens": 99, "tuning_cache": False, "tuning_cache_dir": Path("cache"), "max_queue_s": 0.5, "request_timeout_s": 1.5, "read_timeout_s": 3.5,
            "shutdown_timeout_s": 2.5,
        "max_inputs": 7, "max_body_bytes": 1000, "api_key": SecretStr("key"), "api_key_file": Path("file"), "admin_key": SecretStr("other"), "admin_key_file": Path("other-file"), "swap": "unload-first",
        "api_keys_file": Path("keys"),
        "root_path": "/bert", "forwarded_allow_ips": "10.0.0.0/8", "timeout_keep_alive": 20, "cors_allow_origin": "https://example.com", "http_compression": True,
        "ssl_certfile": Path("c"), "ssl_keyfile": Path("k"), "ssl_keyfile_password": SecretStr("p"), "ssl_ca_certs": Path("a"), "ssl_cert_reqs": "optional", "ssl_ciphers": "HIGH",
        "log_level": "debug", "log_format": "text", "access_log": False, "skip_bad_bundles": True, "watch_models": True, "otlp_endpoint": "http://collector:4318/",
    }  # fmt: skip
    assert set(given) == set(Settings.model_fields)

    def text(value: Any) -> str:
        return value.get_secret_value() if isinstance(value, SecretStr) else str(value)

    flags = [
        f"--{name.replace('_', '-')}={text(value)}" for name, value in given.items() if not isinstance(value, bool)
    ]
    variables = {f"BERT_{name.upper()}": text(value) for name, value in given.items()}
    for settings in (
        start(
            *flags,
            "--no-access-log",
            "--no-page",
            "--no-tuning-cache",
            "--skip-bad-bundles",
            "--http-compression",
            "--listen-when-ready",
            "--watch-models",
        ),
        start(**variables),
    ):
        read = settings.model_dump()
        assert {name: str(value) for name, value in read.items()} == {name: str(value) for name, value in given.items()}


def test_a_flag_counts_before_a_variable(start: Any) -> None:
    assert start("--port", "1", BERT_PORT="2").port == 1
    assert start("--no-access-log").access_log is False


def test_settings_of_single_models_are_read(start: Any) -> None:
    settings = start("--precision", "int8,one=fp32", "--default-models", "one,embed=two")
    assert settings.precision_by_model == {"": "int8", "one": "fp32"}
    assert settings.default_model_pairs == [("", "one"), ("embed", "two")]
    assert start("--precision", "one=int8").precision_by_model == {"": "auto", "one": "int8"}
    assert start().default_model_pairs == []


@pytest.mark.parametrize(("number", "name"), [("0", "none"), ("1", "optional"), ("2", "required")])
def test_certificates_are_asked_for_by_the_numbers_of_python(start: Any, number: str, name: str) -> None:
    assert start("--ssl-cert-reqs", number).ssl_cert_reqs == name


def test_a_key_is_not_shown(start: Any) -> None:
    assert "s3cret" not in repr(start(BERT_API_KEY="s3cret"))


def test_a_key_is_without_what_surrounds_it(start: Any) -> None:
    assert start(BERT_API_KEY=" s3cret\r\n").api_key == SecretStr("s3cret")
    assert start("--api-key", "s3cret\n").api_key == SecretStr("s3cret")


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("BERT_MAX_QUEUES", "BERT_MAX_QUEUE_S"),
        ("BERT_API_KYE", "BERT_API_KEY"),
        ("BERT_WORKER", "BERT_WORKERS"),
        ("BERT_MAX_BODY", "BERT_MAX_BODY_BYTES"),
        ("bert_prot", "BERT_PORT"),
    ],
)
def test_a_misspelt_setting_ends_the_start(
    start: Any, capsys: pytest.CaptureFixture[str], variable: str, meant: str
) -> None:
    assert start(**{variable: "3"}) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{variable}: there is no such setting. Did you mean {meant}?")


def test_all_problems_are_reported_at_once(start: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(BERT_MAX_QUEUES="3", BERT_PORT="http", BERT_TREADS="1") == 2
    told = [line.split(" ")[0] for line in capsys.readouterr().err.splitlines()]
    assert told == ["BERT_MAX_QUEUES:", "BERT_TREADS:", "--port"]


FOREIGN = [
    "BERT_BASE_DIR",
    "BERT_SERVICE_HOST",
    "BERT_SERVICE_PORT_HTTP",
    "BERT_PORT_8000_TCP_ADDR",
    "BERT_CANARY_PORT",
    "BERT_MODELS_PORT",
    "BERT_MODELS_SERVICE_HOST",
    "BERT_MODELS_SERVICE_PORT_HTTP",
]


def test_variables_of_other_programs_are_ignored(start: Any) -> None:
    variables = dict.fromkeys(FOREIGN, "tcp://10.0.0.1:8000")
    assert start(**variables).port == 8000
    assert unknown_variables([*variables, "BERT_PORT", "bert_port", "PATH", "ALBERT_X"]) == dict.fromkeys(
        sorted(FOREIGN)
    )


@pytest.mark.parametrize("name", ["BERT_PORT", "bert_port"])
def test_the_address_of_a_kubernetes_service_is_no_port(
    start: Any, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert start(**{name: "tcp://10.96.0.7:8000"}).port == 8000
    assert start("--port", "1", **{name: "tcp://10.96.0.7:8000"}).port == 1
    assert start("serve", **{name: "tcp://10.96.0.7:8000"}).port == 8080
    assert start(BERT_METRICS_PORT="tcp://10.96.0.7:8000").metrics_port is None
    assert all("enableServiceLinks: false" in line for line in capsys.readouterr().err.splitlines())


@pytest.mark.parametrize("given", ["/bert", "/bert/", "/a/b"])
def test_a_root_path_has_no_slash_at_its_end(start: Any, given: str) -> None:
    assert start(BERT_ROOT_PATH=given).root_path == given.rstrip("/")
    assert start(BERT_ROOT_PATH="/").root_path is None


def test_origins_are_as_browsers_write_them(start: Any) -> None:
    given = " https://Example.com/, http://localhost:3000 ,capacitor://localhost"
    assert start(BERT_CORS_ALLOW_ORIGIN=given).cors_allow_origin == (
        "https://example.com,http://localhost:3000,capacitor://localhost"
    )
    given = "https://example.com:443,http://example.com:80/,https://example.com:80"
    assert start(BERT_CORS_ALLOW_ORIGIN=given).cors_allow_origin == (
        "https://example.com,http://example.com,https://example.com:80"
    )
    assert start("--cors-allow-origin", "*").cors_allow_origin == "*"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("root_path", "bert", "pattern"),
        ("root_path", "/a b", "pattern"),
        ("forwarded_allow_ips", "localhost", "IP addresses and networks"),
        ("forwarded_allow_ips", "10.0.0.0/99", "IP addresses and networks"),
        ("cors_allow_origin", "example.com", "origins with commas"),
        ("cors_allow_origin", "https://example.com/page", "origins with commas"),
        ("cors_allow_origin", "https://*.example.com", "origins with commas"),
        ("cors_allow_origin", "https://example.com,*", "origins with commas"),
        ("cors_allow_origin", "", "origins with commas"),
        ("timeout_keep_alive", "0", "greater than or equal to 1"),
        ("host", "127.0.0.1,", "match"),
        ("metrics_port", "65536", "less than or equal to 65535"),
        ("ssl_cert_reqs", "3", "'required'"),
        ("port", "http", "valid integer"),
        ("port", "65536", "less than or equal to 65535"),
        ("workers", "0", "greater than or equal to 1"),
        ("device", "tpu", "'auto', 'cpu' or 'cuda'"),
        ("precision", "fp64", "'fp32'"),
        ("precision", "int8,one=fp64", "MODEL=PRECISION"),
        ("precision", "int8,fp32", "once for all"),
        ("precision", "one=int8,one=fp32", "'fp32'"),
        ("default_models", "classify=one,,", "match"),
        ("threads", "100000", "less than or equal to 1024"),
        ("batch_tokens", "-1", "greater than or equal to 0"),
        ("max_queue_s", "inf", "finite"),
        ("max_queue_s", "nan", "finite"),
        ("request_timeout_s", "0", "greater than 0"),
        ("shutdown_timeout_s", "soon", "valid number"),
        ("max_inputs", "100000", "less than or equal to 4096"),
        ("max_body_bytes", "4MB", "valid integer"),
        ("api_key", "", "at least 1"),
        ("api_key", " \n", "at least 1"),
        ("log_level", "loud", "'debug'"),
        ("access_log", "maybe", "boolean"),
        ("otlp_endpoint", "collector", "valid URL"),
        *((name, "", "is empty") for name, field in Settings.model_fields.items() if "Path" in str(field.annotation)),
    ],
)
def test_an_invalid_value_is_reported_by_flag_and_variable(
    start: Any, capsys: pytest.CaptureFixture[str], name: str, value: str, says: str
) -> None:
    assert start(**{f"BERT_{name.upper()}": value}) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"--{name.replace('_', '-')} (BERT_{name.upper()}): ")
    assert says in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--modles", "x"], "unrecognized arguments: --modles"),
        (["--port"], "expected one argument"),
        (["run"], "unrecognized arguments: run"),
        (["--port", "1", "serve"], "unrecognized arguments: serve"),
    ],
)
def test_unknown_flags_are_refused(
    start: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        start(*arguments)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


@pytest.fixture
def shown_help(start: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        start("--help")
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_has_every_setting_in_its_group(shown_help: str) -> None:
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(Settings.model_fields)
    _, _, *sections = re.split(r"^(?=[^\s].*:$)", shown_help, flags=re.MULTILINE)
    for section, (title, names) in zip(sections, GROUPS.items(), strict=True):
        assert section.startswith(f"{title}:\n")
        assert re.findall(r"^  --([a-z-]+)", section, re.MULTILINE) == [name.replace("_", "-") for name in names]
        words = " ".join(section.split())
        for name in names:
            assert f"{Settings.model_fields[name].description} [BERT_{name.upper()}" in words


def test_help_shows_defaults_as_they_are_written(shown_help: str) -> None:
    words = " ".join(shown_help.split())
    for shown in (
        "--models PATH folder of bundles, or one bundle [BERT_MODELS, default: models]",
        "--port N port to listen on; 0 takes a free one and logs it [BERT_PORT, default: 8000]",
        "--api-key KEY key that inference asks for as 'Authorization: Bearer KEY' [BERT_API_KEY]",
        "[BERT_MAX_QUEUE_S, default: 5]",
        "--access-log, --no-access-log log every answered request [BERT_ACCESS_LOG, default: on]",
        "--log-format {auto,json,text} auto writes",
    ):
        assert shown in words


def test_help_fits_a_terminal_and_has_no_python_in_it(shown_help: str) -> None:
    assert max(map(len, shown_help.splitlines())) <= 80
    assert not re.search(r"None|null|SecretStr|Path\b|HttpUrl|True|False|float|\bint\b", shown_help)
