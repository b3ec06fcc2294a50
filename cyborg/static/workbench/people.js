// People: who marked how much and how well, how far the images have got, how well people agree.
import { make, digits, counted, latest } from "./dom.js";
import { choiceOf } from "./state.js";
import { makeChart } from "./chart.js";

const PATIENT = 10_000; // milliseconds between two looks: people are slower than networks

function tableOfRows(rows, given) {
  const columns = given.filter(([, cell], i) => !i || rows.some((row) => !["–", "0", "0.0", ""].includes(cell(row)))); // without those that nothing is known of
  const head = make("thead", {}, make("tr", {}, ...columns.map(([name]) => make("th", { scope: "col" }, name))));
  const lines = rows.map((row) => make("tr", {}, ...columns.map(([, cell], i) => make(i ? "td" : "th", i ? {} : { scope: "row" }, cell(row)))));
  return make("table", { class: "wb-table" }, head, make("tbody", {}, ...lines));
}

const METRICS = { cc: "CC", sim: "SIM", kl: "KL, less is closer", iou: "IoU", pointing: "pointing game" };

// A row a metric: each scenario, other people, the mean training map.
function agreementTable(rows) {
  const scenarios = [...new Set(rows.map((row) => row.scenario))], metrics = [...new Set(rows.map((row) => row.metric))];
  const first = (metric) => rows.find((row) => row.metric === metric);
  const value = (metric, scenario) => digits(rows.find((row) => row.metric === metric && row.scenario === scenario)?.model);
  return tableOfRows(metrics, [
    ["metric", (metric) => METRICS[metric] || metric], ...scenarios.map((name) => [name, (metric) => value(metric, name)]),
    ["other people: the ceiling", (metric) => digits(first(metric).ceiling)], ["mean training map", (metric) => digits(first(metric).mean_map)], ["of", (metric) => counted(first(metric).n_images, "image")],
  ]);
}

const share = (value) => (value === null ? "–" : `${Math.round(100 * value)} %`);

export function peopleTab(bench) {
  const { store, carrier } = bench, ask = latest(), chart = makeChart();
  const about = make("p", { class: "wb-about", role: "status" });
  const counts = make("div", { class: "wb-counts" }), people = make("div", { class: "wb-wide", tabIndex: 0, role: "region", "aria-label": "Annotators" });
  const ceiling = make("div", { class: "wb-wide", tabIndex: 0, role: "region", "aria-label": "Agreement" });
  const progress = make("div", { class: "wb-wide", tabIndex: 0, role: "region", "aria-label": "Progress by source" });
  const marked = make("h2", {}, "Annotators");
  const element = make("div", { class: "wb-tab-people" }, counts, about, marked, people, make("h2", {}, "Progress"), chart.element, progress, make("h2", {}, "Agreement with single annotators"), ceiling);
  let found = null, last = "", timer = 0;

  const count = (n, words) => make("div", { class: "wb-number" }, make("b", {}, typeof n === "string" ? n : n.toLocaleString("en")), words);

  function draw() {
    const done = found.people.length ? [count(found.people.length, found.people.length === 1 ? "person" : "people"), count(found.marks, "marked pictures")] : [];
    counts.replaceChildren(...done, count(`${found.with_map.toLocaleString("en")} of ${found.images.toLocaleString("en")}`, "images have a human map"),
      ...(found.ceiling.length ? [count(digits(found.ceiling[0].ceiling), `${found.ceiling[0].metric.toUpperCase()} of one person with the others`)] : []));
    about.textContent = found.about;
    people.hidden = marked.hidden = !found.people.length;
    people.replaceChildren(tableOfRows(found.people, [
      ["person", (row) => row.subject], ["images", (row) => String(row.images)], ["answers", (row) => String(row.answers ?? 0)], ["right", (row) => share(row.right)],
      ["seconds, median", (row) => digits(row.seconds, 1)], ["painted, of a picture", (row) => share(row.painted)], ["agreement with the others, CC", (row) => digits(row.agreement)], ["left out", (row) => row.excluded || ""],
    ]));
    chart.show(found.figure);
    progress.replaceChildren(tableOfRows(found.progress, [["source", (row) => row.source], ["label", (row) => row.label], ["split", (row) => row.split], ["images", (row) => String(row.images)], ["marked", (row) => String(row.marked)], ["with a map", (row) => String(row.map)], ["people an image", (row) => digits(row.people, 1)]]));
    ceiling.replaceChildren(found.ceiling.length ? agreementTable(found.ceiling)
      : make("p", { class: "wb-about" }, "Not known here: a study measures it and writes annotators.csv."));
  }

  function use(answer) {
    const text = JSON.stringify(answer);
    found = answer;
    if (text !== last) draw();
    last = text;
    element.dataset.ready = "1";
    clearTimeout(timer);
    timer = setTimeout(() => { if (!element.hidden && element.isConnected) look(); }, PATIENT);
  }

  const look = () => ask(() => carrier.ask("people", { choice: choiceOf(store.get(), "scores", "agreements", "errors", "wrong", "right", "lasso", "find", "sort", "up") }), use).catch(bench.say);

  return {
    element,
    show(state, keys) {
      if (!found || ["study", "data", "network", "scenario", "seed"].some((key) => keys.has(key))) look();
      else use(found);
    },
    table: () => found?.people || [],
  };
}
