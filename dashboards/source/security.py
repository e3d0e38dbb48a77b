"""What should not be: anomalies, floods, scans; rules, blocks, and what enforcing would change."""

from . import colours as c
from . import expressions as e
from .grafana import Json, Panel, Query, called, column, dashboard, fixed, graph, like, link, painted, stat, steps, table, values
from .overview import TO_API, VARIABLES, by_api

NAME = "security"
ANOMALIES = "tidewaiter_anomalies_total"
GUARD = "tidewaiter_guard_packets_total"
LIMITS = 'map="client_limits"'
KINDS = painted(c.KINDS)
VERDICTS = painted(c.VERDICTS)
SEEN = steps((None, c.GOOD), (1, c.TRAFFIC))


def _count(title: str, text: str, *kinds: str) -> Panel:
    found = e.increase("", ANOMALIES, e.APIS, f'kind=~"{"|".join(kinds)}"') + " or vector(0)"
    return stat(title, text, Query(f"round({found})"), unit="short", decimals=0, width=3, thresholds=SEEN)


def _glance() -> list[Panel]:
    enforcing = values(_0=("observes", c.LOOK), _1=("enforces", c.GOOD))
    return [
        _count(
            "Floods",
            "SYN and ICMP floods and amplification, in what is shown: windows and clients in which there was one.",
            "syn_flood",
            "icmp_flood",
            "amplification",
        ),
        _count("Scans", "Sources that have tried many ports, or one port at many addresses, in what is shown.", "port_scan"),
        _count(
            "Unexpected payload", "Flows whose payload is not what their API expects, in what is shown.", "unexpected_payload"
        ),
        _count("Churn", "Clients whose connections come and go, in what is shown.", "connection_churn"),
        _count(
            "Nonsense",
            "Packets that no stack in its right mind sends, in what is shown.",
            *(
                kind
                for kind in c.KINDS
                if kind in ("bad_tcp_flags", "land", "malformed", "tiny_fragment", "overlapping_fragment", "unexpected_protocol")
            ),
        ),
        stat(
            "Guard",
            "Whether rules that are to be enforced are, on all hosts: not while the guard observes alone or is switched off.",
            Query(e.or_unknown(f"min({e.series('tidewaiter_guard_enforcing', e.HOSTS)})", e.HOSTS)),
            unit="none",
            width=3,
            mappings=enforcing,
            unknown="no rules",
        ),
        stat(
            "Blocks",
            "Addresses and networks that are not let in for a while, now.",
            Query(e.or_unknown(e.total("", e.series("tidewaiter_map_entries", e.HOSTS, 'map="blocks"')), e.HOSTS)),
            unit="short",
            decimals=0,
            width=3,
            unknown="no guard",
        ),
        stat(
            "If enforced",
            "Share of received packets that rules would have dropped or rejected if they were enforced.",
            Query(
                e.share(
                    e.rate("", GUARD, e.APIS, 'verdict=~"would_drop|would_reject"'),
                    e.rate("", "tidewaiter_api_packets_total", e.APIS, 'direction="receive"'),
                )
            ),
            unit="percentunit",
            decimals=1,
            width=3,
            thresholds=steps((None, c.QUIET), (0.01, c.TRAFFIC)),
        ),
    ]


def _anomalies() -> list[Panel]:
    return [
        graph(
            "What should not be, and since when?",
            "Anomalies by kind, of a minute or, where more than some hours are shown, of each bar. What is counted depends on the kind: "
            "packets, flows, sources or windows.",
            [Query(f"round({e.increase('kind', ANOMALIES, e.APIS, over='$__interval')})", "{{kind}}")],
            unit="short",
            interval="1m",
            decimals=0,
            width=16,
            height=11,
            bars=True,
            stack=True,
            side=True,
            calcs=("sum", "max"),
            overrides=KINDS,
        ),
        table(
            "Which APIs are meant?",
            'Anomalies in what is shown, by API and kind. "unmapped" is traffic of no API, as scans and broken packets are.',
            [Query(f"round({e.increase('api, kind', ANOMALIES, e.APIS)}) > 0", column="Count", labels={"kind": "Kind"})],
            key="api",
            key_title="API",
            sort="Count",
            width=8,
            height=11,
            overrides=[
                column("Count", "short", None, 90, decimals=0),
                called("API", links=[link("This API in depth", "tidewaiter-api", "${__value.text}")]),
            ],
        ),
    ]


def _floods() -> list[Panel]:
    tried = e.rate("api", "tidewaiter_api_connection_attempts_total", e.APIS)
    opened = e.rate("api", "tidewaiter_api_connections_opened_total", e.APIS)
    turned = e.rate("api", "tidewaiter_api_connections_refused_total", e.APIS)
    half_open = f"clamp_min({tried} - {opened} - {turned}, 0)"
    return [
        graph(
            "Is it a SYN flood?",
            "Attempts to connect that are neither completed nor refused, a second: connections that stay half open.",
            by_api(half_open),
            unit="cps",
            links=TO_API,
        ),
        graph(
            "Who is refused?",
            'Attempts that were answered by a reset, a second; of "unmapped", ports where nobody listens: that is what a scan looks like.',
            by_api(turned),
            unit="cps",
            links=TO_API,
        ),
        graph(
            "How many clients?",
            "Different remote addresses in the last five minutes, as one host sees them: a flood with forged addresses shows here.",
            by_api(f"max by (api) ({e.series('tidewaiter_api_clients', e.APIS)})"),
            unit="short",
            decimals=0,
            links=TO_API,
        ),
    ]


def _payload() -> list[Panel]:
    sent = e.rate("api", "tidewaiter_api_bytes_total", e.APIS, 'direction="transmit"')
    received = e.rate("api", "tidewaiter_api_bytes_total", e.APIS, 'direction="receive"')
    return [
        graph(
            "Where is payload unexpected?",
            "Flows whose payload is not what their API expects, in five minutes.",
            by_api(e.increase("api", ANOMALIES, e.APIS, 'kind="unexpected_payload"', over=e.NOW)),
            unit="short",
            links=TO_API,
        ),
        graph(
            "Does more leave than comes in?",
            "Bytes that are transmitted for each that is received, of each API. What is usual depends on the API; a jump may be data that leaves.",
            by_api(f"{sent} / ({received} > 0)"),
            unit="none",
            decimals=1,
            links=TO_API,
        ),
        graph(
            "Who resets connections?",
            "Segments with RST: received ones are others', transmitted ones this host's.",
            [Query(e.rate("direction", "tidewaiter_api_reset_packets_total", e.APIS), "{{direction}}")],
            unit="pps",
            overrides=painted({"receive": c.RECEIVE, "transmit": c.TRANSMIT}),
        ),
    ]


def _rules() -> list[Panel]:
    would = e.rate("rule, api", GUARD, e.APIS, 'verdict=~"would_.+"')
    return [
        graph(
            "What do rules decide?",
            'Packets that rules and blocks have decided about, by verdict. What begins with "would" has passed.',
            [Query(e.instead(e.rate("verdict", GUARD, e.APIS), e.APIS, verdict="no rules"), "{{verdict}}")],
            unit="pps",
            stack=True,
            width=8,
            overrides=VERDICTS,
        ),
        graph(
            "What would enforcing change?",
            'Packets that a rule that only observes would have dropped, rejected or marked: what its mode "enforce" would take from now on.',
            [Query(e.instead(would, e.APIS, rule="no rules", api="that observe"), "{{rule}}: {{api}}")],
            unit="pps",
            width=8,
        ),
        table(
            "Which rule, and which API?",
            "Packets in what is shown, by rule, API and verdict.",
            [
                Query(
                    f"round({e.increase('rule, api, verdict', GUARD, e.APIS)}) > 0",
                    column="Packets",
                    labels={"rule": "Rule", "verdict": "Verdict"},
                )
            ],
            key="api",
            key_title="API",
            sort="Packets",
            width=8,
            overrides=[
                called("API", custom__width=100),
                column("Packets", "short", None, 85, decimals=0),
                called(
                    "Verdict",
                    mappings=[
                        {
                            "type": "value",
                            "options": {
                                name: {"color": colour, "index": i} for i, (name, colour) in enumerate(c.VERDICTS.items())
                            },
                        }
                    ],
                    custom__cellOptions={"type": "color-text"},
                    custom__width=110,
                ),
            ],
        ),
    ]


def _blocks() -> list[Panel]:
    return [
        graph(
            "How many are blocked?",
            "Addresses and networks that are not let in, by host.",
            [
                Query(
                    e.instead(
                        e.total("instance", e.series("tidewaiter_map_entries", e.HOSTS, 'map="blocks"')),
                        e.HOSTS,
                        instance="no guard",
                    ),
                    "{{instance}}",
                )
            ],
            unit="short",
            decimals=0,
            width=6,
        ),
        graph(
            "What do blocks keep out?",
            "Packets from addresses and networks that are blocked, by API.",
            [Query(e.instead(e.rate("api", GUARD, e.APIS, 'rule="block"'), e.APIS, api="no blocks"), "{{api}}")],
            unit="pps",
            width=6,
            links=TO_API,
        ),
        graph(
            "Which blocks were refused?",
            "Blocks that were asked for and are not there, in five minutes, by the reason why.",
            [
                Query(
                    e.instead(
                        e.increase("reason", "tidewaiter_blocks_refused_total", e.HOSTS, over=e.NOW), e.HOSTS, reason="no guard"
                    ),
                    "{{reason}}",
                )
            ],
            unit="short",
            width=6,
        ),
        graph(
            "Is there room for limits?",
            "Clients whose limits are kept, in all there is room for; and those that were forgotten to make room, a second.",
            [
                Query(
                    e.instead(
                        e.beside(
                            in_use=f"max({e.series('tidewaiter_map_entries', e.HOSTS, LIMITS)} / {e.series('tidewaiter_map_capacity', e.HOSTS, LIMITS)})",
                            forgotten_a_second=e.rate("", "tidewaiter_guard_clients_evicted_total", e.HOSTS),
                        ),
                        e.HOSTS,
                        what="no rules",
                    ),
                    "{{what}}",
                )
            ],
            unit="short",
            width=6,
            overrides=[
                called("in use", color=fixed("blue"), unit="percentunit", min=0),
                called("forgotten a second", color=fixed(c.BAD), custom__axisPlacement="right", min=0),
            ],
        ),
        graph(
            "What becomes of judged packets?",
            "Packets that were judged before they were accounted, by interface. Transmitted ones are answers to what was rejected.",
            [
                Query(
                    e.instead(
                        e.rate("interface, direction, verdict", "tidewaiter_interface_guard_packets_total", e.HOSTS),
                        e.HOSTS,
                        interface="no rules",
                        direction="receive",
                        verdict="pass",
                    ),
                    "{{interface}} {{direction}}: {{verdict}}",
                )
            ],
            unit="pps",
            width=24,
            height=7,
            side=True,
            overrides=[like(f": {verdict}$", color=fixed(colour)) for verdict, colour in c.VERDICTS.items()],
        ),
    ]


def build() -> Json:
    """The dashboard."""
    rows = [
        ("", [*_glance(), *_anomalies()]),
        ("Floods and scans", _floods()),
        ("Payload", _payload()),
        ("Would a limit have helped?", _rules()),
        ("Blocks", _blocks()),
    ]
    text = "What should not be: anomalies by kind and API, floods, scans, unexpected payload; rules, blocks, and what enforcing would change."
    return dashboard(NAME, "tidewaiter: security", text, VARIABLES, rows)
