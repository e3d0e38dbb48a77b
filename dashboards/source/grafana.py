"""Grafana's dashboard model, as much of it as these dashboards use: panels, their layout, variables, links.

A panel is made by one call; `rows` puts panels from left to right and from top to bottom, so nobody counts coordinates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import colours

Json = dict[str, Any]

WIDTH = 24
DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Query:
    """An expression and what its series are called; `column` is its heading in a table."""

    expression: str
    legend: str = ""
    column: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)  # of a table: labels that are columns too, and their headings


@dataclass
class Panel:
    """A panel without a place; `width` of 24 columns, `height` in Grafana's units of 30 pixels."""

    body: Json
    width: int
    height: int


def steps(*pairs: tuple[float | None, str]) -> Json:
    """Thresholds: from which value on which colour; the first from anywhere on."""
    return {"mode": "absolute", "steps": [{"value": value, "color": colour} for value, colour in pairs]}


NEUTRAL = steps((None, colours.QUIET))


def worse(look: float, bad: float) -> Json:
    """Green below `look`, yellow from there on, red from `bad` on."""
    return steps((None, colours.GOOD), (look, colours.LOOK), (bad, colours.BAD))


def better(look: float, good: float) -> Json:
    """Red below `look`, yellow from there on, green from `good` on."""
    return steps((None, colours.BAD), (look, colours.LOOK), (good, colours.GOOD))


def marked(look: float, bad: float) -> Json:
    """As `worse`, for cells: what is well has no colour."""
    return steps((None, "transparent"), (look, colours.LOOK), (bad, colours.BAD))


def lines(limit: float) -> Json:
    """A line to be crossed: drawn dashed, and red above."""
    return steps((None, colours.GOOD), (limit, colours.BAD))


def values(**texts: tuple[str, str]) -> list[Json]:
    """Values as texts in a colour: `values(_0=("no", "red"), _1=("yes", "green"))`."""
    options = {key[1:]: {"text": text, "color": colour, "index": i} for i, (key, (text, colour)) in enumerate(texts.items())}
    return [{"type": "value", "options": options}]


def _override(matcher: str, options: str, **properties: Any) -> Json:
    found = [{"id": key.replace("__", "."), "value": value} for key, value in properties.items()]
    return {"matcher": {"id": matcher, "options": options}, "properties": found}


def called(name: str, **properties: Any) -> Json:
    """An override of the series or column with this name; `custom__width=90` is `custom.width`."""
    return _override("byName", name, **properties)


def like(pattern: str, **properties: Any) -> Json:
    """As `called`, of all whose names match the regular expression."""
    return _override("byRegexp", f"/{pattern}/", **properties)


def fixed(colour: str) -> Json:
    """One colour, whatever the value."""
    return {"mode": "fixed", "fixedColor": colour}


def painted(table: Mapping[str, str]) -> list[Json]:
    """Overrides that give series their colours by their names."""
    return [called(name, color=fixed(colour)) for name, colour in table.items()]


DASHED: Json = {"fill": "dash", "dash": [8, 6]}
DIRECTIONS = painted({"receive": colours.RECEIVE, "transmit": colours.TRANSMIT})
QUANTILES = painted(colours.QUANTILES)
USUAL = called("usual p95", color=fixed(colours.USUAL), custom__lineStyle=DASHED, custom__fillOpacity=0)


# How far an axis reaches at least, by its unit; of all others up to 1.
REACH = {"percentunit": 0.05, "s": 0.001, "Bps": 1000, "bytes": 100}


def _panel(kind: str, title: str, description: str, queries: Sequence[Query], **more: Any) -> Json:
    form = {"table": "table", "heatmap": "heatmap"}.get(kind, "time_series")
    instant = kind in ("table", "bargauge")
    targets = []
    for place, query in enumerate(queries):
        how = {"instant": True, "range": False} if instant else {"instant": False, "range": True}
        name = chr(ord("A") + place)
        targets.append(
            {"refId": name, "datasource": DATASOURCE, "editorMode": "code", "expr": query.expression, "format": form}
            | {"legendFormat": query.legend or "__auto"}
            | how
        )
    return {"type": kind, "title": title, "description": description, "datasource": DATASOURCE, "targets": targets} | more


def graph(
    title: str,
    description: str,
    queries: Sequence[Query],
    *,
    unit: str,
    width: int = 8,
    height: int = 8,
    thresholds: Json | None = None,
    stack: bool = False,
    bars: bool = False,
    most: float | None = None,
    decimals: int | None = None,
    side: bool = False,
    calcs: Sequence[str] = ("lastNotNull", "max"),
    ground: float = 0,
    reach: float | None = None,
    overrides: Sequence[Json] = (),
    links: Sequence[Json] = (),
    interval: str = "",
) -> Panel:
    """Values over time. At the `side` there is room for a legend with figures, below for names.

    Whatever the values, the axis reaches from `ground` to `reach`, so that noise does not look like a mountain.
    """
    custom: Json = {
        "drawStyle": "bars" if bars else "line",
        "lineWidth": 0 if bars else 1,
        "fillOpacity": 80 if bars else 25 if stack else 8,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stack else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if thresholds else "off"},
        "axisSoftMin": ground,
        "axisSoftMax": REACH.get(unit, 1) if reach is None else reach,
    }
    defaults: Json = {"unit": unit, "color": {"mode": "palette-classic"}, "custom": custom}
    defaults["thresholds"] = thresholds or NEUTRAL
    if most is not None:
        defaults |= {"min": 0, "max": most}
    if decimals is not None:
        defaults["decimals"] = decimals
    if links:
        defaults["links"] = list(links)
    if side:
        legend = {"displayMode": "table", "placement": "right", "calcs": list(calcs), "showLegend": True}
    else:
        legend = {"displayMode": "list", "placement": "bottom", "calcs": [], "showLegend": True}
    options = {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
    body = _panel("timeseries", title, description, queries, options=options)
    body["fieldConfig"] = {"defaults": defaults, "overrides": list(overrides)}
    if interval:
        body["interval"] = interval
    return Panel(body, width, height)


def stat(
    title: str,
    description: str,
    query: Query | Sequence[Query],
    *,
    unit: str,
    width: int = 4,
    height: int = 4,
    thresholds: Json | None = None,
    mappings: Sequence[Json] = (),
    text: str = "auto",
    decimals: int | None = None,
    unknown: str = "",
    calc: str = "lastNotNull",
    filled: bool = False,
    overrides: Sequence[Json] = (),
) -> Panel:
    """One figure, the last that is shown, in a colour by its thresholds; `unknown` is what -1 stands for."""
    queries = [query] if isinstance(query, Query) else query
    options = {
        "colorMode": "background" if filled else "value",
        "graphMode": "none" if mappings else "area",
        "justifyMode": "center",
        "textMode": text,
        "reduceOptions": {"calcs": [calc], "fields": "", "values": False},
    }
    body = _panel("stat", title, description, queries, options=options)
    defaults: Json = {"unit": unit, "color": {"mode": "thresholds"}, "thresholds": thresholds or NEUTRAL, "noValue": "–"}
    word = {"type": "value", "options": {"-1": {"text": unknown, "color": colours.QUIET, "index": 9}}}
    if mappings or unknown:
        defaults["mappings"] = [*mappings, word] if unknown else list(mappings)
    if decimals is not None:
        defaults["decimals"] = decimals
    body["fieldConfig"] = {"defaults": defaults, "overrides": list(overrides)}
    return Panel(body, width, height)


def bars(
    title: str,
    description: str,
    queries: Sequence[Query],
    *,
    unit: str,
    width: int = 8,
    height: int = 8,
    thresholds: Json | None = None,
    most: float | None = None,
    overrides: Sequence[Json] = (),
) -> Panel:
    """What is now, as bars beside each other."""
    options = {
        "orientation": "horizontal",
        "displayMode": "basic",
        "valueMode": "color",
        "showUnfilled": True,
        "text": {"titleSize": 14, "valueSize": 16},
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    body = _panel("bargauge", title, description, queries, options=options)
    mode = {"mode": "thresholds" if thresholds else "palette-classic"}
    defaults: Json = {
        "unit": unit,
        "color": mode,
        "thresholds": thresholds or NEUTRAL,
        "min": 0,
        "decimals": 1,
        "noValue": "none",
    }
    if most is not None:
        defaults["max"] = most
    body["fieldConfig"] = {"defaults": defaults, "overrides": list(overrides)}
    return Panel(body, width, height)


def heatmap(title: str, description: str, query: Query, *, width: int = 12, height: int = 9) -> Panel:
    """How many there were of which duration, over time."""
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5, "fill": "dark-orange", "reverse": False},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "tooltip": {"mode": "single", "yHistogram": False},
        "yAxis": {"unit": "s", "axisPlacement": "left", "reverse": False},
    }
    body = _panel("heatmap", title, description, [query], options=options)
    body["fieldConfig"] = {"defaults": {"custom": {}, "unit": "short", "noValue": "none"}, "overrides": []}
    return Panel(body, width, height)


def table(
    title: str,
    description: str,
    queries: Sequence[Query],
    *,
    key: str,
    key_title: str,
    sort: str,
    added: tuple[str, Sequence[str]] | None = None,
    width: int = 24,
    height: int = 8,
    overrides: Sequence[Json] = (),
) -> Panel:
    """One line for each value of the label `key`, one column for each query, the largest `sort` first.

    `added` is a column that is the sum of others, in front of them.
    """
    changes: list[Json] = []
    for place, query in enumerate(queries):
        name = chr(ord("A") + place)
        # Grafana says "Value #A" if there is more than one query, and "Value" if there is one.
        renamed = {f"Value #{name}": query.column, "Value": query.column} | dict(query.labels)
        changes.append(
            {
                "id": "organize",
                "filter": {"id": "byRefId", "options": name},
                "options": {"excludeByName": {"Time": True}, "indexByName": {}, "renameByName": renamed},
            }
        )
    if len(queries) > 1:
        changes.append({"id": "joinByField", "options": {"byField": key, "mode": "outer"}})
    if added:
        name, of = added
        reduce = {"include": list(of), "reducer": "sum"}
        changes.append({"id": "calculateField", "options": {"mode": "reduceRow", "alias": name, "reduce": reduce}})
    changes.append({"id": "sortBy", "options": {"fields": {}, "sort": [{"field": sort, "desc": True}]}})
    labels = [title for query in queries for title in query.labels.values()]
    order = [key, *labels, *([added[0]] if added else []), *(query.column for query in queries)]
    places = {name: place for place, name in enumerate(order)}
    changes.append({"id": "organize", "options": {"excludeByName": {}, "indexByName": places, "renameByName": {key: key_title}}})
    options = {"cellHeight": "sm", "showHeader": True, "sortBy": [{"displayName": sort, "desc": True}]}
    body = _panel("table", title, description, queries, options=options, transformations=changes)
    # Labels are text, also those that look like numbers.
    defaults: Json = {"unit": "string", "thresholds": NEUTRAL, "noValue": "–", "custom": {"align": "auto", "filterable": False}}
    body["fieldConfig"] = {"defaults": defaults, "overrides": list(overrides)}
    return Panel(body, width, height)


def column(name: str, unit: str, thresholds: Json | None = None, width: int | None = None, **more: Any) -> Json:
    """How a column looks: its unit, and the colour of its cells by thresholds."""
    found: Json = {"unit": unit, "custom__align": "center"} | more
    if thresholds:
        found |= {"thresholds": thresholds, "custom__cellOptions": {"type": "color-background", "mode": "basic"}}
    if width:
        found["custom__width"] = width
    return called(name, **found)


def link(title: str, dashboard: str, api: str) -> Json:
    """A link to another dashboard that keeps the time, the datasource and the hosts, and names the API."""
    kept = "${datasource:queryparam}&${job:queryparam}&${instance:queryparam}&${__url_time_range}"
    return {"title": title, "url": f"/d/{dashboard}?{kept}&var-api={api}", "targetBlank": False}


def variable(name: str, label: str, query: str, *, every: bool = True) -> Json:
    """A variable whose values Prometheus knows; of `every`, several or all of them may be chosen."""
    found: Json = {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": f"variable-{name}", "qryType": 1},
        "refresh": 2,
        "sort": 1,
        "hide": 0,
        "skipUrlSync": False,
        "options": [],
        "multi": every,
        "includeAll": every,
    }
    if every:
        found |= {"allValue": ".*", "current": {"selected": True, "text": ["All"], "value": ["$__all"]}}
    else:
        found["current"] = {}
    return found


def _rows(rows: Sequence[tuple[str, Sequence[Panel]]]) -> list[Json]:
    panels: list[Json] = []
    y = 0
    for title, row in rows:
        if title:
            panels.append(
                {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": y}}
            )
            y += 1
        x = height = 0
        for panel in row:
            if x + panel.width > WIDTH:
                x, y = 0, y + height
                height = 0
            height = max(height, panel.height)
            panels.append(panel.body | {"gridPos": {"h": panel.height, "w": panel.width, "x": x, "y": y}})
            x += panel.width
        y += height
    return [{"id": number, **panel} for number, panel in enumerate(panels, 1)]


def dashboard(
    name: str,
    title: str,
    description: str,
    variables: Sequence[Json],
    rows: Sequence[tuple[str, Sequence[Panel]]],
) -> Json:
    """A whole dashboard: rows of panels under their titles. `name` is its place in the address, and the file's name."""
    chosen: Json = {
        "type": "datasource",
        "name": "datasource",
        "label": "Datasource",
        "query": "prometheus",
        "regex": "",
        "current": {},
        "options": [],
        "refresh": 1,
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "skipUrlSync": False,
    }
    return {
        "id": None,
        "uid": f"tidewaiter-{name}",
        "title": title,
        "description": description,
        "tags": ["tidewaiter"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "30s",
        "fiscalYearStartMonth": 0,
        "weekStart": "",
        "liveNow": False,
        "links": [
            {
                "type": "dashboards",
                "title": "tidewaiter",
                "tags": ["tidewaiter"],
                "asDropdown": False,
                "icon": "external link",
                "includeVars": True,
                "keepTime": True,
                "targetBlank": False,
                "tooltip": "",
                "url": "",
            }
        ],
        "annotations": {"list": []},
        "templating": {"list": [chosen, *variables]},
        "panels": _rows(rows),
    }
