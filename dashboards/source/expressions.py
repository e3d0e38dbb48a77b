"""Pieces of PromQL that are the same on every dashboard."""

# The range of a rate in a graph, as Grafana finds it from the scrape interval and the width of the panel.
GRAPH = "$__rate_interval"
# The range of what stands for "now" in tables and signals: long enough for a quiet API, short enough for an on-call person.
NOW = "5m"
# All that the panel shows.
SHOWN = "$__range"
# How far back "usual" looks, and how often: the median of that does not follow an incident of up to three hours.
USUAL = "6h:5m"

HANDSHAKE = "tidewaiter_api_handshake_duration_seconds"
RESPONSE = "tidewaiter_api_response_duration_seconds"
CONNECTION = "tidewaiter_api_connection_duration_seconds"

# Label matchers: of whatever has no API, of what does, and of the one API of the dashboard of one.
HOSTS = 'job=~"$job",instance=~"$instance"'
APIS = HOSTS + ',api=~"$api"'
ONE = HOSTS + ',api="$api"'

# Bounds of a heatmap's rows, 0.1 ms to 16 s in doublings: there are more buckets, but nobody can read thirty rows. Formats
# differ in whether a whole number ends in ".0".
_BOUNDS = [2.0**power for power in range(-13, 5)]
ROWS = "|".join(
    f"{bound:.20f}".rstrip("0").rstrip(".").replace(".", "[.]") + ("([.]0)?" if bound >= 1 else "") for bound in _BOUNDS
)


def series(metric: str, matchers: str, *more: str) -> str:
    """A selector: `series("up", HOSTS, 'job="x"')`."""
    return f"{metric}{{{','.join((matchers, *more))}}}"


def total(by: str, of: str) -> str:
    """The sum of `of` by labels, or of all."""
    return f"sum by ({by}) ({of})" if by else f"sum({of})"


def rate(by: str, metric: str, matchers: str, *more: str, over: str = GRAPH) -> str:
    """How much a second, by labels."""
    return total(by, f"rate({series(metric, matchers, *more)}[{over}])")


def increase(by: str, metric: str, matchers: str, *more: str, over: str = SHOWN) -> str:
    """How much in all, by labels."""
    return total(by, f"increase({series(metric, matchers, *more)}[{over}])")


def share(part: str, whole: str) -> str:
    """`part` of `whole`; zero if there is a whole and no such part, and nothing without a whole."""
    return f"({part} or 0 * {whole}) / ({whole} > 0)"


def instead(of: str, matchers: str, **labels: str) -> str:
    """`of`, or where it is nothing a zero with these labels, which say so: an empty panel may mean anything."""
    known = "tidewaiter_api_info" if "api" in matchers else "tidewaiter_build_info"
    zero = f"0 * max({series(known, matchers)})"
    for label, text in labels.items():
        zero = f'label_replace({zero}, "{label}", "{text}", "", "")'
    return f"({of}) or ({zero} unless on () ({of}))"


def each(of: str, matchers: str) -> str:
    """`of`, by API, and no number for APIs that it is not known of: so that the same API is at the same place, and in the same colour."""
    return f"({of}) or NaN * max by (api) ({series('tidewaiter_api_packets_total', matchers)})"


def or_unknown(of: str, matchers: str) -> str:
    """`of`, or where it is nothing -1, which the panel has a word for."""
    known = "tidewaiter_api_info" if "api" in matchers else "tidewaiter_build_info"
    return f"({of}) or -1 * max({series(known, matchers)})"


def named(metric: str, matchers: str, **none: str) -> str:
    """How much a second, by the labels `none`, of what there was any in what is shown; if there was nothing, zero with those labels.

    For what has many names, most of which never come to anything.
    """
    by = ", ".join(none)
    shown = f"increase({series(metric, matchers)}[{SHOWN}] @ end())"
    return instead(f"{rate(by, metric, matchers)} and on ({by}) {total(by, shown)} > 0", matchers, **none)


def plain(label: str, metric: str, matchers: str) -> str:
    """How much a second, by a label, of what is only known of HTTP/1 without TLS; says so where there is nothing."""
    return instead(rate(label, metric, matchers), matchers, **{label: "no plain HTTP/1"})


def beside(**named: str) -> str:
    """Several sums as one expression, each with its name as the label `what`: those that are not known leave nothing empty."""
    found = (f'label_replace({of}, "what", "{name.replace("_", " ")}", "", "")' for name, of in named.items())
    return " or ".join(found)


def quantile(of_1: float, by: str, histogram: str, matchers: str, over: str = GRAPH) -> str:
    """A quantile, from classic histograms or, where Prometheus keeps those, from native ones. Nothing while there is nothing."""
    inner = f"{by}, le" if by else "le"
    classic = rate(inner, f"{histogram}_bucket", matchers, over=over)
    native = rate(by, histogram, matchers, over=over)
    return f"(histogram_quantile({of_1}, {classic}) or histogram_quantile({of_1}, {native})) >= 0"


def timed(by: str, histogram: str, matchers: str, over: str = GRAPH) -> str:
    """How many a second were put into a histogram, classic or native."""
    native = total(by, f"histogram_count(rate({series(histogram, matchers)}[{over}]))")
    return f"{rate(by, histogram + '_count', matchers, over=over)} or {native}"


def usual(of: str) -> str:
    """The median of `of` over the last hours."""
    return f"quantile_over_time(0.5, ({of})[{USUAL}])"


def errors(by: str, matchers: str, over: str = GRAPH) -> str:
    """The share of HTTP/1 responses that are server errors."""
    name = "tidewaiter_api_responses_total"
    return share(rate(by, name, matchers, 'code=~"5.."', over=over), rate(by, name, matchers, over=over))


def refused(by: str, matchers: str, over: str = GRAPH) -> str:
    """The share of attempts to connect that were refused."""
    part = rate(by, "tidewaiter_api_connections_refused_total", matchers, over=over)
    return share(part, rate(by, "tidewaiter_api_connection_attempts_total", matchers, over=over))


def ended(by: str, matchers: str, reason: str, over: str = GRAPH) -> str:
    """The share of connections that ended in this way."""
    name = "tidewaiter_api_connections_closed_total"
    return share(rate(by, name, matchers, f'reason="{reason}"', over=over), rate(by, name, matchers, over=over))


def retransmitted(by: str, matchers: str, over: str = GRAPH) -> str:
    """The share of transmitted packets that had to be sent again."""
    part = rate(by, "tidewaiter_api_retransmitted_packets_total", matchers, over=over)
    whole = rate(by, "tidewaiter_api_packets_total", matchers, 'direction="transmit"', over=over)
    return share(part, whole)


def busiest(by: str, matchers: str, over: str = NOW) -> str:
    """The share of bytes that the client with most of them has. They are told when a flow is over, or a minute of it."""
    name = "tidewaiter_client_bytes_total"
    each = rate(f"{by}, client" if by else "client", name, matchers, 'client!="other"', over=over)
    one = f"max by ({by}) ({each})" if by else f"max({each})"
    return share(one, rate(by, name, matchers, over=over))


def limited(by: str, matchers: str, over: str = GRAPH) -> str:
    """The share of packets that rules and blocks have taken, or would have. What they took is in no API's packets."""
    name = "tidewaiter_guard_packets_total"
    received = rate(by, "tidewaiter_api_packets_total", matchers, 'direction="receive"', over=over)
    taken = rate(by, name, matchers, 'verdict=~"drop|reject"', over=over)
    judged = rate(by, name, matchers, 'verdict=~"(would_)?(drop|reject)"', over=over)
    return f"{judged} / (({received} + ({taken} or 0 * {received})) > 0)"
