"""What "in trouble" means: signals of an API, each 1 while it is off and 0 while it is not, and whose trouble each speaks of.

Thresholds stand here and nowhere else; columns and lines of the dashboards use them too. They are for looking, not for waking
people: the rules in alerts/ have their own.
"""

from dataclasses import dataclass

from . import expressions as e

# Above this share of answers the service fails; one in a hundred is worth a look.
ERRORS = (0.01, 0.05)
# Where nobody listens all attempts are refused; some are whenever a service restarts.
REFUSED = (0.01, 0.05)
# Some clients and balancers end every connection by a reset; an API that did not and does is in trouble.
RESET = (0.1, 0.25)
# Healthy ways lose less than one segment in a hundred; at two in a hundred TCP is several times as slow.
RETRANSMITTED = (0.01, 0.02)
# Connections of which nothing more was seen: hosts that vanish, ways that break.
VANISHED = (0.05, 0.2)
# So many times the usual; what is faster than the floor (seconds) may double for no reason at all.
SLOWER, FLOOR = 2, 0.02
# So many times the usual attempts to connect, and so many a second more.
SURGE, SURGE_FLOOR = 3, 10
# A client with so large a share of an API's bytes is one that a limit for each client would hold.
BUSIEST = (0.5, 0.8)


@dataclass(frozen=True)
class Signal:
    """One of them; `expression` has the label `api` and is 0 or 1, or is not there if it cannot be known."""

    name: str
    expression: str


def _slow(histogram: str, matchers: str) -> str:
    now = e.quantile(0.95, "api", histogram, matchers, over=e.NOW)
    return f"({now}) > bool {SLOWER} * {e.usual(now)} + {FLOOR}"


def service(matchers: str) -> list[Signal]:
    """What the service itself does."""
    return [
        Signal("slow answers", _slow(e.RESPONSE, matchers)),
        Signal("server errors", f"{e.errors('api', matchers, e.NOW)} > bool {ERRORS[1]}"),
        Signal("refused connections", f"{e.refused('api', matchers, e.NOW)} > bool {REFUSED[1]}"),
    ]


def network(matchers: str) -> list[Signal]:
    """What the way between this host and the other end does."""
    return [
        Signal("slow handshakes", _slow(e.HANDSHAKE, matchers)),
        Signal("retransmissions", f"{e.retransmitted('api', matchers, e.NOW)} > bool {RETRANSMITTED[1]}"),
        Signal("vanished connections", f"{e.ended('api', matchers, 'idle', e.NOW)} > bool {VANISHED[1]}"),
    ]


def traffic(matchers: str) -> list[Signal]:
    """What comes in."""
    attempts = e.rate("api", "tidewaiter_api_connection_attempts_total", matchers, over=e.NOW)
    received = e.rate("api", "tidewaiter_api_packets_total", matchers, 'direction="receive"', over=e.NOW)
    return [
        Signal("anomalies", f"{e.increase('api', 'tidewaiter_anomalies_total', matchers, over=e.NOW)} > bool 0"),
        Signal("a surge of attempts", f"{attempts} > bool {SURGE} * {e.usual(attempts)} + {SURGE_FLOOR}"),
        Signal("silence", f"({received} == bool 0) * ({e.usual(received)} > bool 1)"),
    ]


def off(signals: list[Signal], matchers: str) -> str:
    """How many of `signals` are off, of each API that is configured or discovered."""
    none = f"0 * max by (api) ({e.series('tidewaiter_api_info', matchers)})"
    return " + ".join(f"(({signal.expression}) or {none})" for signal in signals)


def words(signals: list[Signal]) -> str:
    """Their names in a row."""
    return ", ".join(signal.name for signal in signals)
