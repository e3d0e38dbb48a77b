"""Response and handshake times as histograms with bounds at powers of two of a second, as the exporter writes them."""

import math
import random
from bisect import bisect_left
from functools import lru_cache

BELOW, ABOVE = 3, 7
"""Bounds around the median that are written. The exporter has 29; those far away never differ from their neighbours."""


def bounds(median: float) -> tuple[float, ...]:
    """The bounds around `median`, without infinity."""
    middle = math.floor(math.log2(median))
    return tuple(2.0**power for power in range(middle - BELOW, middle + ABOVE + 1))


@lru_cache(maxsize=100_000)
def shares(limits: tuple[float, ...], centre: int, spread: float, slow: float) -> tuple[float, ...]:
    """The share of times up to each of `limits`, and 1: log-normal, `centre` is the median's logarithm in fiftieths; of a share
    `slow` of them it is a twentyfold."""

    def below(limit: float, shift: float) -> float:
        return 0.5 * (1 + math.erf((math.log(limit) - centre / 50 - shift) / spread / math.sqrt(2)))

    cumulated = [(1 - slow) * below(limit, 0) + slow * below(limit, math.log(20)) for limit in limits]
    return (*cumulated, 1.0)


def draw(chance: random.Random, limits: tuple[float, ...], count: int, median: float, spread: float, slow: float) -> list[int]:
    """How many of `count` times are up to each of `limits`, cumulated, and all of them."""
    cumulated = shares(limits, round(math.log(median) * 50), spread, slow)
    found = [0] * len(cumulated)
    if count <= 40:
        for _ in range(count):
            found[bisect_left(cumulated, chance.random())] += 1
    else:  # each bucket's share of what is left: binomial, by its normal approximation
        left, share_left, before = count, 1.0, 0.0
        for place, share in enumerate(cumulated):
            part = min(1.0, (share - before) / share_left) if share_left > 1e-12 else 0.0
            mean = left * part
            number = round(chance.gauss(mean, math.sqrt(mean * (1 - part)))) if part < 1 else left
            found[place] = max(0, min(left, number))
            left, share_left, before = left - found[place], share_left - (share - before), share
        found[-1] += left
    for place in range(1, len(found)):
        found[place] += found[place - 1]
    return found
