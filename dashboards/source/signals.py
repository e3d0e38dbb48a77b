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
# Of those that tried to connect so many must have got an answer: in a flood of forged addresses others do not, and what is sent to
# those again is not the network's fault.
ANSWERED = 0.5
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
        Signal(f"slow answers (p95 above {SLOWER} times the usual and {1000 * FLOOR:.0f} ms)", _slow(e.RESPONSE, matchers)),
        Signal(
            f"server errors (above {ERRORS[1]:.0%} of HTTP/1 responses)", f"{e.errors('api', matchers, e.NOW)} > bool {ERRORS[1]}"
        ),
        Signal(
            f"refused connections (above {REFUSED[1]:.0%} of attempts)",
            f"{e.refused('api', matchers, e.NOW)} > bool {REFUSED[1]}",
        ),
    ]


def network(matchers: str) -> list[Signal]:
    """What the way between this host and the other end does."""
    tried, opened, refused = (
        e.rate("api", f"tidewaiter_api_connection{name}_total", matchers, over=e.NOW)
        for name in ("_attempts", "s_opened", "s_refused")
    )
    again = f"{e.retransmitted('api', matchers, e.NOW)} > bool {RETRANSMITTED[1]}"
    return [
        Signal(f"slow handshakes (p95 above {SLOWER} times the usual and {1000 * FLOOR:.0f} ms)", _slow(e.HANDSHAKE, matchers)),
        Signal(
            f"retransmissions (above {RETRANSMITTED[1]:.0%} of packets)",
            f"({again}) * ({opened} + {refused} >= bool {ANSWERED} * {tried})",
        ),
    ]


def traffic(matchers: str) -> list[Signal]:
    """What comes in."""
    attempts = e.rate("api", "tidewaiter_api_connection_attempts_total", matchers, over=e.NOW)
    received = e.rate("api", "tidewaiter_api_packets_total", matchers, 'direction="receive"', over=e.NOW)
    return [
        Signal("anomalies", f"{e.increase('api', 'tidewaiter_anomalies_total', matchers, over=e.NOW)} > bool 0"),
        Signal(
            f"a surge of attempts to connect (above {SURGE} times the usual and {SURGE_FLOOR} a second)",
            f"{attempts} > bool {SURGE} * {e.usual(attempts)} + {SURGE_FLOOR}",
        ),
        Signal(
            "silence (nothing received, where something usually is)", f"({received} == bool 0) * ({e.usual(received)} > bool 1)"
        ),
    ]


def off(signals: list[Signal], matchers: str) -> str:
    """How many of `signals` are off, of each API that is configured or discovered."""
    none = f"0 * max by (api) ({e.series('tidewaiter_api_info', matchers)})"
    return " + ".join(f"(({signal.expression}) or {none})" for signal in signals)


def words(signals: list[Signal]) -> str:
    """Their names in a row."""
    return ", ".join(signal.name for signal in signals)
