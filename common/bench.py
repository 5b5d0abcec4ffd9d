"""Timing two functions side by side: machines are noisy, so only ratios of neighbours in time are worth quoting."""
from __future__ import annotations

import statistics
from time import perf_counter


def seconds(function, runs=20, warm_up=3):
    """Median wall time of function() over `runs` calls, in seconds."""
    for _ in range(warm_up):
        function()
    return statistics.median(_once(function) for _ in range(runs))


def paired(plain, fast, runs=7):
    """(median seconds of plain, of fast, median of plain / fast), the two called in turn: A B A B ..."""
    plain(), fast()
    pairs = [(_once(plain), _once(fast)) for _ in range(runs)]
    return (statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs),
            statistics.median(a / b for a, b in pairs))


def in_turn(calls, runs):
    """{name: (median seconds, median of the ratio of the first one's seconds to these)} of {name: function}."""
    for call in calls.values():
        call()
    rounds = [{name: _once(call) for name, call in calls.items()} for _ in range(runs)]
    first = next(iter(calls))
    return {name: (statistics.median(times[name] for times in rounds),
                   statistics.median(times[first] / times[name] for times in rounds)) for name in calls}


def _once(function):
    start = perf_counter()
    function()
    return perf_counter() - start
