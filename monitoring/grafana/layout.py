"""A dashboard from rows of panels: places, ids and what is the same on all three."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders import dashboard as dashboard_builders
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard

from monitoring.grafana.panels import DATASOURCE, Panel

COLUMNS: Final = 24
TAG: Final = "bert"


@dataclass(frozen=True, slots=True)
class Row:
    """Panels side by side, of one height, each `COLUMNS` / len(panels) wide unless `widths` says otherwise.

    `title` puts a bar above them.
    """

    height: int
    panels: Sequence[Panel]
    widths: Sequence[int] | None = None
    title: str | None = None


def make_dashboard(uid: str, title: str, description: str, rows: Sequence[Row]) -> dashboard.Dashboard:
    """Return the dashboard with every panel in its place and with an id of its own."""
    builder = (
        dashboard_builders.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .readonly()
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .variables(_variables())
        .annotations(_annotations())
        .link(
            dashboard_builders.DashboardLink("BERT")
            .type(dashboard.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(False)
            .include_vars(True)
            .keep_time(True)
        )
    )
    document = builder.build()
    document.panels = list(_place(rows))
    return document


def _place(rows: Sequence[Row]) -> list[dashboard.Panel | dashboard.RowPanel]:
    placed: list[dashboard.Panel | dashboard.RowPanel] = []
    y = 0
    for row in rows:
        if row.title is not None:
            bar = dashboard_builders.Row(row.title).build()
            bar.id_val = len(placed) + 1
            bar.grid_pos = dashboard.GridPos(h=1, w=COLUMNS, x=0, y=y)
            placed.append(bar)
            y += 1
        x = 0
        widths = row.widths or [COLUMNS // len(row.panels)] * len(row.panels)
        for builder, width in zip(row.panels, widths, strict=True):
            panel = builder.build()
            panel.id_val = len(placed) + 1
            panel.grid_pos = dashboard.GridPos(h=row.height, w=width, x=x, y=y)
            placed.append(panel)
            x += width
        y += row.height
    return placed


def _variables() -> list[Builder[dashboard.VariableModel]]:
    everything = dashboard.VariableOption(text="All", value="$__all", selected=True)

    def of_label(name: str, label: str, query: str) -> dashboard_builders.QueryVariable:
        # Any value at all, so that requests which named no model count in All.
        return (
            dashboard_builders.QueryVariable(name)
            .label(label)
            .datasource(DATASOURCE)
            .query(query)
            .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .current(everything)
        )

    return [
        dashboard_builders.DatasourceVariable("datasource").label("Data source").type("prometheus"),
        of_label("model", "Model", "label_values(bert_requests_total, model)"),
        of_label("task", "Task", 'label_values(bert_requests_total{model=~"$model"}, task)'),
        of_label("instance", "Instance", "label_values(bert_requests_total, instance)"),
    ]


def _annotations() -> list[Builder[dashboard.AnnotationQuery]]:
    # Grafana titles a mark from Prometheus with its `alertname`.
    loads = 'bert_model_loads_total{job="bert", outcome!="refused"}'
    # A series that begins with 1, as that of a new model does, has not increased.
    begun = f'({loads} > 0 unless {loads} offset 1m) and on (job, instance) up{{job="bert"}} offset 1m'
    changes = f"increase({loads}[1m]) > 0 or {begun}"
    starts = 'changes(process_start_time_seconds{job="bert"}[1m]) > 0'
    return [
        dashboard_builders.AnnotationQuery()
        .name("Alerts")
        .datasource(DATASOURCE)
        .enable(True)
        .icon_color("red")
        .expr('ALERTS{alertname=~"Bert.+", alertstate="firing"}'),
        dashboard_builders.AnnotationQuery()
        .name("Restarts")
        .datasource(DATASOURCE)
        .enable(True)
        .icon_color("blue")
        .expr(f'label_replace({starts}, "alertname", "process started", "", "")'),
        dashboard_builders.AnnotationQuery()
        .name("Models")
        .datasource(DATASOURCE)
        .enable(True)
        .icon_color("purple")
        .expr(f'label_join({changes}, "alertname", " ", "model", "outcome")'),
    ]
