"""Every API on one page: which is in trouble, since when, whose trouble it is, who sends it, would a limit have helped."""

from . import colours as c
from . import expressions as e
from . import signals as s
from .grafana import (
    Json,
    Panel,
    Query,
    called,
    column,
    dashboard,
    graph,
    lines,
    link,
    marked,
    painted,
    stat,
    steps,
    table,
    variable,
    worse,
)

NAME = "overview"
VARIABLES = [
    variable("job", "Job", "label_values(tidewaiter_build_info, job)"),
    variable("instance", "Instance", 'label_values(tidewaiter_build_info{job=~"$job"}, instance)'),
    variable("api", "API", f"label_values({e.series('tidewaiter_api_packets_total', e.HOSTS)}, api)"),
]

SERVICE = s.off(s.service(e.APIS), e.APIS)
NETWORK = s.off(s.network(e.APIS), e.APIS)
TRAFFIC = s.off(s.traffic(e.APIS), e.APIS)
TO_API = [link("The API ${__field.labels.api}", "tidewaiter-api", "${__field.labels.api}")]


def by_api(of: str) -> list[Query]:
    """A series for each API."""
    return [Query(e.each(of, e.APIS), "{{api}}")]


def _in_trouble(title: str, of: str, colour: str, what: str) -> Panel:
    found = f"count(({of}) > 0) or vector(0)"
    text = f"How many APIs have a signal of this kind that is off now: {what}."
    return stat(
        title, text, Query(found, "APIs"), unit="none", decimals=0, thresholds=steps((None, c.GOOD), (1, colour)), filled=True
    )


def _glance() -> list[Panel]:
    return [
        _in_trouble("Services in trouble", SERVICE, c.SERVICE, s.words(s.service(""))),
        _in_trouble("Networks in trouble", NETWORK, c.NETWORK, s.words(s.network(""))),
        _in_trouble("Traffic out of the ordinary", TRAFFIC, c.TRAFFIC, s.words(s.traffic(""))),
        stat(
            "Answers",
            "Answers a second of all APIs, of whatever protocol: what was asked is counted when the answer begins.",
            Query(e.timed("", e.RESPONSE, e.APIS)),
            unit="reqps",
        ),
        stat(
            "Server errors",
            "Share of responses with a status of 5xx, of all APIs. Only of HTTP/1 without TLS: what is encrypted is not read.",
            Query(e.or_unknown(e.errors("", e.APIS), e.APIS)),
            unit="percentunit",
            thresholds=worse(*s.ERRORS),
            decimals=1,
            unknown="not known",
        ),
        stat(
            "What limits take, or would",
            "Share of received packets that rules and blocks have dropped or rejected, or would have if they were enforced.",
            Query(e.or_unknown(e.limited("", e.APIS), e.APIS)),
            unit="percentunit",
            thresholds=steps((None, c.QUIET), (0.01, c.TRAFFIC)),
            decimals=1,
            unknown="no rules",
        ),
    ]


def _worst() -> Panel:
    percent = "percentunit"
    now = {"over": e.NOW}
    per_api = "api"
    columns = [
        Query(SERVICE, column="Service"),
        Query(NETWORK, column="Network"),
        Query(TRAFFIC, column="Traffic"),
        Query(e.timed(per_api, e.RESPONSE, e.APIS, **now), column="Answers"),
        Query(e.rate(per_api, "tidewaiter_api_bytes_total", e.APIS, **now), column="Bytes"),
        Query(e.errors(per_api, e.APIS, **now), column="5xx"),
        Query(e.refused(per_api, e.APIS, **now), column="Refused"),
        *(Query(e.quantile(of / 100, per_api, e.RESPONSE, e.APIS, **now), column=f"p{of}") for of in (50, 95, 99)),
        Query(e.quantile(0.95, per_api, e.HANDSHAKE, e.APIS, **now), column="Handshake"),
        Query(e.retransmitted(per_api, e.APIS, **now), column="Sent again"),
        Query(e.total(per_api, e.series("tidewaiter_api_connections_active", e.APIS)), column="Connections"),
        Query(f"max by (api) ({e.series('tidewaiter_api_clients', e.APIS)})", column="Clients"),
        Query(e.busiest(per_api, e.APIS), column="Busiest client"),
    ]

    def kind(name: str, colour: str) -> Json:
        return column(name, "none", steps((None, "transparent"), (1, colour)), 75, decimals=0)

    looks = [
        called("API", links=[link("This API in depth", "tidewaiter-api", "${__value.text}")], custom__minWidth=120),
        column("Signals off", "none", steps((None, c.GOOD), (1, c.LOOK), (2, c.BAD)), 95, decimals=0),
        kind("Service", c.SERVICE),
        kind("Network", c.NETWORK),
        kind("Traffic", c.TRAFFIC),
        column("Answers", "reqps", None, 105, decimals=1),
        column("Bytes", "Bps", None, 105, decimals=1),
        column("5xx", percent, marked(*s.ERRORS), 80, decimals=1),
        column("Refused", percent, marked(*s.REFUSED), 80, decimals=1),
        *(column(name, "s", None, 90, decimals=1) for name in ("p50", "p95", "p99")),
        column("Handshake", "s", None, 95, decimals=1),
        column("Sent again", percent, marked(*s.RETRANSMITTED), 90, decimals=1),
        column("Connections", "short", None, 100, decimals=0),
        column("Clients", "short", None, 75, decimals=0),
        column("Busiest client", percent, steps((None, "transparent"), (s.BUSIEST[1], c.TRAFFIC)), 110, decimals=0),
    ]
    text = (
        "Every API, the worst first, as it is in the last five minutes of what is shown. "
        f"Service: how many of {s.words(s.service(''))} are off. Network: {s.words(s.network(''))}. Traffic: {s.words(s.traffic(''))}. "
        "p50 to p99 are the times from a request's last byte to its answer's first, handshake is a p95. Clients are the most that one host has seen. "
        "The busiest client is the share of bytes of the one with most. Of an API that is called from here, the service is the other end. Click on a name for the API in depth."
    )
    return table(
        "Which API is in trouble?",
        text,
        columns,
        key="api",
        key_title="API",
        sort="Signals off",
        added=("Signals off", ("Service", "Network", "Traffic")),
        height=9,
        overrides=looks,
    )


def _since(title: str, of: str, signals: list[s.Signal]) -> Panel:
    text = f"How many of these signals are off, of each API, over time: {s.words(signals)}. Where a line leaves the ground, the trouble began."
    return graph(
        title,
        text,
        by_api(of),
        unit="none",
        decimals=0,
        height=7,
        interval="1m",
        thresholds=lines(1),
        reach=3,
        links=TO_API,
    )


def _service() -> list[Panel]:
    return [
        graph(
            "How long do answers take? (p95)",
            "From the last byte of a request to the first of its answer, of 95 in 100. Of APIs that are served here that is the "
            "service's time alone; of those that are called from here the way is in it.",
            by_api(e.quantile(0.95, "api", e.RESPONSE, e.APIS)),
            unit="s",
            links=TO_API,
        ),
        graph(
            "How many answers are server errors?",
            "Share of HTTP/1 responses without TLS with a status of 5xx.",
            by_api(e.errors("api", e.APIS)),
            unit="percentunit",
            thresholds=lines(s.ERRORS[1]),
            links=TO_API,
        ),
        graph(
            "How many connections are refused?",
            "Share of attempts that were answered by a reset: nobody listens, or somebody refuses.",
            by_api(e.refused("api", e.APIS)),
            unit="percentunit",
            thresholds=lines(s.REFUSED[1]),
            links=TO_API,
        ),
    ]


def _network() -> list[Panel]:
    return [
        graph(
            "How long do handshakes take? (p95)",
            "A round trip to the other end and what its kernel takes, of 95 in 100; the service has no part in it.",
            by_api(e.quantile(0.95, "api", e.HANDSHAKE, e.APIS)),
            unit="s",
            links=TO_API,
        ),
        graph(
            "How much has to be sent again?",
            "Share of transmitted packets that are retransmissions. Two in a hundred slow every connection down.",
            by_api(e.retransmitted("api", e.APIS)),
            unit="percentunit",
            thresholds=lines(s.RETRANSMITTED[1]),
            links=TO_API,
        ),
        graph(
            "What does this host drop?",
            "Packets of APIs that the kernel has dropped, by its own name of the reason: full buffers, bad checksums, no socket.",
            [Query(e.named("tidewaiter_api_dropped_packets_total", e.APIS, api="none", reason="at all"), "{{api}} {{reason}}")],
            unit="pps",
            links=TO_API,
        ),
    ]


def _senders() -> list[Panel]:
    return [
        graph(
            "How much is asked?",
            "Answers a second of each API, of whatever protocol.",
            by_api(e.timed("api", e.RESPONSE, e.APIS)),
            unit="reqps",
            links=TO_API,
        ),
        graph(
            "How much traffic?",
            'Bytes on the wire of each API, both ways; "unmapped" is traffic of no API.',
            by_api(e.rate("api", "tidewaiter_api_bytes_total", e.APIS)),
            unit="Bps",
            stack=True,
            links=TO_API,
        ),
        table(
            "Who sends most?",
            "The ten clients with most bytes in what is shown, both ways, of flows that are over or of which a minute is. "
            '"other" is all clients that have no series of their own.',
            [
                Query(
                    f"topk(10, {e.increase('api, client', 'tidewaiter_client_bytes_total', e.APIS)} > 0)",
                    column="Bytes",
                    labels={"api": "API"},
                )
            ],
            key="client",
            key_title="Client",
            sort="Bytes",
            width=8,
            overrides=[
                column("Bytes", "bytes", None, 110, decimals=1),
                called("API", links=[link("This API in depth", "tidewaiter-api", "${__value.text}")]),
            ],
        ),
        graph(
            "Connections",
            "TCP connections that there are.",
            by_api(e.total("api", e.series("tidewaiter_api_connections_active", e.APIS))),
            unit="short",
            decimals=0,
            links=TO_API,
        ),
        graph(
            "How many try to connect?",
            "Attempts to open a TCP connection a second.",
            by_api(e.rate("api", "tidewaiter_api_connection_attempts_total", e.APIS)),
            unit="cps",
            links=TO_API,
        ),
        graph(
            "How many clients?",
            "Different remote addresses in the last five minutes, as one host sees them: the most of all hosts.",
            by_api(f"max by (api) ({e.series('tidewaiter_api_clients', e.APIS)})"),
            unit="short",
            decimals=0,
            links=TO_API,
        ),
    ]


def _limits() -> list[Panel]:
    verdicts = e.instead(e.rate("verdict", "tidewaiter_guard_packets_total", e.APIS), e.APIS, verdict="no rules")
    return [
        graph(
            "Is it a single client?",
            "Share of an API's bytes that the client with most of them has. Near 100 %, a limit for each client would have held it; "
            "where many clients share the load, only one for the whole API would.",
            by_api(e.busiest("api", e.APIS)),
            unit="percentunit",
            most=1,
            links=TO_API,
        ),
        graph(
            "What do rules say?",
            'Packets that rules and blocks have decided about. What begins with "would" has passed: rules only observe until they are '
            "enforced.",
            [Query(verdicts, "{{verdict}}")],
            unit="pps",
            overrides=painted(c.VERDICTS),
        ),
        graph(
            "How much of an API would limits take?",
            "Share of received packets that rules have dropped or rejected, or would have, of each API that they are about.",
            by_api(e.limited("api", e.APIS)),
            unit="percentunit",
            links=TO_API,
        ),
    ]


def build() -> Json:
    """The dashboard."""
    rows = [
        ("", [*_glance(), _worst()]),
        (
            "Since when: the service, the network or the traffic?",
            [
                _since("Since when: the service?", SERVICE, s.service(e.APIS)),
                _since("Since when: the network?", NETWORK, s.network(e.APIS)),
                _since("Since when: the traffic?", TRAFFIC, s.traffic(e.APIS)),
            ],
        ),
        ("Is it the service?", _service()),
        ("Is it the network?", _network()),
        ("Who sends it?", _senders()),
        ("Would a limit have helped?", _limits()),
    ]
    text = "Every API that tidewaiter sees: which is in trouble, since when, whose trouble it is, who sends it, and would a limit have helped."
    return dashboard(NAME, "tidewaiter: overview", text, VARIABLES, rows)
