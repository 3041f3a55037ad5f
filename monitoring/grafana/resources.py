"""What the service runs on: instances, processes, memory, the GPU where there is one."""

from typing import Final

from grafana_foundation_sdk.models import dashboard as models

from monitoring.grafana.layout import Row, make_dashboard
from monitoring.grafana.panels import CHOSEN, LEGEND, SELECTED, Query, labels, lines, stat, states

UID: Final = "bert-resources"
NO_GPU: Final = "No GPU in this deployment"
_BERT: Final = f'job="bert", {CHOSEN}'
_STARTS: Final = f"changes(process_start_time_seconds{{{_BERT}}}"


def dashboard() -> models.Dashboard:
    """Return the Resources dashboard."""
    now = Row(
        4,
        [
            stat(
                "Scraped",
                "Instances whose metrics Prometheus can read.",
                Query(f"sum(up{{{_BERT}}})"),
                unit="none",
                steps=((None, "red"), (1, "green")),
                when_empty="none",
            ),
            stat(
                "Uptime",
                "Of the instance that started last.",
                Query(f"time() - max(process_start_time_seconds{{{_BERT}}})"),
                unit="s",
                has_graph=False,
            ),
            stat(
                "Restarts",
                "Process starts, and engines and front ends that were replaced, in the time range chosen above. A deployment is one.",
                Query(
                    f"sum({_STARTS}[$__range])) + sum(increase(bert_engine_restarts_total{{{CHOSEN}}}[$__range]))"
                    f" + sum(increase(bert_front_end_restarts_total{{{CHOSEN}}}[$__range]))"
                ),
                unit="none",
                decimals=0,
                steps=((None, "green"), (1, "yellow"), (3, "red")),
                has_graph=False,
            ),
            stat(
                "CPU",
                "Cores in use, all instances.",
                Query(f"sum(rate(process_cpu_seconds_total{{{_BERT}}}[$__rate_interval]))"),
                unit="short",
                decimals=1,
            ),
            stat(
                "Memory",
                "Resident, all instances.",
                Query(f"sum(process_resident_memory_bytes{{{_BERT}}})"),
                unit="bytes",
            ),
            stat(
                "Open files",
                "Share of the limit, fullest process. Each connection is one; at the limit none is accepted.",
                Query(f"max(process_open_fds{{{_BERT}}} / process_max_fds{{{_BERT}}})"),
                unit="percentunit",
                decimals=1,
                steps=((None, "green"), (0.7, "yellow"), (0.9, "red")),
            ),
        ],
    )
    serving = Row(
        7,
        [
            labels(
                "Models served",
                "Which variant serves each model, and ONNX Runtime's execution provider that really runs it. "
                "CPUExecutionProvider on a GPU host: the GPU was not usable when the process started.",
                Query(f"bert_model_info{{{SELECTED}}} == 1"),
                columns=("model", "task", "variant", "provider", "hash", "version", "instance"),
            ),
            states(
                "Engine",
                "Whether an instance's engine answers.",
                Query(f"max by (instance) (bert_engine_up{{{CHOSEN}}})", "{{instance}}"),
                texts={"0": ("down", "red"), "1": ("up", "green")},
            ),
        ],
        title="Models and engines",
    )
    processes = Row(
        8,
        [
            lines(
                "CPU cores in use",
                "By instance, with what the smallest may use: the machine's cores, its affinity or the quota of a control group. "
                "On a CPU host a busy engine takes all of BERT_THREADS.",
                [
                    Query(f"rate(process_cpu_seconds_total{{{_BERT}}}[$__rate_interval])", "{{instance}}"),
                    Query(f"min(bert_cpu_limit_cores{{{CHOSEN}}})", "limit"),
                ],
                unit="short",
                dashed="/^limit/",
            ),
            lines(
                "Resident memory",
                "By instance, with what the smallest may use, beyond which the kernel kills it. Grows with the largest batch seen, then "
                "stays; a line that never stops climbing is a leak.",
                [
                    Query(f"process_resident_memory_bytes{{{_BERT}}}", "{{instance}}"),
                    Query(f"min(bert_memory_limit_bytes{{{CHOSEN}}})", "limit"),
                ],
                unit="bytes",
                dashed="/^limit/",
            ),
            lines(
                "Requests in flight",
                "Being tokenized, queued, run or answered.",
                [Query(f"sum by (model, task) (bert_inflight_requests{{{SELECTED}}})", LEGEND)],
                unit="short",
                is_stacked=True,
            ),
        ],
        title="Processes",
    )
    restarts = Row(
        7,
        [
            lines(
                "Restarts in five minutes",
                "Process starts, and engines and front ends that were replaced, by instance.",
                [
                    Query(f"{_STARTS}[5m])", "process {{instance}}"),
                    Query(f"increase(bert_engine_restarts_total{{{CHOSEN}}}[5m])", "engine {{instance}}"),
                    Query(f"increase(bert_front_end_restarts_total{{{CHOSEN}}}[5m])", "front end {{instance}}"),
                ],
                unit="none",
            ),
            lines(
                "Open files and their limit",
                "Of the process of an instance that has the most, with the limit of each process.",
                [
                    Query(f"process_open_fds{{{_BERT}}}", "{{instance}}"),
                    Query(f"min(process_max_fds{{{_BERT}}})", "limit"),
                ],
                unit="short",
                dashed="/^limit/",
                is_logarithmic=True,
            ),
            lines(
                "Lines of the log dropped in five minutes",
                "What the log is written to is slow, full or gone. Requests do not wait for it.",
                [Query(f"increase(bert_log_dropped_lines_total{{{CHOSEN}}}[5m])", "{{instance}}")],
                unit="short",
            ),
            lines(
                "TLS handshakes that failed in five minutes",
                "Callers whose certificate is refused or missing, who do not trust ours, or speak plain HTTP; and scans.",
                [Query(f"increase(bert_tls_handshake_failures_total{{{CHOSEN}}}[5m])", "{{instance}}")],
                unit="short",
            ),
        ],
    )
    gpu = Row(
        8,
        [
            lines(
                "GPU memory",
                "Used share. Grows with the largest batch seen, then stays. At 95 % the next large batch may not fit.",
                [Query("instance_gpu:gpu_memory:ratio", "{{instance}} GPU {{gpu}}")],
                unit="percentunit",
                usual_most=1,
                steps=((None, "transparent"), (0.95, "red")),
                when_empty=NO_GPU,
            ),
            lines(
                "GPU utilization",
                "Share of time any kernel runs, and the tensor cores' share of that. Low while the queue is long: "
                "the CPU side is the limit.",
                [
                    Query("bert_gpu_utilization_ratio", "any kernel, {{instance}} GPU {{gpu}}"),
                    Query("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "tensor cores, GPU {{gpu}}"),
                ],
                unit="percentunit",
                usual_most=1,
                when_empty=NO_GPU,
            ),
            lines(
                "GPU power",
                "A fall under load with high utilization means throttling.",
                [Query("DCGM_FI_DEV_POWER_USAGE", "GPU {{gpu}}")],
                unit="watt",
                when_empty=NO_GPU,
            ),
            lines(
                "GPU temperature",
                "Above about 85 degrees most cards slow down.",
                [Query("DCGM_FI_DEV_GPU_TEMP", "GPU {{gpu}}")],
                unit="celsius",
                steps=((None, "transparent"), (85, "red")),
                when_empty=NO_GPU,
            ),
        ],
        title="GPU",
    )
    return make_dashboard(
        UID,
        "Resources",
        "What the service runs on: instances, processes, memory, restarts, and the GPU where there is one.",
        [now, serving, processes, restarts, gpu],
    )
