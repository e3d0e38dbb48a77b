"""One API in depth."""

from . import colours as c
from . import expressions as e
from . import signals as s
from .grafana import (
    DIRECTIONS,
    QUANTILES,
    USUAL,
    Json,
    Panel,
    Query,
    called,
    column,
    dashboard,
    fixed,
    graph,
    heatmap,
    like,
    lines,
    painted,
    stat,
    steps,
    table,
    variable,
    worse,
)

NAME = "api"
VARIABLES = [
    variable("job", "Job", "label_values(tidewaiter_build_info, job)"),
    variable("instance", "Instance", 'label_values(tidewaiter_build_info{job=~"$job"}, instance)'),
    variable("api", "API", f"label_values({e.series('tidewaiter_api_info', e.HOSTS)}, api)", every=False),
]
ENDS = painted(c.ENDS)
CODES = [like(f"^{first}", color=fixed(colour)) for first, colour in c.CODES.items()]
DOWNWARD = like("^transmit", custom__transform="negative-Y")


def _quantiles(histogram: str) -> list[Query]:
    return [Query(e.quantile(of / 100, "", histogram, e.ONE), f"p{of}") for of in (50, 95, 99)]


def _state(title: str, signals: list[s.Signal], colour: str) -> Panel:
    text = f"How many of these signals are off in the last five minutes: {s.words(signals)}."
    found = steps((None, c.GOOD), (1, colour))
    return stat(title, text, Query(s.off(signals, e.ONE)), unit="none", decimals=0, width=3, thresholds=found, filled=True)


def _glance() -> list[Panel]:
    return [
        _state("Service", s.service(e.ONE), c.SERVICE),
        _state("Network", s.network(e.ONE), c.NETWORK),
        _state("Traffic", s.traffic(e.ONE), c.TRAFFIC),
        stat("Answers", "Answers a second, of whatever protocol.", Query(e.timed("", e.RESPONSE, e.ONE)), unit="reqps", width=3),
        stat(
            "Server errors",
            "Share of HTTP/1 responses without TLS with a status of 5xx.",
            Query(e.or_unknown(e.errors("", e.ONE), e.ONE)),
            unit="percentunit",
            decimals=1,
            width=3,
            thresholds=worse(*s.ERRORS),
            unknown="not known",
        ),
        stat(
            "Answer p95",
            "95 in 100 answers begin within this time after the request has ended.",
            Query(e.or_unknown(e.quantile(0.95, "", e.RESPONSE, e.ONE), e.ONE)),
            unit="s",
            width=3,
            unknown="none now",
        ),
        stat(
            "Connections",
            "TCP connections that there are.",
            Query(e.total("", e.series("tidewaiter_api_connections_active", e.ONE))),
            unit="short",
            decimals=0,
            width=3,
        ),
        stat(
            "Clients",
            "Different remote addresses in the last five minutes: the most that one host has seen.",
            Query(f"max({e.series('tidewaiter_api_clients', e.ONE)})"),
            unit="short",
            decimals=0,
            width=3,
        ),
    ]


def _service() -> list[Panel]:
    p95 = e.quantile(0.95, "", e.RESPONSE, e.ONE, over=e.NOW)
    return [
        graph(
            "How long do answers take?",
            "From the last byte of a request to the first of its answer; p95: of 95 in 100. The dashed line is the usual p95, the median "
            "of the last six hours.",
            [*_quantiles(e.RESPONSE), Query(e.usual(p95), "usual p95")],
            unit="s",
            width=12,
            overrides=[*QUANTILES, USUAL],
        ),
        heatmap(
            "How are they spread?",
            "How many answers took how long, over time: two bands are two kinds of requests, or a service that waits for another.",
            Query(
                f"{e.increase('le', e.RESPONSE + '_bucket', e.ONE, f'le=~{chr(34)}{e.ROWS}|[+]Inf{chr(34)}', over=e.GRAPH)} or {e.increase('', e.RESPONSE, e.ONE, over=e.GRAPH)}",
                "{{le}}",
            ),
            height=8,
        ),
        graph(
            "Which status codes?",
            "HTTP/1 responses without TLS, by status code.",
            [Query(e.plain("code", "tidewaiter_api_responses_total", e.ONE), "{{code}}")],
            unit="reqps",
            stack=True,
            overrides=CODES,
        ),
        graph(
            "Which methods?",
            "HTTP/1 requests without TLS, by method.",
            [Query(e.plain("method", "tidewaiter_api_requests_total", e.ONE), "{{method}}")],
            unit="reqps",
            stack=True,
        ),
        graph(
            "What goes wrong?",
            "Share of responses that are server errors, of attempts that are refused, of connections that end by a reset.",
            [
                Query(
                    e.beside(
                        server_errors=e.errors("", e.ONE),
                        refused=e.refused("", e.ONE),
                        reset=e.ended("", e.ONE, "reset"),
                    ),
                    "{{what}}",
                )
            ],
            unit="percentunit",
            overrides=painted({"server errors": c.BAD, "refused": "light-red", "reset": c.ENDS["reset"]}),
        ),
    ]


def _network() -> list[Panel]:
    p95 = e.quantile(0.95, "", e.HANDSHAKE, e.ONE, over=e.NOW)
    return [
        graph(
            "How long do handshakes take?",
            "A round trip to the other end and what its kernel takes; the service has no part in it. The dashed line is the usual p95, "
            "the median of the last six hours.",
            [*_quantiles(e.HANDSHAKE), Query(e.usual(p95), "usual p95")],
            unit="s",
            overrides=[*QUANTILES, USUAL],
        ),
        graph(
            "How much is sent again?",
            "Share of transmitted packets that are retransmissions. Two in a hundred slow every connection down.",
            [Query(e.retransmitted("", e.ONE), "retransmitted")],
            unit="percentunit",
            thresholds=lines(s.RETRANSMITTED[1]),
            overrides=painted({"retransmitted": c.NETWORK}),
        ),
        graph(
            "Who resets connections?",
            "Segments with RST: received ones are the other end's, transmitted ones this host's.",
            [Query(e.rate("direction", "tidewaiter_api_reset_packets_total", e.ONE), "{{direction}}")],
            unit="pps",
            overrides=DIRECTIONS,
        ),
        graph(
            "Do connections come about?",
            "TCP connections that somebody tried to open, those that were opened, and those that were refused. What is in neither is "
            "half open: lost packets, or a SYN flood.",
            [
                Query(e.rate("", "tidewaiter_api_connection_attempts_total", e.ONE), "tried"),
                Query(e.rate("", "tidewaiter_api_connections_opened_total", e.ONE), "opened"),
                Query(e.rate("", "tidewaiter_api_connections_refused_total", e.ONE), "refused"),
            ],
            unit="cps",
            overrides=painted({"tried": "blue", "opened": c.GOOD, "refused": c.BAD}),
        ),
        graph(
            "How do connections end?",
            "By a FIN of both sides, by a reset, or because nothing more was seen of them (idle): kept for later and quiet, or a host or a way that vanished.",
            [Query(e.rate("reason", "tidewaiter_api_connections_closed_total", e.ONE), "{{reason}}")],
            unit="cps",
            stack=True,
            overrides=ENDS,
        ),
        graph(
            "What does this host drop?",
            "Packets of the API that the kernel has dropped, by its own name of the reason.",
            [Query(e.named("tidewaiter_api_dropped_packets_total", e.ONE, reason="none"), "{{reason}}")],
            unit="pps",
        ),
    ]


def _traffic() -> list[Panel]:
    def both(metric: str) -> list[Query]:
        return [Query(e.rate("direction", metric, e.ONE), "{{direction}}")]

    size = (
        e.rate("direction", "tidewaiter_api_bytes_total", e.ONE)
        + " / "
        + f"({e.rate('direction', 'tidewaiter_api_packets_total', e.ONE)} > 0)"
    )
    return [
        graph(
            "How many bytes?",
            "Bytes on the wire: received upward, transmitted downward.",
            both("tidewaiter_api_bytes_total"),
            unit="Bps",
            overrides=[*DIRECTIONS, DOWNWARD],
        ),
        graph(
            "How many packets?",
            "Packets on the wire: received upward, transmitted downward. A super-packet counts as its segments.",
            both("tidewaiter_api_packets_total"),
            unit="pps",
            overrides=[*DIRECTIONS, DOWNWARD],
        ),
        graph(
            "How large are packets?",
            "Bytes on the wire of a packet, on average: floods are of small ones, downloads of large ones.",
            [Query(size, "{{direction}}")],
            unit="bytes",
            overrides=DIRECTIONS,
        ),
        graph(
            "How many connections?",
            "TCP connections that there are.",
            [Query(e.total("instance", e.series("tidewaiter_api_connections_active", e.ONE)), "{{instance}}")],
            unit="short",
            decimals=0,
        ),
        graph(
            "How long do connections last?",
            "From the first packet to the last of TCP connections that were closed or reset.",
            _quantiles(e.CONNECTION),
            unit="s",
            overrides=QUANTILES,
        ),
        graph(
            "Packets of no flow",
            "Packets that found the table of flows full: they are counted, but nobody knows whose they are.",
            [Query(e.rate("", "tidewaiter_api_untracked_packets_total", e.ONE), "untracked")],
            unit="pps",
            overrides=painted({"untracked": c.BAD}),
        ),
    ]


def _senders() -> list[Panel]:
    name = "tidewaiter_client_bytes_total"
    return [
        graph(
            "Who sends most?",
            'Bytes of the ten clients with most, both ways. They are told when a flow is over, or a minute of it; "other" is all clients '
            "that have no series of their own.",
            [Query(f"topk(10, {e.rate('client', name, e.ONE, over=e.NOW)} > 0)", "{{client}}")],
            unit="Bps",
            stack=True,
            side=True,
            width=12,
        ),
        table(
            "Top clients",
            "Bytes of each client in what is shown, both ways.",
            [Query(f"topk(20, {e.increase('client', name, e.ONE)} > 0)", column="Bytes")],
            key="client",
            key_title="Client",
            sort="Bytes",
            width=6,
            overrides=[column("Bytes", "bytes", None, 110, decimals=1)],
        ),
        graph(
            "How many clients, and is it one?",
            "Different remote addresses in the last five minutes (the most that one host has seen), and the share of bytes of the one with "
            "most: near 100 %, a limit for each client would hold it.",
            [
                Query(f"max({e.series('tidewaiter_api_clients', e.ONE)})", "clients"),
                Query(e.busiest("", e.ONE), "busiest client"),
            ],
            unit="short",
            width=6,
            overrides=[
                called("clients", color=fixed("blue")),
                called("busiest client", color=fixed(c.TRAFFIC), unit="percentunit", max=1, min=0, custom__axisPlacement="right"),
            ],
        ),
    ]


RULES = e.instead(e.rate("rule, verdict", "tidewaiter_guard_packets_total", e.ONE), e.ONE, rule="no rules", verdict="pass")


def _limits() -> list[Panel]:
    return [
        graph(
            "Would a limit have helped?",
            'Packets that each rule has decided about. What begins with "would" has passed: rules only observe until they are enforced.',
            [Query(RULES, "{{rule}}: {{verdict}}")],
            unit="pps",
            width=12,
            side=True,
            overrides=[like(f": {verdict}$", color=fixed(colour)) for verdict, colour in c.VERDICTS.items()],
        ),
        graph(
            "What should not be",
            "Anomalies in five minutes, by kind; what is counted depends on that.",
            [Query(e.increase("kind", "tidewaiter_anomalies_total", e.ONE, over=e.NOW), "{{kind}}")],
            unit="short",
            width=12,
            side=True,
            overrides=painted(c.KINDS),
        ),
    ]


def _protocols() -> list[Panel]:
    return [
        graph(
            "Which protocols are spoken?",
            "Flows by what their first payload looks like, in five minutes.",
            [Query(e.increase("protocol", "tidewaiter_api_protocol_flows_total", e.ONE, over=e.NOW), "{{protocol}}")],
            unit="short",
            width=12,
            stack=True,
            side=True,
        ),
        table(
            "Which are expected, and where?",
            'What the API is found by, and what its payload should look like ("expect"); anything else is an unexpected payload.',
            [
                Query(
                    f"max by (instance, role, transport, ports, expect) ({e.series('tidewaiter_api_info', e.ONE)})",
                    column="Is",
                    labels={"role": "Role", "transport": "Transport", "ports": "Ports", "expect": "Expected"},
                )
            ],
            key="instance",
            key_title="Instance",
            sort="Is",
            width=12,
            overrides=[called("Is", custom__hidden=True)],
        ),
    ]


def build() -> Json:
    """The dashboard."""
    rows = [
        ("", _glance()),
        ("Is it the service?", _service()),
        ("Is it the network?", _network()),
        ("Who sends it?", _senders()),
        ("Would a limit have helped?", _limits()),
        ("How much traffic?", _traffic()),
        ("Which protocols?", _protocols()),
    ]
    text = "One API: its answers, handshakes, errors, traffic, clients, protocols, and what rules say about it."
    return dashboard(NAME, "tidewaiter: API", text, VARIABLES, rows)
