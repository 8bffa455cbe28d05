"""Curves, sparklines and interval bars as inline SVG and HTML. Pure: values in, a string out; no plotting library.

Lines are drawn in a square of 1000 x 1000 units that the page stretches to any width, with strokes that keep their
thickness; numbers stand beside it as HTML, so they stay readable on a phone. Colours come from CSS classes alone.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Point = tuple[int, float]  # (step, value)
SIZE = 1000.0  # of the drawing square, in its own units
SPARK_POINTS = 60


@dataclass(frozen=True)
class Line:
    name: str  # shown in the legend and on hover
    css: str  # class: raw, smoothed, validation
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Scale:
    """Maps values to 0..1, linear or logarithmic.

    >>> Scale(0.0, 4.0)(1.0), Scale(0.1, 10.0, log=True)(1.0)
    (0.25, 0.5)
    """

    low: float
    high: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (self._bend(each) for each in (self.low, self.high, value))
        return 0.5 if high <= low else min(1.0, max(0.0, (value - low) / (high - low)))

    def _bend(self, value: float) -> float:
        return math.log10(max(value, 1e-9)) if self.log else value


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that enclose low..high, about `count` of them.

    >>> nice_ticks(0.37, 2.1)
    [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    """
    span = max(high - low, abs(high) * 1e-3, 1e-9)
    rough = span / max(1, count - 1)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * index, 10) for index in range(first, max(last, first + 1) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten that enclose low..high.

    >>> log_ticks(0.3, 2.1)
    [0.2, 0.5, 1.0, 2.0, 5.0]
    """
    low, high = max(low, 1e-6), max(high, 1e-6)
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    ticks = [round(base * 10.0**power, 10) for power in powers for base in (1, 2, 5)]
    below = [tick for tick in ticks if tick <= low][-1:]
    above = [tick for tick in ticks if tick >= high][:1]
    return below + [tick for tick in ticks if low < tick < high] + [tick for tick in above if tick not in below]


def curves(lines: Sequence[Line], last_step: int, *, label: str, empty: str = "") -> str:
    """A chart of several lines over steps, once with a linear and once with a logarithmic axis; CSS shows one.

    `last_step` is where the axis ends (0: not known yet), so that a curve grows into its place. `label` is what a
    screen reader says. Without points the axes stand already, with the words of `empty` in them.
    """
    drawn = [line for line in lines if line.points]
    values = [value for line in drawn for _, value in line.points] or [0.0, 3.0]
    last_step = max([last_step, *(step for line in drawn for step, _ in line.points)])
    plots = "".join(
        _plot(drawn, Scale(ticks[0], ticks[-1], log), ticks, last_step, "log" if log else "linear")
        for log, ticks in ((False, nice_ticks(min(values), max(values))), (True, log_ticks(min(values), max(values))))
    )
    words = f'<p class="curve-empty">{html.escape(empty)}</p>' if not drawn else ""
    data = _hover(drawn, last_step)
    hover = html.escape(json.dumps(data, separators=(",", ":"), allow_nan=False), quote=True)
    return (
        f'<div class="curve-area" {_read_along(data["steps"])} aria-label="{html.escape(label, quote=True)}" '
        f'data-hover="{hover}">{plots}{words}<div class="curve-cross"></div><div class="curve-tip"></div></div>'
    )


def _read_along(steps: Sequence[int]) -> str:
    """A chart with points is a slider over its steps, for the keyboard and a screen reader: one stop, however many
    points there are, and hardly any markup."""
    if not steps:
        return 'role="img"'
    first, last = steps[0], steps[-1]
    return f'role="slider" tabindex="0" aria-valuemin="{first}" aria-valuemax="{last}" aria-valuenow="{last}"'


def _plot(lines: Sequence[Line], scale: Scale, ticks: Sequence[float], last_step: int, kind: str) -> str:
    grid = "".join(f'<path class="grid" d="M0 {_y(scale, tick)}H{SIZE:g}"/>' for tick in ticks)
    paths = "".join(f'<path class="{line.css}" d="{_path(line.points, scale, last_step)}"/>' for line in lines)
    dots = "".join(  # a stroke of no length with round ends stays round however the square is stretched
        f'<path class="{line.css} dots" d="{_dots(line.points, scale, last_step)}"/>'
        for line in lines
        if line.css == "validation" or len(line.points) == 1
    )
    sides = "".join(
        f'<span style="top:{100 - 100 * scale(tick):.1f}%">{number(tick)}</span>' for tick in _thinned(ticks)
    )
    steps = (
        [tick for tick in nice_ticks(0, last_step, 6) if tick <= last_step and tick == int(tick)] if last_step else []
    )
    feet = "".join(f'<span style="left:{100 * tick / last_step:.1f}%">{int(tick):,}</span>' for tick in steps)
    return (
        f'<div class="curve-plot {kind}"><svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true">'
        f'{grid}{paths}{dots}</svg><div class="ticks-y">{sides}</div><div class="ticks-x">{feet}</div></div>'
    )


def _thinned(ticks: Sequence[float], most: int = 7) -> Sequence[float]:
    return ticks[:: math.ceil(len(ticks) / most)]


def _y(scale: Scale, value: float) -> str:
    return f"{SIZE - SIZE * scale(value):.1f}"


def _x(step: int, last_step: int) -> str:
    return f"{SIZE * step / last_step:.1f}"


def _path(points: Sequence[Point], scale: Scale, last_step: int) -> str:
    return "M" + "L".join(f"{_x(step, last_step)} {_y(scale, value)}" for step, value in points)


def _dots(points: Sequence[Point], scale: Scale, last_step: int) -> str:
    return "".join(f"M{_x(step, last_step)} {_y(scale, value)}h0" for step, value in points)


def _hover(lines: Sequence[Line], last_step: int) -> dict:
    """What the pointer can read: for each step the value of every line that has a point there."""
    steps = sorted({step for line in lines for step, _ in line.points})
    return {
        "last": last_step,
        "steps": steps,
        "lines": [
            {"name": line.name, "css": line.css, "values": [_at(dict(line.points), step) for step in steps]}
            for line in lines
        ],
    }


def _at(values: dict[int, float], step: int) -> float | None:
    return None if step not in values else round(values[step], 4)


def sparkline(points: Sequence[Point] | Sequence[float], label: str = "loss") -> str:
    """A small line without axes, for a row in a list."""
    values = [point[1] if isinstance(point, tuple) else float(point) for point in points]
    if len(values) < 2:
        return '<svg class="spark" viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true"></svg>'
    values = [*values[: -1 : math.ceil(len(values) / SPARK_POINTS)], values[-1]]
    scale = Scale(min(values), max(values))
    steps = [index * SIZE / (len(values) - 1) for index in range(len(values))]
    line = "L".join(f"{x:.0f} {60 + 880 * (1 - scale(value)):.0f}" for x, value in zip(steps, values, strict=True))
    words = html.escape(f"{label} from {number(values[0])} to {number(values[-1])}", quote=True)
    return (
        f'<svg class="spark" viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" aria-label="{words}">'
        f'<path d="M{line}"/></svg>'
    )


@dataclass(frozen=True)
class Bar:
    title: str
    css: str  # base, rival or tuned
    score: float  # 0..1
    low: float  # of the 95 % interval
    high: float
    says: str  # the score in words and units, such as "81%"
    interval: str  # the interval in words
    note: str = ""  # a quiet second line, such as the cost of a request
    help: str = ""  # how it was asked, folded under its name


def interval_bars(bars: Iterable[Bar]) -> str:
    """One row a rival: its name, a bar from 0 to its score with its interval as a whisker, and the numbers."""
    return '<div class="rivals" role="list">' + "".join(_bar(bar) for bar in bars) + "</div>"


def _bar(bar: Bar) -> str:
    score, low, high = (100 * min(1.0, max(0.0, value)) for value in (bar.score, bar.low, bar.high))
    note = f"<small>{html.escape(bar.note)}</small>" if bar.note else ""
    more = f"<details><summary>How it was asked</summary><p>{html.escape(bar.help)}</p></details>" if bar.help else ""
    return (
        f'<div class="rival {bar.css}" role="listitem">'
        f'<div class="rival-name">{html.escape(bar.title)}{note}{more}</div>'
        f'<div class="rival-track" aria-hidden="true"><i class="rival-fill" style="width:{score:.2f}%"></i>'
        f'<i class="rival-whisker" style="left:{low:.2f}%;width:{high - low:.2f}%"></i></div>'
        f'<div class="rival-says">{html.escape(bar.says)}<small>{html.escape(bar.interval)}</small></div></div>'
    )


def number(value: float) -> str:
    """A value as short as it can be said without lying.

    >>> [number(v) for v in (0.0, 0.05, 0.5, 2.5, 12.0)]
    ['0', '0.05', '0.5', '2.5', '12']
    """
    return f"{value:.4g}"


# A step of a chart, pointed at, touched or walked to with the arrow keys: its values and a hairline. Runs once for the
# element; the parts it touches are found anew each time, because the page patches the chart in place while it grows.
# That keeps the focus, and takes off what was set here: so the step is shown again after it.
HOVER_JS = """
let at = null;
const area = () => element.querySelector('.curve-area');
const stepsOf = (home) => JSON.parse(home.dataset.hover || '{"steps":[]}');
const plotOf = (home) => [...home.querySelectorAll('.curve-plot')].find((each) => each.offsetParent !== null);
const nearest = (steps, wanted) =>
  steps.reduce((best, step, i) => Math.abs(step - wanted) < Math.abs(steps[best] - wanted) ? i : best, 0);
const hide = () => { at = null; area()?.classList.remove('hovering'); };
const show = () => {
  const home = area();
  if (!home || at === null) return;
  const plot = plotOf(home), data = stepsOf(home);
  const tip = home.querySelector('.curve-tip'), cross = home.querySelector('.curve-cross');
  if (!plot || !data.steps.length) return;
  const best = nearest(data.steps, at), svg = plot.querySelector('svg').getBoundingClientRect();
  const left = svg.left - home.getBoundingClientRect().left + data.steps[best] / data.last * svg.width;
  const head = document.createElement('b');
  head.textContent = 'step ' + data.steps[best].toLocaleString('en');
  const said = [head.textContent];
  tip.replaceChildren(head);
  for (const line of data.lines) {
    if (line.values[best] === null) continue;
    const row = document.createElement('span'), value = document.createElement('em');
    row.className = line.css; row.textContent = line.name; value.textContent = line.values[best].toFixed(3);
    said.push(line.name + ' ' + value.textContent);
    row.append(value); tip.append(row);
  }
  home.setAttribute('aria-valuenow', data.steps[best]);
  home.setAttribute('aria-valuetext', said.join('; '));
  cross.style.left = left + 'px';
  tip.style.left = left + 'px';
  tip.classList.toggle('flip', left > home.offsetWidth * 0.6);
  home.classList.add('hovering');
};
const point = (event) => {
  const home = event.target.closest && event.target.closest('.curve-area'), plot = home && plotOf(home);
  if (!plot) { if (event.pointerType === 'mouse') hide(); return; }
  const svg = plot.querySelector('svg').getBoundingClientRect();
  at = (event.clientX - svg.left) / svg.width * stepsOf(home).last;
  show();
};
element.addEventListener('pointermove', point);
element.addEventListener('pointerdown', point);
element.addEventListener('pointerleave', (event) => { if (event.pointerType === 'mouse') hide(); });
element.addEventListener('focusin', (event) => {
  if (event.target !== area() || at !== null) return;
  at = stepsOf(event.target).steps.at(-1) ?? null;
  show();
});
element.addEventListener('focusout', (event) => { if (event.target === area()) hide(); });
element.addEventListener('keydown', (event) => {
  if (event.target !== area() || event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key === 'Escape') { hide(); return; }
  const steps = stepsOf(event.target).steps, now = at === null ? steps.length - 1 : nearest(steps, at);
  const moves = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10,
    Home: -Infinity, End: Infinity };
  if (!(event.key in moves) || !steps.length) return;
  event.preventDefault();
  at = steps[Math.min(steps.length - 1, Math.max(0, now + moves[event.key]))];
  show();
});
watch('value', show);
"""
