// Runs: what each was told to do, how it trains, what it reached. Runs that train move by themselves.
import { make, makeSvg, labelled, digits, latest } from "./dom.js";
import { choiceOf } from "./state.js";
import { makeChart } from "./chart.js";

const EVERY = 3000, WAITING = 1000; // milliseconds between two looks, while runs train and while some are measured

function clock(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const whole = Math.round(seconds), hours = Math.floor(whole / 3600), minutes = Math.floor((whole % 3600) / 60);
  return hours ? `${hours} h ${String(minutes).padStart(2, "0")} min` : minutes ? `${minutes} min ${String(whole % 60).padStart(2, "0")} s` : `${whole} s`;
}

function spark(values, colour, name) {
  const there = values.filter((value) => value !== null);
  const svg = makeSvg("svg", { class: "wb-spark", viewBox: "0 0 100 28", preserveAspectRatio: "none", role: "img", "aria-label": there.length ? `${name}: from ${digits(there[0], 3)} to ${digits(there.at(-1), 3)}` : `${name}: nothing yet` });
  if (there.length < 2) return svg;
  const low = Math.min(...there), span = Math.max(...there) - low || 1;
  const points = values.map((value, i) => (value === null ? null : `${(100 * i) / (values.length - 1)},${26 - (24 * (value - low)) / span}`)).filter(Boolean);
  svg.append(makeSvg("polyline", { points: points.join(" "), stroke: colour }));
  return svg;
}

// AUC from 0 to 1: a point, its interval, and the line of chance.
function interval(row) {
  const svg = makeSvg("svg", { class: "wb-interval", viewBox: "0 0 100 14", "aria-hidden": "true" });
  const x = (value) => 100 * Math.min(1, Math.max(0, value));
  svg.append(makeSvg("line", { x1: 50, x2: 50, y1: 0, y2: 14, class: "wb-chance" }));
  if (row.low !== null) svg.append(makeSvg("line", { x1: x(row.low), x2: x(row.high), y1: 7, y2: 7 }));
  svg.append(makeSvg("circle", { cx: x(row.auc), cy: 7, r: 3.2 }));
  return svg;
}

const spoken = (name) => name.replace(/^val_/, "validation_").replace(/^train_/, "training_").replaceAll("_", " ");
const AUC_OF = { macro_unseen: "mean of unseen generators", macro: "mean of all generators", pooled: "all images together" };

export function runsTab(bench) {
  const { store, carrier } = bench, ask = latest(), askCurves = latest(), askSettings = latest();
  const table = make("table", { class: "wb-table" }), count = make("p", { class: "wb-about", role: "status" });
  const what = make("select", { onchange: () => store.set({ curve: what.value }) });
  const source = make("select", { onchange: () => drawCurves() });
  const sourceField = labelled("generator", source);
  const chart = makeChart(), settings = make("details", { class: "wb-fold" });
  const element = make("div", { class: "wb-tab-runs" }, count, make("div", { class: "wb-wide", tabIndex: 0, role: "region", "aria-label": "Runs" }, table),
    make("div", { class: "wb-controls" }, labelled("show", what), sourceField), chart.element, settings);
  let rows = [], found = null, order = { key: "", down: true }, timer = 0, last = "";
  settings.addEventListener("toggle", () => drawSettings());

  const choice = () => choiceOf(store.get(), "data", "source", "label", "sort", "up", "find", "scores", "agreements", "errors", "wrong", "right", "lasso");
  const picked = () => store.get().picked.filter((name) => rows.some((row) => row.name === name));

  const COLUMNS = () => [
    ["run", (row) => row.name, (row) => make("span", { class: "wb-run" }, make("i", { class: "wb-dot", style: `--own:${bench.colour(row.scenario)}` }), row.name)],
    ["AUC", (row) => row.auc ?? -1, (row) => (row.auc === undefined ? (row.state === "finished" && found.waiting ? "measuring …" : "–") : make("span", { class: "wb-auc", title: `${AUC_OF[row.of]}; 95 % interval over images (DeLong)` }, make("b", {}, digits(row.auc, 3)), row.low === null ? "" : ` [${digits(row.low, 3)}, ${digits(row.high, 3)}]`, interval(row)))],
    ["agreement, CC", (row) => row.cc ?? -2, (row) => digits(row.cc, 3)],
    ["validation loss", (row) => row.sparks.val_loss.at(-1) ?? Infinity, (row) => spark(row.sparks.val_loss, bench.colour(row.scenario), "validation loss")],
    ["validation AUC", (row) => row.sparks.val_auc.at(-1) ?? -1, (row) => spark(row.sparks.val_auc, bench.colour(row.scenario), "validation AUC")],
    ...(new Set(rows.map((row) => row.network)).size > 1 ? [["network", (row) => row.network, (row) => row.network]] : []),
    ["scenario", (row) => row.scenario, (row) => row.scenario],
    ["seed", (row) => row.seed, (row) => String(row.seed)],
    ...found.differing.filter((name) => name !== "arch").map((name) => [name, (row) => row.settings[name], (row) => row.settings[name]]),
    ["epoch", (row) => row.epoch / row.epochs, (row) => make("span", {}, `${row.epoch} of ${row.epochs}`)],
    ["time", (row) => row.seconds ?? -1, (row) => clock(row.seconds)],
    ["state", (row) => row.state, (row) => make("span", { class: `wb-state wb-${row.state}`, title: row.error }, row.state, row.error ? make("small", {}, ` ${row.error}`) : null)],
  ];

  function sorted(columns) {
    const column = columns.find(([name]) => name === order.key);
    if (!column) return rows;
    const sign = order.down ? -1 : 1;
    return [...rows].sort((a, b) => { const [x, y] = [column[1](a), column[1](b)]; return sign * (x < y ? -1 : x > y ? 1 : 0); });
  }

  function head(columns) {
    const cells = columns.map(([name]) => {
      const own = order.key === name;
      const button = make("button", { type: "button", onclick: () => { order = { key: name, down: own ? !order.down : true }; drawTable(); } }, name, own ? (order.down ? " ↓" : " ↑") : "");
      return make("th", { scope: "col", "aria-sort": own ? (order.down ? "descending" : "ascending") : "none" }, button);
    });
    const all = make("input", { type: "checkbox", checked: picked().length === rows.length && rows.length > 0, "aria-label": "all runs", onchange: () => store.set({ picked: all.checked ? rows.map((row) => row.name) : [] }) });
    return make("thead", {}, make("tr", {}, make("th", {}, all), ...cells));
  }

  function line(row, columns) {
    const box = make("input", { type: "checkbox", checked: picked().includes(row.name), "aria-label": `choose ${row.name}` });
    box.addEventListener("change", () => store.set({ picked: box.checked ? [...picked(), row.name] : picked().filter((name) => name !== row.name) }));
    return make("tr", { class: row.state === "finished" ? "" : "wb-moving" }, make("td", {}, box), ...columns.map(([, , cell], i) => make(i ? "td" : "th", i ? {} : { scope: "row" }, cell(row))));
  }

  function drawTable() {
    const columns = COLUMNS();
    table.replaceChildren(head(columns), make("tbody", {}, ...sorted(columns).map((row) => line(row, columns))));
    const states = rows.reduce((sums, row) => ({ ...sums, [row.state]: (sums[row.state] || 0) + 1 }), {});
    count.textContent = `${Object.entries(states).map(([name, n]) => `${n} ${name}`).join(", ")}${found.running ? "; this table moves while they train" : ""}`;
    const of = rows.find((row) => row.of)?.of;
    if (of) count.textContent += `. AUC: ${AUC_OF[of]}; choose rows to see only these below.`;
  }

  function offered() {
    const options = found.figures, now = options.includes(store.get().curve) ? store.get().curve : options.find((name) => name === "val_loss") || options[0];
    what.replaceChildren(...options.map((name) => make("option", { value: name, selected: name === now }, spoken(name))));
    return now;
  }

  function drawCurves() {
    const now = offered();
    sourceField.hidden = now !== "ROC";
    const given = { choice: choice(), what: now, picked: picked(), source: now === "ROC" ? source.value : "" };
    askCurves(() => carrier.ask("curves", given), (answer) => {
      const kept = source.value;
      source.replaceChildren(...["", ...answer.sources].map((name) => make("option", { value: name, selected: name === kept }, name || "all")));
      chart.show(answer.figure);
    }).catch(bench.say);
  }

  function drawSettings() {
    if (!settings.children.length) settings.append(make("summary", {}, "Settings"), make("div", { class: "wb-wide", tabIndex: 0, role: "region", "aria-label": "Settings of runs" }));
    if (!settings.open) return;
    askSettings(() => carrier.ask("settings", { choice: choice(), picked: picked() }), (answer) => {
      const top = make("tr", {}, make("th", { scope: "col" }, "setting"), ...answer.names.map((name) => make("th", { scope: "col" }, name)));
      const lines = answer.rows.map((row) => make("tr", { class: row.differs ? "wb-differs" : "" }, make("th", { scope: "row" }, row.setting), ...row.values.map((value) => make("td", {}, value))));
      settings.lastChild.replaceChildren(make("p", { class: "wb-about" }, "Bold: differs between the runs."), make("table", { class: "wb-table" }, top, ...lines));
    }).catch(bench.say);
  }

  function use(answer) {
    const text = JSON.stringify(answer), moved = text !== last;
    last = text;
    found = answer;
    rows = answer.rows;
    if (moved) { drawTable(); drawCurves(); drawSettings(); }
    element.dataset.ready = "1";
    clearTimeout(timer);
    const wait = answer.waiting ? WAITING : answer.running ? EVERY : 0;
    if (wait) timer = setTimeout(() => { if (!element.hidden && element.isConnected) look(); }, wait);
  }

  const look = () => ask(() => carrier.ask("runs", { choice: choice() }), use).catch(bench.say);

  return {
    element,
    show(state, keys) {
      const chosen = ["tab", "study", "network", "scenario", "seed"].some((key) => keys.has(key));
      if (!found || chosen || found.running || found.waiting) { if (chosen) last = ""; look(); }
      if (found && (keys.has("picked") || keys.has("curve"))) { drawTable(); drawCurves(); drawSettings(); }
    },
    table: () => rows.map(({ sparks, settings: own, ...row }) => ({ ...row, ...own })),
  };
}
