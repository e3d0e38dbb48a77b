"""One table of colours by meaning: the same thing has the same colour on every dashboard.

Names are Grafana's, which has a shade of each for the dark and the light theme. Red, orange and yellow always mean that
something is wrong or refused, green that it is well or let in.
"""

GOOD = "green"
LOOK = "yellow"
BAD = "red"
QUIET = "text"  # figures that are neither good nor bad
USUAL = "#8E8E8E"  # what is usual, beside what is now

# Which way, as this host sees it.
RECEIVE = "#2FA8A0"
TRANSMIT = "#C98B5A"

# Shades of one colour, the darker the rarer.
QUANTILES = {"p50": "super-light-blue", "p95": "blue", "p99": "dark-blue"}

# Whose trouble it is.
SERVICE = "red"
NETWORK = "purple"
TRAFFIC = "orange"

# What a rule has decided; what it would have, in a lighter shade.
VERDICTS = {
    "pass": "green",
    "drop": "red",
    "reject": "orange",
    "mark": "blue",
    "would_drop": "light-red",
    "would_reject": "light-orange",
    "would_mark": "light-blue",
}

# Classes of status codes.
CODES = {"2": "green", "3": "blue", "4": "yellow", "5": "red"}

# How connections end.
ENDS = {"fin": "green", "reset": "orange", "idle": "purple"}

# Kinds of anomalies: what is meant to hurt is red, who looks around purple, what makes no sense yellow.
KINDS = {
    "syn_flood": "red",
    "icmp_flood": "dark-red",
    "amplification": "light-red",
    "connection_churn": "orange",
    "port_scan": "purple",
    "unexpected_payload": "yellow",
    "unexpected_protocol": "dark-yellow",
    "bad_tcp_flags": "light-purple",
    "land": "dark-purple",
    "malformed": "light-yellow",
    "tiny_fragment": "light-orange",
    "overlapping_fragment": "dark-orange",
}

# What became of a request to a collector.
OUTCOMES = {"success": "green", "partial": "yellow", "retried": "orange", "rejected": "red"}
