"""How requests become batches, how full the batches are and how long requests wait for one."""

from typing import Final

from grafana_foundation_sdk.models import dashboard as models

from monitoring.grafana.layout import Row, make_dashboard
from monitoring.grafana.panels import (
    CHOSEN,
    LEGEND,
    OF_SERVED,
    SELECTED,
    Query,
    buckets,
    lines,
    mean,
    quantile,
    rate,
    stat,
)

UID: Final = "bert-batching"


def dashboard() -> models.Dashboard:
    """Return the Batching dashboard."""
    now = Row(
        4,
        [
            stat(
                "Tokens/s",
                "Tokens that ran, including special tokens; there is no padding.",
                Query(rate("bert_tokens_total", "")),
                unit="short",
            ),
            stat(
                "Device busy",
                "Share of time the busiest instance spends in batches, all models together. Near 100 % it is the limit.",
                Query(f"max(instance:bert_device_busy:ratio_rate1m{{{CHOSEN}}})"),
                unit="percentunit",
                decimals=0,
                steps=((None, "green"), (0.75, "yellow"), (0.95, "red")),
            ),
            stat(
                "Sequences per batch",
                "Mean. 1 on a quiet service, where requests seldom overlap.",
                Query(mean("bert_batch_sequences", "")),
                unit="short",
                decimals=1,
            ),
            stat(
                "Budget used",
                "Mean tokens per batch as a share of the most that may share one (BERT_BATCH_TOKENS). Near 100 % "
                "every batch is full; above it, single sequences are longer, which run alone.",
                Query(
                    f"max({mean('bert_batch_tokens')} "
                    f"/ on (model, task) max by (model, task) (bert_batch_budget_tokens{{{SELECTED}}}))"
                ),
                unit="percentunit",
                decimals=0,
            ),
            stat(
                "Padding avoided",
                "Share of a padded batch that would have been padding.",
                Query(f"1 - {mean('bert_batch_fill_ratio', '')}"),
                unit="percentunit",
                decimals=0,
            ),
            stat(
                "Queue wait, p95",
                "From admission until a request's first sequence runs, slowest model.",
                Query(f"max({quantile(0.95, 'bert_queue_duration_seconds')})"),
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
                [Query(rate("bert_tokens_total", matchers=OF_SERVED), LEGEND)],
                unit="short",
                is_stacked=True,
            ),
            lines(
                "Device busy by instance",
                "Share of time an instance spends in batches, all models together. At 100 % more requests only queue: "
                "add instances, or a faster device or variant.",
                [Query(f"instance:bert_device_busy:ratio_rate1m{{{CHOSEN}}}", "{{instance}}")],
                unit="percentunit",
                usual_most=1,
                steps=((None, "transparent"), (0.95, "red")),
            ),
            lines(
                "Tokens per busy second",
                "Speed of the device while it runs. Falls: smaller batches, longer texts, or a device that is throttled "
                "or shared.",
                [
                    Query(
                        f"{rate('bert_tokens_total', matchers=OF_SERVED)} "
                        f"/ {rate('bert_device_busy_seconds_total', matchers=OF_SERVED)}",
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
                [Query(mean("bert_batch_sequences"), LEGEND)],
                unit="short",
            ),
            lines(
                "Tokens per batch, and the budget",
                "Mean against the most that may share a batch (BERT_BATCH_TOKENS). At the budget, batches are full and "
                "the rest waits. Above it, single sequences are longer than the budget, and run alone.",
                [
                    Query(mean("bert_batch_tokens"), LEGEND),
                    Query(f"max by (model, task) (bert_batch_budget_tokens{{{SELECTED}}})", f"budget {LEGEND}"),
                ],
                unit="short",
                dashed="/^budget/",
            ),
            lines(
                "Fill",
                "Tokens per cell of the padded batch that was not built: 100 % if all texts of a batch are of one "
                "length. The lower, the more packing saves.",
                [Query(mean("bert_batch_fill_ratio"), LEGEND)],
                unit="percentunit",
                usual_most=1,
            ),
        ],
        widths=(6, 12, 6),
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
                "p95, measured from admission until a request's first sequence runs; and estimated for one that came now, "
                "which is what admission goes by.",
                [
                    Query(quantile(0.95, "bert_queue_duration_seconds"), f"p95 {LEGEND}"),
                    Query(f"max by (model, task) (bert_queue_wait_seconds{{{SELECTED}}})", f"estimated {LEGEND}"),
                ],
                unit="s",
                steps=((None, "transparent"), (1, "yellow"), (5, "red")),
            ),
        ],
        widths=(6, 6, 12),
        title="The queue",
    )
    runs = Row(
        8,
        [
            lines(
                "Batches/s",
                "Many small ones: a quiet service. Few large ones: a busy one.",
                [Query(rate("bert_inference_duration_seconds_count", matchers=OF_SERVED), LEGEND)],
                unit="short",
            ),
            lines(
                "Time of a batch",
                "On the device. Every waiting request waits at least this long.",
                [
                    Query(quantile(0.5, "bert_inference_duration_seconds"), f"p50 {LEGEND}"),
                    Query(quantile(0.95, "bert_inference_duration_seconds"), f"p95 {LEGEND}"),
                ],
                unit="s",
            ),
            buckets(
                "Batches by tokens",
                "How many batches a second held how many tokens.",
                Query(rate("bert_batch_tokens_bucket", "le", OF_SERVED)),
                unit="short",
            ),
        ],
        widths=(6, 12, 6),
        title="Runs",
    )
    return make_dashboard(
        UID,
        "Batching",
        "How requests become batches, how full they are, and how long requests wait for one.",
        [now, throughput, batch, queue, runs],
    )
