"""Charts of the report, by Bokeh: a well-kept library whose script can be put into the page.

Text and axes are of a grey that reads on a light and on a dark page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Okabe and Ito's colours (told apart by the colour-blind), then darker ones for many arms
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7b5fc4")
_COLORS += ("#b03060", "#5f9ea0", "#6b8e23", "#a0522d", "#4169e1", "#c71585", "#2e8b57", "#b8860b")
_GREY = "#80868c"


def color_of(index: int) -> str:
    """An arm's colour, the same in every chart."""
    return _COLORS[index % len(_COLORS)]


@dataclass(frozen=True)
class Series:
    """A curve with an optional band; None is a gap."""

    name: str
    color: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


class Charts:
    """Draws charts and keeps them, as data, until the page is put together.

    A name may be anything: Bokeh takes markup, mathematics and column names from the templates of a
    hover and from the text of an axis, but not from the values that a template's `$name` stands for.
    """

    def __init__(self) -> None:
        self.drawn: list[Any] = []

    def curves(
        self,
        series: Sequence[Series],
        x: str,
        y: str,
        *,
        height: int = 360,
        hover: bool = True,
        log: bool = False,
    ) -> str:
        """Name of a chart of curves; each can be hovered over, unless the page would grow too large.

        With `log` heights are logarithmic, and what is not above zero is a gap.
        """
        from bokeh.models import CDSView, ColumnDataSource, HoverTool, Line, Scatter, VArea

        scale = "log" if log else "auto"
        figure, (columns, places) = _figure(x, y, height, y_axis_type=scale), columns_of(series)
        # one source for all: a page of many arms stays small
        source, view = ColumnDataSource(columns), CDSView()
        for k, one in enumerate(series):
            at, to, low, high = places[k], f"y{k}", f"low{k}", f"high{k}"
            tips = [("", "$name"), (x, f"@{at}{{0,0.[00]}}"), (y, f"@{to}{{0,0.[0000]}}")]
            drawn: list[Any] = [Line(x=at, y=to, line_color=one.color, line_width=2)]
            if low in columns:
                tips.append(("95%", f"[@{low}{{0,0.[0000]}}, @{high}{{0,0.[0000]}}]"))
                drawn.append(VArea(x=at, y1=low, y2=high, fill_color=one.color, fill_alpha=0.15))
            if hover:
                drawn.append(
                    Scatter(x=at, y=to, size=5, fill_color=one.color, line_color=one.color)
                )
            for glyph in drawn:
                figure.add_glyph(source, glyph, view=view, name=one.name)
            if hover:
                dots = [figure.renderers[-1]]
                figure.add_tools(HoverTool(renderers=dots, tooltips=tips, mode="mouse"))
        return self._keep(figure)

    def forest(self, rows: Sequence[tuple[str, str, Mapping[str, float | None]]]) -> str:
        """Name of a chart of intervals around zero, a row each; given in shares, shown in percent."""
        from bokeh.models import ColumnDataSource, FactorRange, HoverTool, Span

        names = [name for name, _, _ in rows]
        figure = _figure(
            "difference in %", "", 90 + 32 * len(rows), y_range=FactorRange(factors=names[::-1])
        )
        figure.add_layout(
            Span(location=0, dimension="height", line_color=_GREY, line_dash="dashed")
        )
        reach = 1.0
        for name, color, found in rows:
            percent = {key: 100 * x for key, x in found.items() if x is not None}
            reach = max(reach, *map(abs, percent.values()))
            source = ColumnDataSource(
                {"name": [name], **{k: _rounded([v]) for k, v in percent.items()}}
            )
            told = "@estimate{+0.0}%"
            drawn = []
            if "low" in percent:
                told += " [@low{+0.0}%, @high{+0.0}%]"
                line = figure.segment(
                    "low", "name", "high", "name", source=source, color=color, width=3
                )
                drawn.append(line)
            drawn.append(figure.scatter("estimate", "name", source=source, color=color, size=10))
            for renderer in drawn:
                renderer.name = name
            tips = [("", "$name"), ("difference", told)]
            figure.add_tools(HoverTool(renderers=drawn, tooltips=tips))
        figure.x_range.start, figure.x_range.end = -1.1 * reach, 1.1 * reach  # zero in the middle
        return self._keep(figure)

    def library(self) -> str:
        """The script that draws them."""
        from bokeh.resources import Resources

        return "\n".join(Resources(mode="inline", components=["bokeh"]).js_raw)

    def _keep(self, figure: Any) -> str:
        from bokeh.embed import json_item

        self.drawn.append(json_item(figure))
        return f"chart-{len(self.drawn) - 1}"


def _rounded(values: Sequence[float | None]) -> list[float]:
    """Five digits are enough to draw, and a page of many charts stays small; None is a gap."""
    return [float("nan") if value is None else float(f"{value:.5g}") for value in values]


def columns_of(series: Sequence[Series]) -> tuple[dict[str, Any], list[str]]:
    """What to draw in columns of one length, y0, low0, high0, y1, ..., and each curve's column of x."""
    longest = max(len(one.x) for one in series) if series else 0
    columns: dict[str, Any] = {}
    places: dict[tuple[float, ...], str] = {}  # curves at the same places share them
    for k, one in enumerate(series):
        x = tuple(one.x)
        names = {"y": one.y, "low": one.low, "high": one.high}
        if x not in places:
            places[x] = f"x{k}"
            names["x"] = x
        for name, values in names.items():
            if values is not None:
                columns[f"{name}{k}"] = _rounded([*values, *[None] * (longest - len(values))])
    return columns, [places[tuple(one.x)] for one in series]


def _figure(x: str, y: str, height: int, **options: Any) -> Any:
    from bokeh.models import NumeralTickFormatter, PlainText
    from bokeh.plotting import figure

    made = figure(
        height=height,
        sizing_mode="stretch_width",
        tools="pan,box_zoom,wheel_zoom,reset,save",
        toolbar_location="above",
        active_drag=None,
        x_axis_label=PlainText(text=x),
        y_axis_label=PlainText(text=y),
        background_fill_alpha=0.0,
        border_fill_alpha=0.0,
        outline_line_color=None,
        **options,
    )
    made.toolbar.logo = None
    made.toolbar.autohide = True
    made.grid.grid_line_color = _GREY
    made.grid.grid_line_alpha = 0.2
    made.axis.axis_line_color = made.axis.major_tick_line_color = _GREY
    made.axis.minor_tick_line_color = None
    made.axis.major_label_text_color = made.axis.axis_label_text_color = _GREY
    made.axis.axis_label_text_font_style = "normal"
    if x == "environment steps":
        # the page's script tells them as 200k, 1.5M: Bokeh's own million is a small m, and a script
        # that comes with a chart needs a page that evaluates text
        made.xaxis.formatter = NumeralTickFormatter()
    return made
