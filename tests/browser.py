"""What tests in a real browser share: a page opened, what is painted on it, what it tells of a point."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# what would run, or load something, wherever it is taken for markup, a template of Bokeh's or a formula
RUNS = "\"'><img src=x onerror='ran = 1'>@{y0}{safe}$swatch:y0 $$x$$ {{ 7 * 7 }}"
PAYLOAD = f"</script></title><script>ran = 1</script>{RUNS}"


def note(message: Any, said: list[str]) -> None:
    # the browser's advice on how this test reads pixels is none of the page's
    if message.type in ("error", "warning") and "getImageData" not in message.text:
        said.append(message.text)


def opened(browser: Any, file: Path, width: int = 1440, **options: Any) -> tuple[Any, list[str]]:
    """The page, without a network, once its charts are drawn; and what the console said."""
    context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, **options)
    tab, said = context.new_page(), []
    tab.on("console", lambda message: note(message, said))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: request.url.startswith("http") and said.append(request.url))
    tab.goto(file.as_uri())
    tab.wait_for_function("Bokeh.documents.length > 0 && Bokeh.documents.every(d => d.is_idle)")
    return tab, said


def canvases(tab: Any) -> list[dict[str, float]]:
    """Size of each chart, and how many pixels are painted on its canvas."""
    return tab.evaluate(
        """() => [...Bokeh.index.roots].filter(view => view.canvas_view).map(view => {
          const canvas = view.canvas_view.primary.canvas
          const box = view.el.getBoundingClientRect()
          const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data
          let painted = 0
          for (let i = 3; i < data.length; i += 4) painted += data[i] > 0
          return {width: box.width, height: box.height, left: box.left, painted}
        })"""
    )


def logarithmic(tab: Any) -> list[tuple[str, float]]:
    """Name and beginning of each logarithmic axis."""
    return tab.evaluate(
        """() => [...Bokeh.index.roots]
          .filter(view => view.canvas_view && view.frame.y_scale.type === "LogScale")
          .map(view => [view.model.left[0].axis_label.text, view.model.y_range.start])"""
    )


def hovered(tab: Any, chart: int) -> str | None:
    """What is told of a point of a chart; None where it has none to hover over."""
    place = tab.evaluate(
        """chart => {
          const view = [...Bokeh.index.roots].filter(view => view.canvas_view)[chart]
          view.el.scrollIntoView({block: "center"})
          const renderer = view.model.renderers.find(r => r.glyph.type.includes("Scatter"))
          if (!renderer) return null
          const {x, y} = renderer.glyph, {data} = renderer.data_source
          const k = Math.min(10, data[x.field].length - 1)
          const box = view.canvas_view.el.getBoundingClientRect()
          return {x: box.left + view.frame.x_scale.compute(data[x.field][k]),
                  y: box.top + view.frame.y_scale.compute(data[y.field][k])}
        }""",
        chart,
    )
    if place is None:
        return None
    tab.mouse.move(place["x"], place["y"])
    tab.wait_for_timeout(500)
    return tab.evaluate(
        """() => {
          const texts = []
          const walk = node => {
            if (node.shadowRoot) walk(node.shadowRoot)
            for (const child of node.children ?? []) walk(child)
            if (node.classList?.contains("bk-Tooltip")) texts.push((node.shadowRoot ?? node).textContent)
          }
          walk(document.body)
          return texts.join(" ")
        }"""
    )


def spoilt(value: Any) -> Any:
    """With the payload in place of each text, but for those that name a part of the results."""
    if isinstance(value, dict):
        return {name: spoilt(x) for name, x in value.items()}
    if isinstance(value, list):
        return [spoilt(x) for x in value]
    return PAYLOAD if isinstance(value, str) and not value.endswith(PAYLOAD) else value
