"""The first dashboard a person on call opens: is it up, is it right, is it fast, is it full."""

from typing import Final

from grafana_foundation_sdk.models import dashboard as models

from monitoring.grafana.layout import Row, make_dashboard
from monitoring.grafana.panels import (
    CHOSEN,
    LEGEND,
    OF_MODELS,
    OF_SERVED,
    SELECTED,
    Query,
    buckets,
    lines,
    names,
    quantile,
    rate,
    stat,
    to_dashboard,
)

UID: Final = "bert-overview"
BURN_STEPS: Final = ((None, "green"), (1, "yellow"), (6, "orange"), (14.4, "red"))
STATUS_COLORS: Final = {"/^2/": "green", "/^4/": "yellow", "/^429/": "orange", "/^5/": "red"}

SLOW_REQUESTS: Final = (
    "docker compose logs --no-log-prefix --since 1h app | jq -cR 'fromjson? | select(.duration_ms? > 500)'"
)
"""As in docs/operations.md. Not every line of a container's log is JSON: `fromjson?` passes over the others."""

_LATENCY: Final = "bert_request_duration_seconds"

_FAILED: Final = f'{SELECTED}, status=~"5.."'
_SUCCEEDED: Final = f'{SELECTED}, status="200"'
_NATIVE: Final = f'{SELECTED}, api="native"'

# Seconds of each phase per answered request, so that the areas add up to the mean latency.
_ANSWERED: Final = f"sum(rate(bert_request_duration_seconds_count{{{SELECTED}}}[$__rate_interval]))"
_TOTAL: Final = f"sum(rate(bert_request_duration_seconds_sum{{{SELECTED}}}[$__rate_interval]))"
_TOKENIZE: Final = f"sum(rate(bert_tokenize_duration_seconds_sum{{{SELECTED}}}[$__rate_interval]))"
_QUEUE: Final = f"sum(rate(bert_queue_duration_seconds_sum{{{SELECTED}}}[$__rate_interval]))"


def dashboard() -> models.Dashboard:
    """Return the Overview dashboard."""
    to_batching = to_dashboard("Batching", "bert-batching")
    to_resources = to_dashboard("Resources", "bert-resources")
    now = Row(
        4,
        [
            stat(
                "Ready",
                "Instances whose engine answers. None: every request fails.",
                Query("bert:ready_instances:count"),
                unit="none",
                steps=((None, "red"), (1, "green")),
                when_empty="none",
                link=to_resources,
            ),
            names(
                "Alerts",
                "What fires now. docs/operations.md has a paragraph for each: what it means, where to look, what to do.",
                Query(
                    'count by (alertname) (ALERTS{alertname=~"Bert.+", alertstate="firing"}) '
                    'or on () label_replace(vector(0), "alertname", "none", "", "")',
                    "{{alertname}}",
                ),
                steps=((None, "green"), (1, "red")),
            ),
            stat(
                "Requests/s",
                "Answered requests of any status.",
                Query(rate("bert_requests_total", "")),
                unit="reqps",
                decimals=1,
            ),
            stat(
                "Failing",
                "Share of requests answered with 5xx. Yellow: more than the objective allows; "
                "red: 14 times that, which pages if it lasts.",
                Query(f"{rate('bert_requests_total', '', _FAILED)} / {rate('bert_requests_total', '')}"),
                unit="percentunit",
                decimals=2,
                steps=((None, "green"), (0.001, "yellow"), (0.0144, "red")),
            ),
            stat(
                "p99 latency",
                "Of the slowest model. Red: above the 0.5 s of the objective.",
                Query(f"max({quantile(0.99, _LATENCY)})"),
                unit="s",
                steps=((None, "green"), (0.25, "yellow"), (0.5, "red")),
            ),
            stat(
                "Device busy",
                "Share of time the busiest instance spends in batches, all models together. Near 100 % requests queue.",
                Query(f"max(instance:bert_device_busy:ratio_rate1m{{{CHOSEN}}})"),
                unit="percentunit",
                decimals=0,
                steps=((None, "green"), (0.75, "yellow"), (0.95, "red")),
                link=to_batching,
            ),
            stat(
                "Availability",
                "Share of requests without 5xx over the time range chosen above. The objective is 99.9 % over 30 days.",
                Query(
                    f'1 - sum(increase(bert_requests_total{{{SELECTED}, status=~"5.."}}[$__range])) '
                    f"/ sum(increase(bert_requests_total{{{SELECTED}}}[$__range]))"
                ),
                unit="percentunit",
                decimals=3,
                steps=((None, "red"), (0.999, "green")),
                has_graph=False,
            ),
        ],
        widths=(2, 6, 3, 3, 3, 3, 4),
    )
    traffic = Row(
        8,
        [
            lines(
                "Requests by model and task",
                "Answered requests. 'none' named no model that exists, or came before the service was ready.",
                [Query(rate("bert_requests_total"), LEGEND)],
                unit="reqps",
                is_stacked=True,
            ),
            lines(
                "Answers by status",
                "4xx is the caller's doing (429: asked to come back later), 5xx is ours.",
                [
                    Query(
                        f"{rate('bert_requests_total', 'status')} > 0 "
                        f"or {rate('bert_requests_total', 'status', _SUCCEEDED)}",
                        "{{status}}",
                    )
                ],
                unit="reqps",
                is_stacked=True,
                colors=STATUS_COLORS,
            ),
            lines(
                "Requests by API",
                "'native' is /v1, the others are the dialects of docs/clients.md.",
                [
                    Query(
                        f"{rate('bert_requests_total', 'api')} > 0 or {rate('bert_requests_total', 'api', _NATIVE)}",
                        "{{api}}",
                    )
                ],
                unit="reqps",
                is_stacked=True,
            ),
        ],
    )
    latency = Row(
        9,
        [
            lines(
                "Latency by model and task",
                "From a request's last byte to its answer. Red line: the 0.5 s that 99 % should meet. To find slow "
                f"requests in the log: {SLOW_REQUESTS} A dot is a sampled request: its trace_id is in the log, too.",
                [
                    Query(quantile(0.5, _LATENCY), f"p50 {LEGEND}"),
                    Query(quantile(0.95, _LATENCY), f"p95 {LEGEND}"),
                    Query(quantile(0.99, _LATENCY), f"p99 {LEGEND}", has_exemplars=True),
                ],
                unit="s",
                steps=((None, "transparent"), (0.5, "red")),
                link=to_batching,
            ),
            lines(
                "Latency by instance, p99",
                "All models together. One instance above the others: its device is slower or shared, see Resources.",
                [Query(quantile(0.99, _LATENCY, "instance"), "{{instance}}")],
                unit="s",
                steps=((None, "transparent"), (0.5, "red")),
                link=to_resources,
            ),
        ],
        widths=(16, 8),
    )
    objectives = Row(
        8,
        [
            lines(
                "Error budget burn",
                "How many times faster than allowed 5xx spend the error budget, all instances; 1 lasts exactly 30 days. Over 14.4 "
                "within an hour or 6 within six pages while it lasts, 1 within three days is a ticket.",
                [
                    Query(f"model_task:bert_availability:burnrate{w}{{{OF_MODELS}}}", f"{w} {LEGEND}")
                    for w in ("1h", "6h")
                ],
                unit="none",
                steps=BURN_STEPS,
            ),
            lines(
                "Latency budget burn",
                "The same for answers that take over 0.5 s, of which 1 % are allowed.",
                [Query(f"model_task:bert_latency:burnrate{w}{{{OF_MODELS}}}", f"{w} {LEGEND}") for w in ("1h", "6h")],
                unit="none",
                steps=BURN_STEPS,
            ),
        ],
        title="Objectives: 99.9 % without 5xx, 99 % within 0.5 s",
    )
    spread = Row(
        8,
        [
            buckets(
                "Answers by latency",
                "How many answers a second took how long. Two bands: two kinds of request, or a queue.",
                Query(rate(f"{_LATENCY}_bucket", "le", OF_SERVED)),
                unit="s",
            ),
            lines(
                "Where a request spends its time",
                "Mean seconds a request is tokenized, queued, and run and answered. Queue grows: more arrives than the "
                "device runs. Run grows: longer texts, larger requests or a slower device.",
                [
                    Query(f"{_TOKENIZE} / {_ANSWERED}", "tokenize"),
                    Query(f"{_QUEUE} / {_ANSWERED}", "queue"),
                    Query(f"({_TOTAL} - {_TOKENIZE} - {_QUEUE}) / {_ANSWERED}", "run and answer"),
                ],
                unit="s",
                is_stacked=True,
                colors={"/tokenize/": "purple", "/queue/": "orange", "/run/": "blue"},
                link=to_batching,
            ),
        ],
        title="What latency is made of",
    )
    turned_away = Row(
        8,
        [
            lines(
                "Estimated queue wait",
                "How long a request that came now would wait before it runs. Requests are refused at 5 s "
                "(BERT_MAX_QUEUE_S).",
                [Query(f"max by (model, task) (bert_queue_wait_seconds{{{SELECTED}}})", LEGEND)],
                unit="s",
                steps=((None, "transparent"), (1, "yellow"), (5, "red")),
                link=to_batching,
            ),
            lines(
                "Refused, dropped, given up",
                "Overloaded: refused because the queue was full. Deadline exceeded: waited too long. Caller went away: "
                "the client closed its connection, often at a timeout of its own.",
                [
                    Query(rate("bert_rejected_total", "reason"), "{{reason}}"),
                    Query(rate("bert_cancelled_total", "", OF_SERVED), "caller went away"),
                ],
                unit="reqps",
                is_stacked=True,
            ),
            lines(
                "Texts cut to the maximum length",
                "Share of texts whose end the model never saw, over the last hour, all instances.",
                [Query(f"model_task:bert_truncated:ratio_rate1h{{{OF_MODELS}}}", LEGEND)],
                unit="percentunit",
                steps=((None, "transparent"), (0.05, "yellow")),
            ),
        ],
        title="Turned away, cut short",
    )
    callers = Row(
        8,
        [
            lines(
                "Tokens/s by caller",
                "Of answered requests, by the names of BERT_API_KEYS_FILE. One that takes more than its share does so only while "
                "others want less.",
                [Query(rate("bert_caller_tokens_total", "caller", CHOSEN), "{{caller}}")],
                unit="short",
                is_stacked=True,
            ),
            lines(
                "Over their rate",
                "Requests refused with rate_limited: the caller has a tokens_per_second and used more.",
                [Query(rate("bert_caller_throttled_total", "caller", CHOSEN), "{{caller}}")],
                unit="reqps",
                is_stacked=True,
            ),
        ],
        title="Callers with a name",
    )
    return make_dashboard(
        UID,
        "Overview",
        "Is it up, is it right, is it fast, is it full. Green tiles at the top: nothing to do.",
        [now, traffic, latency, spread, objectives, turned_away, callers],
    )
