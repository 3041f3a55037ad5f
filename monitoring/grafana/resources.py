"""What the service runs on: instances, processes, memory, the GPU where there is one."""

from typing import Final

from grafana_foundation_sdk.models import dashboard as models

from monitoring.grafana.layout import Row, make_dashboard
from monitoring.grafana.panels import LEGEND, SELECTED, Query, labels, lines, stat, states

UID: Final = "bert-resources"
NO_GPU: Final = "No GPU in this deployment"
_STARTS: Final = 'changes(process_start_time_seconds{job="bert"}'


def dashboard() -> models.Dashboard:
    """Return the Resources dashboard."""
    now = Row(
        4,
        [
            stat(
                "Scraped",
                "Instances whose metrics Prometheus can read.",
                Query('sum(up{job="bert"})'),
                unit="none",
                steps=((None, "red"), (1, "green")),
                when_empty="none",
            ),
            stat(
                "Uptime",
                "Of the instance that started last.",
                Query('time() - max(process_start_time_seconds{job="bert"})'),
                unit="s",
                has_graph=False,
            ),
            stat(
                "Restarts",
                "Process starts and engine replacements in the time range chosen above. A deployment is one.",
                Query(f"sum({_STARTS}[$__range])) + sum(increase(bert_engine_restarts_total[$__range]))"),
                unit="none",
                decimals=0,
                steps=((None, "green"), (1, "yellow"), (3, "red")),
                has_graph=False,
            ),
            stat(
                "CPU",
                "Cores in use, all instances.",
                Query('sum(rate(process_cpu_seconds_total{job="bert"}[$__rate_interval]))'),
                unit="short",
                decimals=1,
            ),
            stat(
                "Memory",
                "Resident, all instances.",
                Query('sum(process_resident_memory_bytes{job="bert"})'),
                unit="bytes",
            ),
            stat(
                "Open files",
                "Share of the limit, fullest process. Each connection is one; at the limit none is accepted.",
                Query('max(process_open_fds{job="bert"} / process_max_fds{job="bert"})'),
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
                Query(f"bert_model_info{{{SELECTED}}}"),
                columns=("model", "task", "variant", "provider", "instance"),
            ),
            states(
                "Engine",
                "Whether an instance's engine answers.",
                Query("max by (instance) (bert_engine_up)", "{{instance}}"),
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
                "By instance. On a CPU host a busy engine takes all of BERT_THREADS.",
                [Query('rate(process_cpu_seconds_total{job="bert"}[$__rate_interval])', "{{instance}}")],
                unit="short",
            ),
            lines(
                "Resident memory",
                "By instance. Grows with the largest batch seen, then stays; a line that never stops climbing is a leak.",
                [Query('process_resident_memory_bytes{job="bert"}', "{{instance}}")],
                unit="bytes",
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
                "Process starts and engine replacements, by instance.",
                [
                    Query(f"{_STARTS}[5m])", "process {{instance}}"),
                    Query("increase(bert_engine_restarts_total[5m])", "engine {{instance}}"),
                ],
                unit="none",
            ),
            lines(
                "Open files and their limit",
                "Of the process of an instance that has the most, with the limit of each process.",
                [
                    Query('process_open_fds{job="bert"}', "{{instance}}"),
                    Query('min(process_max_fds{job="bert"})', "limit"),
                ],
                unit="short",
                dashed="/^limit/",
                is_logarithmic=True,
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
                most=1,
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
                most=1,
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
