// What has changed is asked for while the page is seen; parts are replaced, charts get new numbers.
const known = JSON.parse(document.getElementById("live").textContent);
const connection = document.getElementById("connection");
const fill = (name, html) => {
  const part = document.querySelector(`[data-part="${CSS.escape(name)}"]`);
  part.replaceChildren(...new DOMParser().parseFromString(html, "text/html").body.childNodes);
};
const hidden = () => [...document.querySelectorAll('button[data-arm][aria-pressed="false"]')]
  .map(button => button.dataset.arm);
const apply = async news => {
  const before = hidden();
  document.title = document.querySelector("h1").textContent = news.title;
  for (const [name, html] of Object.entries(news.html))
    if (known.parts[name] !== news.parts[name] || (news.items && html.includes('class="chart"')))
      fill(name, html);
  if (news.items) {
    for (const view of views) view.clear();
    await draw(news.items);
  } else {
    documents().forEach((chart, k) => {
      const source = [...chart.all_models].find(model => model.type === "ColumnDataSource");
      source.data = Object.fromEntries(Object.entries(news.columns[k]).map(
        ([name, values]) => [name, values.map(value => value ?? NaN)]));
    });
  }
  for (const button of document.querySelectorAll("button[data-arm]"))
    if (before.includes(button.dataset.arm)) {
      button.setAttribute("aria-pressed", "false");
      show(button.dataset.arm, false);
    }
  Object.assign(known, {
    seen: news.seen, charts: news.charts, parts: news.parts, wait_s: news.wait_s});
};
const ages = () => {
  for (const place of document.querySelectorAll("[data-since]")) {
    const age = Math.max(0, Math.round(Date.now() / 1000 - place.dataset.since));
    place.textContent = age < 120 ? ` (${age} s ago)` : ` (${Math.round(age / 60)} min ago)`;
  }
};
const ask = async () => {
  try {
    if (!document.hidden) {
      const answer = await fetch(`news.json?seen=${known.seen}&charts=${known.charts}`);
      if (answer.status === 200) await apply(await answer.json());
      else if (answer.status !== 204) throw new Error(await answer.text());
      connection.textContent = "Live: follows the runs while this page is open.";
      connection.classList.remove("worse");
    }
  } catch (error) {
    connection.textContent = error instanceof TypeError
      ? "surefoot watch has ended; this is what it showed last." : `What came cannot be shown: ${error.message}`;
    connection.classList.add("worse");
  }
  ages();
  setTimeout(ask, 1000 * known.wait_s);
};
drawn.then(ask);
document.addEventListener("visibilitychange", ages);
