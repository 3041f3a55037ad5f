"""How requests become batches, how full the batches are and how long requests wait for one."""

from typing import Final

from grafana_foundation_sdk.models import dashboard as models

from monitoring.grafana.layout import Row, make_dashboard
from monitoring.grafana.panels import LEGEND, SELECTED, Query, buckets, lines, stat

UID: Final = "bert-batching"


def dashboard() -> models.Dashboard:
    """Return the Batching dashboard."""
    now = Row(
        4,
        [
            stat(
                "Tokens/s",
                "Tokens that ran, including special tokens; there is no padding.",
                Query(f"sum(model_task:bert_tokens:rate1m{{{SELECTED}}})"),
                unit="short",
            ),
            stat(
                "Device busy",
                "Share of time the busiest instance spends in batches, all models together. Near 100 % it is the limit.",
                Query("max(instance:bert_device_busy:ratio_rate1m)"),
                unit="percentunit",
                decimals=0,
                steps=((None, "green"), (0.75, "yellow"), (0.95, "red")),
            ),
            stat(
                "Sequences per batch",
                "Mean. 1 on a quiet service, where requests seldom overlap.",
                Query(
                    f"sum(rate(bert_batch_sequences_sum{{{SELECTED}}}[$__rate_interval])) "
                    f"/ sum(rate(bert_batch_sequences_count{{{SELECTED}}}[$__rate_interval]))"
                ),
                unit="short",
                decimals=1,
            ),
            stat(
                "Budget used",
                "Mean tokens per batch as a share of the most that may share one (BERT_BATCH_TOKENS). Near 100 % "
                "every batch is full.",
                Query(
                    f"max(model_task:bert_batch_tokens:mean1m{{{SELECTED}}} "
                    f"/ on (model, task) max by (model, task) (bert_batch_budget_tokens{{{SELECTED}}}))"
                ),
                unit="percentunit",
                decimals=0,
            ),
            stat(
                "Padding avoided",
                "Share of a padded batch that would have been padding.",
                Query(
                    f"1 - sum(rate(bert_batch_fill_ratio_sum{{{SELECTED}}}[$__rate_interval])) "
                    f"/ sum(rate(bert_batch_fill_ratio_count{{{SELECTED}}}[$__rate_interval]))"
                ),
                unit="percentunit",
                decimals=0,
            ),
            stat(
                "Queue wait, p95",
                "From admission until a request's first sequence runs, slowest model.",
                Query(f"max(model_task:bert_queue_duration_seconds:p95{{{SELECTED}}})"),
                unit="s",
                steps=((None, "green"), (0.25, "yellow"), (1, "red")),
            ),
        ],
    )
    throughput = Row(
        8,
        [
            lines(
                "Tokens/s by model and task",
                "Throughput of the service.",
                [Query(f"model_task:bert_tokens:rate1m{{{SELECTED}}}", LEGEND)],
                unit="short",
                is_stacked=True,
            ),
            lines(
                "Device busy by instance",
                "Share of time an instance spends in batches, all models together. At 100 % more requests only queue: "
                "add instances, or a faster device or variant.",
                [Query("instance:bert_device_busy:ratio_rate1m", "{{instance}}")],
                unit="percentunit",
                most=1,
                steps=((None, "transparent"), (0.95, "red")),
            ),
            lines(
                "Tokens per busy second",
                "Speed of the device while it runs. Falls: smaller batches, longer texts, or a device that is throttled "
                "or shared.",
                [
                    Query(
                        f"model_task:bert_tokens:rate1m{{{SELECTED}}} / on (model, task) sum by (model, task) "
                        f"(rate(bert_device_busy_seconds_total{{{SELECTED}}}[1m]))",
                        LEGEND,
                    )
                ],
                unit="short",
            ),
        ],
    )
    batch = Row(
        8,
        [
            lines(
                "Sequences per batch by model and task",
                "Mean. Grows with load, because what arrives during a batch runs together in the next.",
                [Query(f"model_task:bert_batch_sequences:mean1m{{{SELECTED}}}", LEGEND)],
                unit="short",
            ),
            lines(
                "Tokens per batch, and the budget",
                "Mean against the most that may share a batch (BERT_BATCH_TOKENS). At the budget, batches are full and "
                "the rest waits.",
                [
                    Query(f"model_task:bert_batch_tokens:mean1m{{{SELECTED}}}", LEGEND),
                    Query(f"max by (model, task) (bert_batch_budget_tokens{{{SELECTED}}})", f"budget {LEGEND}"),
                ],
                unit="short",
                dashed="/^budget/",
            ),
            lines(
                "Fill",
                "Tokens per cell of the padded batch that was not built: 100 % if all texts of a batch are of one "
                "length. The lower, the more packing saves.",
                [Query(f"model_task:bert_batch_fill_ratio:mean1m{{{SELECTED}}}", LEGEND)],
                unit="percentunit",
                most=1,
            ),
        ],
        title="What is in a batch",
    )
    queue = Row(
        8,
        [
            lines(
                "Sequences waiting",
                "Admitted, and not yet in a batch.",
                [Query(f"sum by (model, task) (bert_queue_sequences{{{SELECTED}}})", LEGEND)],
                unit="short",
                is_stacked=True,
            ),
            lines(
                "Batches ahead",
                "Tokens that wait, in full batches. Above 1 a request waits for more than the batch that is running.",
                [
                    Query(
                        f"sum by (model, task) (bert_queue_tokens{{{SELECTED}}}) "
                        f"/ sum by (model, task) (bert_batch_budget_tokens{{{SELECTED}}})",
                        LEGEND,
                    )
                ],
                unit="short",
                steps=((None, "transparent"), (1, "yellow")),
            ),
            lines(
                "Queue wait",
                "Measured, from admission until a request's first sequence runs; and estimated for one that came now, "
                "which is what admission goes by.",
                [
                    Query(f"model_task:bert_queue_duration_seconds:p50{{{SELECTED}}}", f"p50 {LEGEND}"),
                    Query(f"model_task:bert_queue_duration_seconds:p95{{{SELECTED}}}", f"p95 {LEGEND}"),
                    Query(f"max by (model, task) (bert_queue_wait_seconds{{{SELECTED}}})", f"estimated {LEGEND}"),
                ],
                unit="s",
                steps=((None, "transparent"), (1, "yellow"), (5, "red")),
            ),
        ],
        title="The queue",
    )
    runs = Row(
        8,
        [
            lines(
                "Batches/s",
                "Many small ones: a quiet service. Few large ones: a busy one.",
                [Query(f"model_task:bert_batches:rate1m{{{SELECTED}}}", LEGEND)],
                unit="short",
            ),
            lines(
                "Time of a batch",
                "On the device. Every waiting request waits at least this long.",
                [
                    Query(f"model_task:bert_inference_duration_seconds:p50{{{SELECTED}}}", f"p50 {LEGEND}"),
                    Query(f"model_task:bert_inference_duration_seconds:p95{{{SELECTED}}}", f"p95 {LEGEND}"),
                ],
                unit="s",
            ),
            buckets(
                "Batches by tokens",
                "How many batches a second held how many tokens.",
                Query(f"sum by (le) (model_task_le:bert_batch_tokens_bucket:rate1m{{{SELECTED}}})"),
                unit="short",
            ),
        ],
        title="Runs",
    )
    return make_dashboard(
        UID,
        "Batching",
        "How requests become batches, how full they are, and how long requests wait for one.",
        [now, throughput, batch, queue, runs],
    )
