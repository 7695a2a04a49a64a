// ticks as 200k, 1.5M: Bokeh's own million is a small m
Bokeh.Models.get("NumeralTickFormatter").prototype.doFormat = ticks => ticks.map(tick => {
  const [unit, name] = tick >= 1e6 ? [1e6, "M"] : tick >= 1e3 ? [1e3, "k"] : [1, ""];
  return Number((tick / unit).toPrecision(6)) + name;
});
let views = [];
const draw = async items => {
  views = await Promise.all(items.map((item, k) => Bokeh.embed.embed_item(item, `chart-${k}`)));
};
const documents = () => views.map(view => view.roots[0].model.document);
const show = (name, shown) => {
  for (const chart of documents())
    for (const model of chart.all_models)
      if (model.name === name) model.visible = shown;
};
const drawn = draw(JSON.parse(document.getElementById("charts").textContent));
document.addEventListener("click", event => {
  const button = event.target.closest("button[data-arm]");
  if (!button) return;
  const shown = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", shown);
  show(button.dataset.arm, shown);
});
