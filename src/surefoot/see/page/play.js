"use strict";
const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const number = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const text = (id, value) => { if (byId(id).textContent !== value) byId(id).textContent = value; };
const shown = (x) => {
  if (x === null || x === undefined) return "–";
  if (Math.abs(x) < 1e-9) return "0";
  if (x !== 0 && (Math.abs(x) < 1e-3 || Math.abs(x) >= 1e6)) return x.toExponential(1);
  return number.format(x);
};

let socket = null;
let title = null;
let paused = false;
let moved = -1000; // when a slider was, in ms
const rows = new Map(); // of bars, by table and name
const largest = new Map(); // what has been the largest so far, by table

function ask(wish) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(wish));
}

function connect() {
  socket = new WebSocket(`ws://${location.host}/panel`);
  socket.onmessage = (event) => {
    const facts = JSON.parse(event.data);
    if (facts.title) begin(facts.title);
    else if (title) show(facts);
  };
  socket.onclose = () => {
    text("note", "The connection has ended: is surefoot play still running?");
    setTimeout(connect, 1000);
  };
}

function begin(now) {
  title = now;
  document.title = `${now.task} · surefoot play`;
  text("task", now.task);
  byId("speed").replaceChildren(...now.speeds.map((speed) => new Option(`${speed}×`, speed)));
  byId("command").hidden = now.command.length === 0;
  byId("sliders").replaceChildren(...now.command.map(slider));
}

function slider(part, index) {
  const label = document.createElement("label");
  label.className = "slider";
  const name = document.createElement("span");
  name.textContent = part.name;
  const value = document.createElement("output");
  const input = document.createElement("input");
  input.type = "range";
  input.min = part.low;
  input.max = part.high;
  input.step = (part.high - part.low) / 200 || 1;
  input.disabled = part.low === part.high;
  input.id = `command-${index}`;
  input.oninput = () => {
    moved = performance.now();
    ask({ command: sliders().map((each) => Number(each.value)) });
  };
  label.append(name, value, input);
  return label;
}

function sliders() {
  return [...document.querySelectorAll("#sliders input")];
}

function show(facts) {
  paused = facts.paused;
  text("pause", paused ? "Resume" : "Pause");
  const at = facts.policy_step === null ? "" : `, step ${facts.policy_step.toLocaleString("en")}`;
  text("player", `${facts.player}${at}`);
  text("note", facts.note);
  if (document.activeElement !== byId("speed")) byId("speed").value = String(facts.speed);
  text("episode", shown(facts.episode));
  text("steps", facts.step === undefined ? "–" : String(facts.step));
  text("return", shown(facts.return));
  text("pace", paused ? "paused" : `${number.format(facts.pace)}×`);
  byId("release").disabled = facts.held === null;
  sliders().forEach((input, index) => {
    const value = facts.command[index];
    input.parentElement.querySelector("output").textContent = number.format(value);
    // what is being moved is ahead of what the simulation has heard
    if (!input.matches(":active") && performance.now() - moved > 500) input.value = value;
  });
  const sums = { reward: facts.reward };
  if (facts.value !== null && facts.value !== undefined) sums["value (critic)"] = facts.value;
  bars("terms", facts.terms || {}, facts.reward === undefined ? {} : sums);
  const measures = Object.entries(facts.measures || {}).filter(([, x]) => x !== null);
  byId("measured").hidden = measures.length === 0;
  plain("measures", Object.fromEntries(measures));
}

// Reward and its terms share a scale; what is in `sums` beside the reward has one of its own.
function bars(table, terms, sums) {
  for (const [scale, x] of largest) largest.set(scale, x * 0.995); // a spike is forgotten in time
  for (const [name, x] of Object.entries({ ...sums, ...terms })) {
    const scale = name === "value (critic)" ? name : table;
    largest.set(scale, Math.max(largest.get(scale) || 1e-9, Math.abs(x || 0)));
    const row = row_of(table, name, name in sums);
    const half = (50 * Math.abs(x || 0)) / largest.get(scale);
    row.bar.setAttribute("x", x < 0 ? 50 - half : 50);
    row.bar.setAttribute("width", half);
    row.bar.setAttribute("class", x < 0 ? "minus" : "plus");
    row.value.textContent = shown(x);
  }
}

function plain(table, values) {
  for (const [name, x] of Object.entries(values)) {
    const row = row_of(table, name, false);
    row.value.textContent = shown(x);
  }
}

function row_of(table, name, isSum) {
  const key = `${table} ${name}`;
  if (!rows.has(key)) {
    const line = byId(table).insertRow();
    line.className = isSum ? "sum" : "";
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name.replaceAll("_", " ");
    line.append(head);
    const bar = document.createElementNS(SVG, "rect");
    if (table === "terms") {
      const drawing = document.createElementNS(SVG, "svg");
      drawing.setAttribute("viewBox", "0 0 100 10");
      drawing.setAttribute("preserveAspectRatio", "none");
      drawing.setAttribute("aria-hidden", "true");
      bar.setAttribute("height", 10);
      drawing.append(bar);
      const box = document.createElement("div");
      box.className = "bar";
      box.append(drawing);
      line.insertCell().append(box);
    }
    rows.set(key, { bar, value: line.insertCell() });
  }
  return rows.get(key);
}

byId("pause").onclick = () => ask(paused ? { resume: null } : { pause: null });
byId("step").onclick = () => ask({ step: null });
byId("reset").onclick = () => ask({ reset: null });
byId("speed").onchange = (event) => ask({ speed: Number(event.target.value) });
byId("release").onclick = () => ask({ command: null });
connect();
