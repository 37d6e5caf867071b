"""Line charts as SVG, for pages: logarithmic upwards, text that a reader can search."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

WIDTH: Final = 860
HEIGHT: Final = 420
LEFT, RIGHT, TOP, BOTTOM = 70, 270, 44, 50
LEGEND_LINE: Final = 20
ENDS: Final = 1.15
"""Room above the highest and below the lowest point, as a factor."""


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


@dataclass
class Chart:
    """Lines over named places on the x axis, which are equally far apart."""

    title: str
    x_label: str
    y_label: str
    places: Sequence[tuple[float, str]]
    lines: Sequence[Line]
    _parts: list[str] = field(default_factory=list, init=False)

    def svg(self) -> str:
        values = [y for line in self.lines for _, y in line.points if y > 0]
        if not values:
            values = [1.0]
        self._low = math.log10(min(values) / ENDS)
        self._high = math.log10(max(values) * ENDS)
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'font-family="sans-serif" font-size="13" role="img">',
            f"<title>{escape(self.title)}</title>",
            # Pages may be dark; the lines are for a light ground.
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        ]
        self._text(LEFT, 24, self.title, size=16)
        self._axes()
        for number, line in enumerate(self.lines):
            self._line(line, TOP + 10 + number * LEGEND_LINE)
        return "\n".join([*self._parts, "</svg>", ""])

    def _x(self, value: float) -> float:
        at = [place for place, _ in self.places].index(value)
        return LEFT + (WIDTH - LEFT - RIGHT) * at / max(1, len(self.places) - 1)

    def _y(self, value: float) -> float:
        part = (math.log10(value) - self._low) / (self._high - self._low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * part

    def _axes(self) -> None:
        right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
        for place, name in self.places:
            x = self._x(place)
            self._stroke((x, TOP), (x, bottom), "#eee")
            self._text(x, bottom + 18, name, anchor="middle")
        for power in range(math.floor(self._low), math.ceil(self._high) + 1):
            for digit in (1, 2, 5):
                value = digit * 10.0**power
                if self._low <= math.log10(value) <= self._high:
                    y = self._y(value)
                    self._stroke((LEFT, y), (right, y), "#ddd" if digit == 1 else "#f0f0f0")
                    self._text(LEFT - 8, y + 4, number_text(value), anchor="end")
        self._stroke((LEFT, bottom), (right, bottom), "#333")
        self._stroke((LEFT, TOP), (LEFT, bottom), "#333")
        self._text((LEFT + right) / 2, HEIGHT - 10, self.x_label, anchor="middle")
        self._text(LEFT, TOP - 4, self.y_label, size=12)

    def _line(self, line: Line, legend_y: float) -> None:
        dash = ' stroke-dasharray="6 4"' if line.dashed else ""
        points = [(self._x(x), self._y(y)) for x, y in line.points if y > 0]
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._parts.append(
            f'<polyline points="{drawn}" fill="none" stroke="{line.colour}" '
            f'stroke-width="2"{dash}/>'
        )
        self._parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{line.colour}"/>' for x, y in points
        ]
        x = WIDTH - RIGHT + 14
        self._parts.append(
            f'<line x1="{x}" y1="{legend_y}" x2="{x + 26}" y2="{legend_y}" '
            f'stroke="{line.colour}" stroke-width="2"{dash}/>'
        )
        self._text(x + 32, legend_y + 4, line.name, size=12)

    def _stroke(self, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
        self._parts.append(
            f'<line x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}" '
            f'stroke="{colour}"/>'
        )

    def _text(
        self, x: float, y: float, text: str, *, anchor: str = "start", size: int = 13
    ) -> None:
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
            f'fill="#222">{escape(text)}</text>'
        )


def number_text(value: float) -> str:
    """A round number as an axis shows it."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:g}"
