"""The page about the benchmark, docs/benchmarks.md, and its plots: made from a file of results."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from benchmarks.corosync.cases import (
    EMBEDDED,
    KB,
    LOAD_SIZE,
    Case,
    Load,
    Lost,
    Outcome,
    Part,
    size_text,
)
from benchmarks.corosync.peers import PEERS
from benchmarks.corosync.plot import Chart, Line

NOTHING: Final = "\N{EN DASH}"
TIMES: Final = "\N{MULTIPLICATION SIGN}"
COLLAPSED: Final = "it collapses"
COLLAPSE: Final = 0.5
"""Three senders that bring less than this part of what one brings: the ring has collapsed."""

COLOURS: Final = {
    "corosync-udp": "#c0392b",
    "corosync-udp-norr": "#e59866",
    "corosync-knet": "#7d3c98",
    "corosync-knet-aes": "#c39bd3",
    "vsync": "#1f618d",
    "vsync-speedups": "#154360",
    "vsync-key": "#148f77",
    "vsync-key-speedups": "#0b5345",
    "vsync-daemon": "#5dade2",
}
RATES_SVG: Final = "benchmarks-rates.svg"
BYTES_SVG: Final = "benchmarks-bytes.svg"
NODES_SVG: Final = "benchmarks-nodes.svg"


class Results:
    """All outcomes, asked for by peer and case."""

    def __init__(self, outcomes: Iterable[Outcome]) -> None:
        self._all = list(outcomes)
        self._found: dict[tuple[str, Case], list[Outcome]] = {}
        for outcome in self._all:
            self._found.setdefault((outcome.peer, outcome.case), []).append(outcome)

    def all(self) -> list[Outcome]:
        return self._all

    def cases(self, part: Part) -> list[Case]:
        """Those that were measured, in the order in which they were."""
        return list(dict.fromkeys(o.case for o in self._all if o.case.part is part))

    def peers(self, cases: Iterable[Case]) -> list[str]:
        """Those that took part in any of *cases*, in their usual order."""
        wanted = set(cases)
        return [name for name in PEERS if any((name, case) in self._found for case in wanted)]

    def tries(self, peer: str, case: Case) -> list[Outcome]:
        return self._found.get((peer, case), [])

    def good(self, peer: str, case: Case) -> list[Outcome]:
        """What succeeded, if that is most of it."""
        tries = self.tries(peer, case)
        good = [outcome for outcome in tries if outcome.failed is None]
        return good if 2 * len(good) > len(tries) else []

    def failure(self, peer: str, case: Case) -> str | None:
        """Why there is nothing to show."""
        tries = self.tries(peer, case)
        if not tries or self.good(peer, case):
            return None
        return next(outcome.failed for outcome in tries if outcome.failed is not None)

    def median(self, peer: str, case: Case, of: Callable[[Outcome], float]) -> float | None:
        good = self.good(peer, case)
        return statistics.median(map(of, good)) if good else None

    def ratio(
        self,
        above: tuple[str, Case],
        below: tuple[str, Case],
        of: Callable[[Outcome], float],
    ) -> float | None:
        """The median of the ratios within each try, where the machine was in the same mood."""
        divisors: dict[int, list[float]] = {}
        for outcome in self.good(*below):
            divisors.setdefault(outcome.attempt, []).append(of(outcome))
        ratios = [
            of(outcome) / divisor
            for outcome in self.good(*above)
            if outcome.attempt in divisors
            and (divisor := statistics.median(divisors[outcome.attempt]))
        ]
        return statistics.median(ratios) if ratios else None

    def spread(self) -> float | None:
        """How far the tries of one rate lie apart, as a part of their median: the median of all."""
        spreads = []
        for (_, case), outcomes in self._found.items():
            rates = [outcome.rate for outcome in outcomes if outcome.failed is None]
            if len(rates) > 1 and not case.probes and case.part is not Part.RAW:
                spreads.append((max(rates) - min(rates)) / statistics.median(rates))
        return statistics.median(spreads) if spreads else None


def rate(outcome: Outcome) -> float:
    return outcome.rate


def byte_rate(outcome: Outcome) -> float:
    return outcome.byte_rate


def cpu_a_million(outcome: Outcome) -> float:
    return outcome.cpu_s / (outcome.rate * outcome.seconds) * 1e6


def cpu_a_gigabyte(outcome: Outcome) -> float:
    return outcome.cpu_s / (outcome.byte_rate * outcome.seconds) * 1e9


def latency(name: str, *, own: bool = False) -> Callable[[Outcome], float]:
    return lambda outcome: (outcome.own_us if own else outcome.others_us).get(name, 0.0)


# --- text --------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table of Markdown; the first column is words, the others are numbers."""
    ruler = ["---", *("---:" for _ in head[1:])]
    return [f"| {' | '.join(cells)} |" for cells in (head, ruler, *rows)] + [""]


def times(ratio: float | None) -> str:
    if ratio is None:
        return NOTHING
    return f"{ratio:.{1 if ratio < 100 else 0}f} {TIMES}"


def percent(ratio: float | None) -> str:
    return NOTHING if ratio is None else f"{100 * ratio:.0f} %"


def count_text(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def titles(peers: Iterable[str]) -> list[str]:
    return [PEERS[peer].title for peer in peers]


def short(reason: str) -> str:
    """A reason as a cell of a table may have it; the whole is in the results."""
    return reason.split(":", 1)[0].replace("|", "/")[:60]


def cell(
    results: Results, peer: str, case: Case, of: Callable[[Outcome], float], pattern: str = ""
) -> str:
    """The median of a figure, or why there is none."""
    failure = results.failure(peer, case)
    if failure is not None:
        return short(failure)
    value = results.median(peer, case, of)
    if value is None:
        return NOTHING
    return format(value, pattern) if pattern else count_text(value)


# --- the parts of the page ---------------------------------------------------------------------


def rate_cases(results: Results, senders: int) -> list[Case]:
    return [case for case in results.cases(Part.RATE) if case.senders == senders]


def against(results: Results, above: str, below: str, case: Case) -> str:
    """How many times faster *above* is than *below*."""
    for peer in (above, below):
        failure = results.failure(peer, case)
        if failure is not None:
            return f"{PEERS[peer].title}: {short(failure)}"
    text = times(results.ratio((above, case), (below, case), rate))
    return f"{text} ({COLLAPSED})" if collapsed(results, below, case) else text


PAIRS: Final = (
    ("vsync", "corosync-udp"),
    ("vsync-speedups", "corosync-udp"),
    ("vsync", "corosync-udp-norr"),
    ("vsync", "corosync-knet"),
    ("vsync-key", "corosync-knet-aes"),
    ("vsync-key-speedups", "corosync-knet-aes"),
    ("vsync-daemon", "corosync-udp"),
)


def ratios(results: Results) -> list[str]:
    """How many times faster, and the other ratios."""
    lines = []
    for senders in (1, 3):
        cases = rate_cases(results, senders)
        if not cases:
            continue
        measured = results.peers(cases)
        pairs = [pair for pair in PAIRS if pair[0] in measured and pair[1] in measured]
        lines += [f"{'One node sends' if senders == 1 else 'All three send'}:", ""]
        lines += table(
            ["size", *(f"{PEERS[a].title} ÷ {PEERS[b].title}" for a, b in pairs)],
            [
                [size_text(case.size), *(against(results, *p, case) for p in pairs)]
                for case in cases
            ],
        )
    rows = other_ratios(results)
    if rows:
        lines += ["Other ratios:", "", *table(["", "ratio"], rows)]
    return lines


def other_ratios(results: Results) -> list[list[str]]:
    rows = []

    def add(what: str, ratio: float | None) -> None:
        if ratio is not None:
            rows.append([what, f"{ratio:.2f}"])

    for size in (KB, 64 * KB):
        one = Case(part=Part.RATE, size=size, senders=1)
        three = Case(part=Part.RATE, size=size, senders=3)
        text = size_text(size)
        for peer in (*EMBEDDED, "corosync-udp", "corosync-knet"):
            add(
                f"{PEERS[peer].title}, {text}: three senders ÷ one",
                results.ratio((peer, three), (peer, one), byte_rate),
            )
        add(
            f"vsync, {text}, one sender: through the daemon ÷ embedded",
            results.ratio(("vsync-daemon", one), ("vsync", one), rate),
        )
    for case in results.cases(Part.RAW):
        for peer in (*EMBEDDED, "corosync-udp"):
            add(
                f"{PEERS[peer].title}, 64 KB, one sender: bytes ÷ those of the bare program",
                results.ratio(
                    (peer, Case(part=Part.RATE, size=case.size)), ("raw", case), byte_rate
                ),
            )
    for case in results.cases(Part.LATENCY):
        for name in ("p50", "p99"):
            if case.guarantee == "agreed":
                for peer in EMBEDDED:
                    title = PEERS[peer].title
                    add(
                        f"agreed latency, {load_text(case.load)}, {name}: {title} ÷ Corosync udp",
                        results.ratio((peer, case), ("corosync-udp", case), latency(name)),
                    )
    for case in results.cases(Part.LOSS):
        if case.loss_percent and not case.probes and case.size == LOAD_SIZE and case.lost:
            none = loss_free(case)
            add(
                f"vsync, {size_text(case.size)}, {sender_text(case.senders)}: "
                f"{case.loss_percent:g} % lost ÷ none lost ({LOST_TEXT[case.lost]})",
                results.ratio(("vsync", case), ("vsync", none), rate),
            )
    return rows


LOST_TEXT: Final = {
    Lost.PACKETS: "single packets",
    Lost.BURSTS: "whole bursts",
    Lost.FAULT: "by the transport fault",
}


def loss_free(case: Case) -> Case:
    return Case(part=Part.LOSS, size=case.size, senders=case.senders, lost=case.lost)


def load_text(load: Load) -> str:
    return {
        Load.NONE: "idle",
        Load.HALF: "at half of its own full rate",
        Load.EQUAL: "at half of Corosync udp's full rate",
    }[load]


def sender_text(senders: int) -> str:
    return "one sender" if senders == 1 else f"{senders} senders"


def rates(results: Results) -> list[str]:
    lines = []
    for senders in (1, 3):
        cases = rate_cases(results, senders)
        if not cases:
            continue
        peers = results.peers(cases)
        lines += [f"Messages a second, {sender_text(senders)}:", ""]
        lines += table(
            ["size", *titles(peers)],
            [
                [size_text(case.size), *(rate_cell(results, peer, case) for peer in peers)]
                for case in cases
            ],
        )
        lines += [f"Megabytes a second, {sender_text(senders)}:", ""]
        lines += table(
            ["size", *titles(peers)],
            [
                [
                    size_text(case.size),
                    *(cell(results, p, case, lambda o: o.byte_rate / 1e6) for p in peers),
                ]
                for case in cases
            ],
        )
    return lines


def rate_cell(results: Results, peer: str, case: Case) -> str:
    text = cell(results, peer, case, rate)
    return f"{text} ({COLLAPSED})" if collapsed(results, peer, case) else text


def collapsed(results: Results, peer: str, case: Case) -> bool:
    """Whether several senders bring much less than one does."""
    one = Case(part=Part.RATE, size=case.size, senders=1)
    ratio = results.ratio((peer, case), (peer, one), rate)
    return case.senders > 1 and ratio is not None and ratio < COLLAPSE


def costs(results: Results) -> list[str]:
    lines = []
    for senders in (1, 3):
        cases = rate_cases(results, senders)
        if not cases:
            continue
        peers = results.peers(cases)
        lines += [
            f"Seconds of processor a million messages / a gigabyte, {sender_text(senders)}:",
            "",
        ]
        rows = []
        for case in cases:
            cells = []
            for peer in peers:
                million = cell(results, peer, case, cpu_a_million)
                gigabyte = cell(results, peer, case, cpu_a_gigabyte)
                cells.append(million if million == gigabyte else f"{million} / {gigabyte}")
            rows.append([size_text(case.size), *cells])
        lines += table(["size", *titles(peers)], rows)
    return lines


LATENCY_HEAD: Final = (
    *("", "load, messages/s", "others p50", "p99", "p99.9"),
    *("sender p50", "p99", "p99.9", "CPU, cores"),
)


def latency_rows(results: Results, case: Case) -> list[list[str]]:
    rows = []
    for peer in results.peers([case]):
        failure = results.failure(peer, case)
        if failure is not None:
            rows.append([PEERS[peer].title, short(failure), *[NOTHING] * 7])
            continue
        load = NOTHING
        if case.load is not Load.NONE:
            load = cell(results, peer, case, lambda o: o.accepted)
        rows.append(
            [
                PEERS[peer].title,
                load,
                *(
                    cell(results, peer, case, latency(name, own=own), ".0f")
                    for own in (False, True)
                    for name in ("p50", "p99", "p99.9")
                ),
                cell(results, peer, case, lambda o: o.cpu_s / o.seconds, ".2f"),
            ]
        )
    return rows


def latencies(results: Results) -> list[str]:
    lines = []
    for case in results.cases(Part.LATENCY):
        lines += [f"{case.guarantee.capitalize()}, {load_text(case.load)}, in microseconds:", ""]
        lines += table(LATENCY_HEAD, latency_rows(results, case))
    return lines


def losses(results: Results) -> list[str]:
    lines = []
    cases = results.cases(Part.LOSS)
    percents = sorted({case.loss_percent for case in cases if not case.probes})
    rows = []
    for base in dict.fromkeys(loss_free(case) for case in cases if not case.probes):
        assert base.lost is not None
        here = [case for case in cases if not case.probes and loss_free(case) == base]
        for peer in results.peers(here):
            cells = []
            for percents_lost in percents:
                case = replace(base, loss_percent=percents_lost)
                text = cell(results, peer, case, rate)
                ratio = results.ratio((peer, case), (peer, base), rate) if percents_lost else None
                cells.append(text if ratio is None else f"{text} ({percent(ratio)})")
            rows.append(
                [
                    f"{PEERS[peer].title}, {size_text(base.size)}, {sender_text(base.senders)}",
                    LOST_TEXT[base.lost],
                    *cells,
                ]
            )
    if rows:
        lines += ["Messages a second, and what part of the same without loss that is:", ""]
        lines += table(["", "lost are", *(f"{each:g} %" for each in percents)], rows)
    for case in cases:
        if case.probes:
            lines += [
                f"{case.guarantee.capitalize()} latency, idle, {case.loss_percent:g} % of single "
                "packets lost, in microseconds:",
                "",
                *table(LATENCY_HEAD, latency_rows(results, case)),
            ]
    return lines


def by_nodes(results: Results) -> list[str]:
    cases = results.cases(Part.NODES)
    if not cases:
        return []
    peers = results.peers(cases)
    rows = []
    for nodes in sorted({case.nodes for case in cases}):
        row = [str(nodes)]
        for senders in (1, nodes):
            case = Case(part=Part.NODES, nodes=nodes, senders=senders)
            row += [
                *(cell(results, peer, case, rate) for peer in peers),
                times(results.ratio(("vsync", case), ("corosync-udp", case), rate)),
            ]
        rows.append(row)
    head = [f"{title}, {who}" for who in ("one", "all") for title in (*titles(peers), "ratio")]
    return [
        "Messages of 1 KB a second, with one node or all sending:",
        "",
        *table(["nodes", *head], rows),
    ]


# --- plots -------------------------------------------------------------------------------------


def size_chart(results: Results, title: str, label: str, of: Callable[[Outcome], float]) -> Chart:
    sizes = sorted({case.size for case in results.cases(Part.RATE)})
    lines = []
    for peer in results.peers(results.cases(Part.RATE)):
        for senders in (1, 3):
            points = []
            for size in sizes:
                value = results.median(peer, Case(part=Part.RATE, size=size, senders=senders), of)
                if value is not None:
                    points.append((float(size), value))
            if points:
                name = f"{PEERS[peer].title}{'' if senders == 1 else ', 3 send'}"
                lines.append(Line(name, COLOURS[peer], points, dashed=senders != 1))
    places = [(float(size), size_text(size)) for size in sizes]
    return Chart(title, "size of a message", label, places, lines)


def nodes_chart(results: Results) -> Chart:
    cases = results.cases(Part.NODES)
    counts = sorted({case.nodes for case in cases})
    lines = []
    for peer in results.peers(cases):
        for everybody in (False, True):
            points = []
            for nodes in counts:
                case = Case(part=Part.NODES, nodes=nodes, senders=nodes if everybody else 1)
                value = results.median(peer, case, rate)
                if value is not None:
                    points.append((float(nodes), value))
            if points:
                name = f"{PEERS[peer].title}, {'all send' if everybody else 'one sends'}"
                lines.append(Line(name, COLOURS[peer], points, dashed=everybody))
    places = [(float(nodes), str(nodes)) for nodes in counts]
    title = "Messages of 1 KB a second, by number of nodes; all share the processors"
    return Chart(title, "nodes", "messages/s, slowest receiver", places, lines)


def charts(results: Results) -> dict[str, Chart]:
    """The plots, by the names of their files."""
    return {
        RATES_SVG: size_chart(
            results,
            "Messages a second, delivered at the slowest of three nodes",
            "messages/s",
            rate,
        ),
        BYTES_SVG: size_chart(
            results,
            "Megabytes a second, delivered at the slowest of three nodes",
            "MB/s",
            lambda outcome: outcome.byte_rate / 1e6,
        ),
        NODES_SVG: nodes_chart(results),
    }


# --- the page ----------------------------------------------------------------------------------

TEMPLATE: Final = Path(__file__).with_name("page.template")
UNMEASURED: Final = "Not measured in this run."


def machine_lines(found: dict[str, Any], results: Results) -> list[str]:
    lines = [f"- {name}: {value}" for name, value in found["machine"].items()]
    tries: dict[Case, int] = {}
    for outcome in results.all():
        tries[outcome.case] = max(outcome.attempt, tries.get(outcome.case, 0))
    fewest, most = min(tries.values(), default=0), max(tries.values(), default=0)
    count = f"{most}" if fewest == most else f"{fewest} to {most}"
    lines += [f"- {count} tries of {found['seconds']:g} s each"]
    disturbed = sorted(outcome.disturbed for outcome in results.all() if outcome.rates)
    if disturbed:
        lines += [
            f"- other work on the machine: {statistics.median(disturbed):.2f} processors just "
            f"before a measurement (median), {disturbed[-1]:.2f} at most"
        ]
    spread = results.spread()
    if spread is not None:
        lines += [
            f"- noise: the tries of one rate lie {100 * spread:.0f} % of their median apart "
            "(the median of all cases)"
        ]
    return lines


def page_text(found: dict[str, Any], results: Results) -> str:
    text = TEMPLATE.read_text()
    for name, lines in {
        "ratios": ratios(results),
        "machine": machine_lines(found, results),
        "rates": rates(results),
        "costs": costs(results),
        "latencies": latencies(results),
        "losses": losses(results),
        "by_nodes": by_nodes(results),
    }.items():
        text = text.replace(f"{{{{{name}}}}}", "\n".join(lines or [UNMEASURED]).strip())
    return text


def summary_text(outcomes: Sequence[Outcome]) -> str:
    """What a terminal shows at the end."""
    return "\n".join(ratios(Results(outcomes)))


def write(page: Path, found: dict[str, Any], outcomes: Sequence[Outcome]) -> list[Path]:
    """Write the page and its plots; gives their paths."""
    results = Results(outcomes)
    written = [page]
    page.write_text(page_text(found, results))
    for name, chart in charts(results).items():
        path = page.with_name(name)
        path.write_text(chart.svg())
        written.append(path)
    return written
