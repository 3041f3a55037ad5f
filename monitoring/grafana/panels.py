"""The few kinds of panel that the dashboards are made of, each with the same look everywhere.

Imports the SDK and nothing of the project. A query names a PromQL expression and what its series are called.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, Self, TypeVar

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as dashboard_builders
from grafana_foundation_sdk.builders import heatmap as heatmap_builders
from grafana_foundation_sdk.builders import prometheus as prometheus_builders
from grafana_foundation_sdk.builders import stat as stat_builders
from grafana_foundation_sdk.builders import statetimeline as statetimeline_builders
from grafana_foundation_sdk.builders import table as table_builders
from grafana_foundation_sdk.builders import timeseries as timeseries_builders
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common, dashboard, heatmap, prometheus

DATASOURCE: Final = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
CHOSEN: Final = 'instance=~"$instance"'
SELECTED: Final = f'model=~"$model", task=~"$task", {CHOSEN}'
"""The label matchers of a panel that follows the model, task and instance chosen at the top; rules keep no instance."""
OF_MODELS: Final = 'model=~"$model", task=~"$task"'
"""Those of a panel whose rule adds up all instances."""
OF_SERVED: Final = f'{SELECTED}, model!="none"'
LEGEND: Final = "{{model}} · {{task}}"
SCRAPE_INTERVAL: Final = "10s"
"""The shortest step: that of prometheus.yml."""

Panel = Builder[dashboard.Panel]
Steps = Sequence[tuple[float | None, str]]
"""Thresholds from the lowest up: from this value on, this colour. The first value is None: everything below."""


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression. `legend` is Grafana's format, with label names in double braces.

    With `has_exemplars` Grafana draws those of the series that the expression reads: of the app's own, as rules keep none.
    """

    expr: str
    legend: str = "__auto"
    has_exemplars: bool = False


def rate(metric: str, by: str = "model, task", matchers: str = SELECTED) -> str:
    """The sum of a counter's rates, over the window that fits the graph's width: all lines of a panel have the same."""
    return f"sum by ({by}) (rate({metric}{{{matchers}}}[$__rate_interval]))"


def mean(histogram: str, by: str = "model, task") -> str:
    """The mean of what a histogram saw."""
    return f"{rate(f'{histogram}_sum', by, OF_SERVED)} / {rate(f'{histogram}_count', by, OF_SERVED)}"


def quantile(q: float, histogram: str, by: str = "model, task") -> str:
    """The value that a share `q` of what a histogram saw did not exceed."""
    return f"histogram_quantile({q}, {rate(f'{histogram}_bucket', f'{by}, le', OF_SERVED)})"


class _Common(Protocol):
    """What every panel builder of the SDK can do; it has no base class that says so."""

    def title(self, title: str) -> Self: ...
    def description(self, description: str) -> Self: ...
    def datasource(self, datasource: dashboard.DataSourceRef) -> Self: ...
    def interval(self, interval: str) -> Self: ...
    def targets(self, targets: list[Builder[Dataquery]]) -> Self: ...


def stat(
    title: str,
    description: str,
    query: Query,
    *,
    unit: str,
    steps: Steps = ((None, "blue"),),
    decimals: int | None = None,
    when_empty: str = "idle",
    has_graph: bool = True,
    link: dashboard_builders.DashboardLink | None = None,
) -> Panel:
    """One number, coloured by its thresholds, over its own small graph."""
    panel = _begin(stat_builders.Panel(), title, description, [query], is_instant=not has_graph)
    panel = (
        panel.unit(unit)
        .thresholds(_thresholds(steps))
        .color_scheme(_color(dashboard.FieldColorModeId.THRESHOLDS))
        .mappings([_nothing_is(when_empty)])
        .no_value(when_empty)
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False))
        .color_mode(common.BigValueColorMode.BACKGROUND if len(steps) > 1 else common.BigValueColorMode.VALUE)
        .graph_mode(common.BigValueGraphMode.AREA if has_graph else common.BigValueGraphMode.NONE)
        .justify_mode(common.BigValueJustifyMode.CENTER)
        .orientation(common.VizOrientation.AUTO)
        .text_mode(common.BigValueTextMode.VALUE)
    )
    if decimals is not None:
        panel = panel.decimals(decimals)
    return panel.links([link]) if link is not None else panel


def names(title: str, description: str, query: Query, *, steps: Steps) -> Panel:
    """The names of what the query returns, coloured by value, and no number."""
    return (
        _begin(stat_builders.Panel(), title, description, [query], is_instant=True)
        .unit("none")
        .thresholds(_thresholds(steps))
        .color_scheme(_color(dashboard.FieldColorModeId.THRESHOLDS))
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False))
        .color_mode(common.BigValueColorMode.BACKGROUND)
        .graph_mode(common.BigValueGraphMode.NONE)
        .justify_mode(common.BigValueJustifyMode.CENTER)
        .orientation(common.VizOrientation.VERTICAL)
        .text_mode(common.BigValueTextMode.NAME)
    )


def lines(
    title: str,
    description: str,
    queries: Iterable[Query],
    *,
    unit: str,
    steps: Steps | None = None,
    is_stacked: bool = False,
    is_logarithmic: bool = False,
    usual_most: float | None = None,
    colors: Mapping[str, str] | None = None,
    dashed: str | None = None,
    when_empty: str | None = None,
    link: dashboard_builders.DashboardLink | None = None,
) -> Panel:
    """Lines over time, from zero. With several queries for each model the names stand beside them, not below.

    Args:
        title: A noun.
        description: What is drawn, and what a bad sight of it means.
        queries: One or more.
        unit: Grafana's name of the unit.
        steps: Levels, drawn as dashed lines.
        is_stacked: Whether the areas add up to something.
        is_logarithmic: Whether small and large matter alike.
        usual_most: Where the axis ends, unless there is more.
        colors: Colours by regular expression over names, between slashes.
        dashed: A regular expression over the names of series that are limits, between slashes.
        when_empty: What to say where there may be no data at all.
        link: Where to look next.
    """
    queries = list(queries)
    has_many = sum("{{model}}" in query.legend for query in queries) > 1
    panel = (
        _begin(timeseries_builders.Panel(), title, description, queries)
        .unit(unit)
        .min(0)
        .color_scheme(_color(dashboard.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
        .draw_style(common.GraphDrawStyle.LINE)
        .line_width(1 if is_stacked else 2)
        .fill_opacity(35 if is_stacked else 8)
        .show_points(common.VisibilityMode.NEVER)
        .stacking(
            common_builders.StackingConfig()
            .mode(common.StackingMode.NORMAL if is_stacked else common.StackingMode.NONE)
            .group("A")
        )
        .legend(
            common_builders.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.TABLE)
            .placement(common.LegendPlacement.RIGHT if has_many else common.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
            .sort_by("Last *")
            .sort_desc(True)
        )
        .tooltip(
            common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)
        )
    )
    if steps is not None:
        panel = panel.thresholds(_thresholds(steps)).thresholds_style(
            common_builders.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
        )
    if is_logarithmic:
        panel = panel.min(0.01).scale_distribution(
            common_builders.ScaleDistributionConfig().type(common.ScaleDistribution.LOG).log(10)
        )
    if usual_most is not None:
        panel = panel.axis_soft_max(usual_most)
    for pattern, color in (colors or {}).items():
        panel = panel.override_by_regexp(
            pattern, [dashboard.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": color})]
        )
    if dashed is not None:
        panel = panel.override_by_regexp(
            dashed,
            [
                dashboard.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": "red"}),
                dashboard.DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [10, 10]}),
                dashboard.DynamicConfigValue("custom.fillOpacity", 0),
            ],
        )
    if when_empty is not None:
        panel = panel.no_value(when_empty)
    return panel.links([link]) if link is not None else panel


def buckets(title: str, description: str, query: Query, *, unit: str) -> Panel:
    """How a histogram spreads over time: the darker a cell, the more of them."""
    panel = _begin(heatmap_builders.Panel(), title, description, [query], is_heatmap=True)
    return (
        panel.calculate(False)
        .color(
            heatmap_builders.HeatmapColorOptions()
            .mode(heatmap.HeatmapColorMode.SCHEME)
            .scheme("Blues")
            .steps(64)
            .reverse(False)
            .exponent(0.5)
            .fill("dark-blue")
        )
        .y_axis(heatmap_builders.YAxisConfig().unit(unit))
        .cell_values(heatmap_builders.CellValues().unit("short").decimals(2))
        .cell_gap(1)
        .show_legend()
        .mode(common.TooltipDisplayMode.SINGLE)
    )


def states(title: str, description: str, query: Query, *, texts: Mapping[str, tuple[str, str]]) -> Panel:
    """A bar per series over time. `texts` gives the word and the colour of each value."""
    words: list[dashboard.ValueMapping] = [
        dashboard.ValueMap(
            {
                value: dashboard.ValueMappingResult(text=text, color=color, index=index)
                for index, (value, (text, color)) in enumerate(texts.items())
            }
        )
    ]
    return (
        _begin(statetimeline_builders.Panel(), title, description, [query])
        .mappings(words)
        .color_scheme(_color(dashboard.FieldColorModeId.THRESHOLDS))
        .show_value(common.VisibilityMode.AUTO)
        .merge_values(True)
        .row_height(0.8)
        .fill_opacity(80)
        .line_width(0)
        .legend(
            common_builders.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(False)
            .calcs([])
        )
        .tooltip(common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.SINGLE).sort(common.SortOrder.NONE))
    )


def labels(title: str, description: str, query: Query, *, columns: Sequence[str]) -> Panel:
    """A table of label values, one row a series."""
    keep = dashboard.DataTransformerConfig("filterFieldsByName", options={"include": {"names": list(columns)}})
    order = dashboard.DataTransformerConfig(
        "organize",
        options={
            "excludeByName": {},
            "indexByName": {column: index for index, column in enumerate(columns)},
            "renameByName": {},
        },
    )
    return (
        _begin(table_builders.Panel(), title, description, [query], is_instant=True, is_table=True)
        .with_transformation(keep)
        .with_transformation(order)
        .show_header(True)
        .cell_height(common.TableCellHeight.SM)
    )


def to_dashboard(title: str, uid: str) -> dashboard_builders.DashboardLink:
    """A link in a panel's corner to another dashboard, at the same time and of the same models."""
    variables = "${datasource:queryparam}&${model:queryparam}&${task:queryparam}&${instance:queryparam}"
    return (
        dashboard_builders.DashboardLink(title)
        .type(dashboard.DashboardLinkType.LINK)
        .url(f"/d/{uid}?${{__url_time_range}}&{variables}")
    )


P = TypeVar("P", bound=_Common)


def _begin(
    panel: P,
    title: str,
    description: str,
    queries: Iterable[Query],
    *,
    is_instant: bool = False,
    is_heatmap: bool = False,
    is_table: bool = False,
) -> P:
    targets: list[Builder[Dataquery]] = []
    for letter, query in zip("ABCDEFGH", queries, strict=False):
        target = prometheus_builders.Dataquery().ref_id(letter).datasource(DATASOURCE).expr(query.expr)
        target = target.legend_format("{{le}}" if is_heatmap else query.legend)
        target = target.instant() if is_instant else target.range()
        if query.has_exemplars:
            target = target.exemplar(True)
        if is_heatmap:
            target = target.format(prometheus.PromQueryFormat.HEATMAP)
        elif is_table:
            target = target.format(prometheus.PromQueryFormat.TABLE)
        else:
            target = target.format(prometheus.PromQueryFormat.TIME_SERIES)
        targets.append(target)
    return panel.title(title).description(description).datasource(DATASOURCE).interval(SCRAPE_INTERVAL).targets(targets)


def _thresholds(steps: Steps) -> dashboard_builders.ThresholdsConfig:
    return (
        dashboard_builders.ThresholdsConfig()
        .mode(dashboard.ThresholdsMode.ABSOLUTE)
        .steps([dashboard.Threshold(value, color) for value, color in steps])
    )


def _color(mode: dashboard.FieldColorModeId) -> dashboard_builders.FieldColor:
    return dashboard_builders.FieldColor().mode(mode)


def _nothing_is(text: str) -> dashboard.SpecialValueMap:
    """What to show for 0 / 0, as when nothing was asked."""
    return dashboard.SpecialValueMap(
        dashboard.DashboardSpecialValueMapOptions(
            match=dashboard.SpecialValueMatch.NULL_AND_NAN,
            result=dashboard.ValueMappingResult(text=text, color="text", index=0),
        )
    )
