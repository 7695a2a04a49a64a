"""Charts of the report, by Bokeh: a well-kept library whose script can be put into the page.

Text and axes are of a grey that reads on a light and on a dark page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Okabe and Ito's colours (told apart by the colour-blind), then darker ones for many arms
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7b5fc4")
_COLORS += ("#b03060", "#5f9ea0", "#6b8e23", "#a0522d")
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
    """Draws charts and keeps them until the page is put together."""

    def __init__(self) -> None:
        self._figures: list[Any] = []
        self._slots: list[str] = []

    def curves(self, series: Sequence[Series], x: str, y: str, *, height: int = 360) -> str:
        """HTML of a chart of curves; each can be hovered over."""
        from bokeh.models import ColumnDataSource, HoverTool

        figure = _figure(x, y, height)
        for one in series:
            columns: dict[str, Any] = {"x": list(one.x), "y": [_gap(v) for v in one.y]}
            tips = [("", one.name), (x, "@x{0,0.[00]}"), (y, "@y{0,0.[0000]}")]
            tags = [f"arm:{one.name}"]
            if one.low is not None and one.high is not None:
                columns |= {"low": list(one.low), "high": list(one.high)}
                tips.append(("95%", "[@low{0,0.[0000]}, @high{0,0.[0000]}]"))
            source = ColumnDataSource(columns)
            if one.low is not None:
                band = figure.varea("x", "low", "high", source=source, color=one.color, alpha=0.15)
                band.tags = tags
            line = figure.line("x", "y", source=source, color=one.color, width=2)
            dots = figure.scatter("x", "y", source=source, color=one.color, size=5, alpha=0.8)
            line.tags = dots.tags = tags
            figure.add_tools(HoverTool(renderers=[dots], tooltips=tips, mode="mouse"))
        return self._keep(figure)

    def forest(self, rows: Sequence[tuple[str, str, Mapping[str, float]]]) -> str:
        """HTML of a chart of intervals around zero, a row each; given in shares, shown in percent."""
        from bokeh.models import ColumnDataSource, FactorRange, HoverTool, Span

        names = [name for name, _, _ in rows]
        figure = _figure(
            "difference in %",
            "",
            90 + 32 * len(rows),
            y_range=FactorRange(*reversed(names)),
        )
        figure.add_layout(
            Span(location=0, dimension="height", line_color=_GREY, line_dash="dashed")
        )
        for name, color, found in rows:
            percent = {key: [100 * found[key]] for key in ("estimate", "low", "high")}
            source = ColumnDataSource({"name": [name], **percent})
            line = figure.segment(
                "low", "name", "high", "name", source=source, color=color, width=3
            )
            dot = figure.scatter("estimate", "name", source=source, color=color, size=10)
            line.tags = dot.tags = [f"arm:{name}"]
            tips = [("", "@name"), ("difference", "@estimate{+0.0}% [@low{+0.0}%, @high{+0.0}%]")]
            figure.add_tools(HoverTool(renderers=[dot, line], tooltips=tips))
        return self._keep(figure)

    def embedded(self) -> tuple[str, str]:
        """HTML of the library for the head, and of the charts for the end of the body."""
        from bokeh.embed import components
        from bokeh.resources import Resources

        if not self._figures:
            return "", ""
        script, places = components(self._figures)
        fill = "\n".join(
            f"<template data-slot='{slot}'>{place}</template>"
            for slot, place in zip(self._slots, places, strict=True)
        )
        move = (
            "<script>document.querySelectorAll('template[data-slot]').forEach(t => "
            "document.getElementById(t.dataset.slot).replaceWith(t.content));</script>"
        )
        return Resources(mode="inline", components=["bokeh"]).render_js(), fill + move + script

    def _keep(self, figure: Any) -> str:
        slot = f"chart-{len(self._figures)}"
        self._figures.append(figure)
        self._slots.append(slot)
        return f'<div id="{slot}"></div>'


def _gap(value: float | None) -> float:
    return float("nan") if value is None else value


def _figure(x: str, y: str, height: int, **options: Any) -> Any:
    from bokeh.models import NumeralTickFormatter
    from bokeh.plotting import figure

    made = figure(
        height=height,
        sizing_mode="stretch_width",
        tools="pan,box_zoom,wheel_zoom,reset,save",
        toolbar_location="above",
        active_drag=None,
        x_axis_label=x,
        y_axis_label=y,
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
    if "step" in x:
        made.xaxis.formatter = NumeralTickFormatter(format="0.[0]a")
    return made
