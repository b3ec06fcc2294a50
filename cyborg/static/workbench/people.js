// People: who marked how much and how well, how far the images have got, how well people agree.
import { make, digits, counted, latest } from "./dom.js";
import { choiceOf } from "./state.js";
import { makeChart } from "./chart.js";

const PATIENT = 10_000; // milliseconds between two looks: people are slower than networks

function tableOfRows(rows, given) {
  const columns = given.filter(([, cell], i) => !i || rows.some((row) => !["–", "0", ""].includes(cell(row)))); // without those that nothing is known of
  const head = make("thead", {}, make("tr", {}, ...columns.map(([name]) => make("th", { scope: "col" }, name))));
  const lines = rows.map((row) => make("tr", {}, ...columns.map(([, cell], i) => make(i ? "td" : "th", i ? {} : { scope: "row" }, cell(row)))));
  return make("table", { class: "wb-table" }, head, make("tbody", {}, ...lines));
}

const share = (value) => (value === null ? "–" : `${Math.round(100 * value)} %`);

export function peopleTab(bench) {
  const { store, carrier } = bench, ask = latest(), chart = makeChart();
  const about = make("p", { class: "wb-about", role: "status" });
  const counts = make("div", { class: "wb-counts" }), people = make("div", { class: "wb-wide", tabIndex: 0, role: "region", "aria-label": "Annotators" });
  const ceiling = make("div", { class: "wb-wide", tabIndex: 0, role: "region", "aria-label": "Agreement" });
  const progress = make("div", { class: "wb-wide", tabIndex: 0, role: "region", "aria-label": "Progress by source" });
  const element = make("div", { class: "wb-tab-people" }, counts, about, make("h2", {}, "Annotators"), people, make("h2", {}, "Progress"), chart.element, progress, make("h2", {}, "Agreement with single annotators"), ceiling);
  let found = null, last = "", timer = 0;

  const count = (n, words) => make("div", { class: "wb-number" }, make("b", {}, typeof n === "string" ? n : n.toLocaleString("en")), words);

  function draw() {
    counts.replaceChildren(count(found.people.length, found.people.length === 1 ? "person" : "people"), count(found.marks, "marked pictures"), count(`${found.with_map.toLocaleString("en")} of ${found.images.toLocaleString("en")}`, "images have a human map"),
      ...(found.ceiling.length ? [count(digits(found.ceiling[0].ceiling), `${found.ceiling[0].metric.toUpperCase()} of one person with the others`)] : []));
    about.textContent = found.about;
    people.hidden = !found.people.length;
    people.replaceChildren(tableOfRows(found.people, [
      ["person", (row) => row.subject], ["images", (row) => String(row.images)], ["answers", (row) => String(row.answers ?? 0)], ["right", (row) => share(row.right)],
      ["seconds, median", (row) => digits(row.seconds, 1)], ["painted, of a picture", (row) => share(row.painted)], ["agreement with the others, CC", (row) => digits(row.agreement)], ["left out", (row) => row.excluded || ""],
    ]));
    chart.show(found.figure);
    progress.replaceChildren(tableOfRows(found.progress, [["source", (row) => row.source], ["label", (row) => row.label], ["split", (row) => row.split], ["images", (row) => String(row.images)], ["marked", (row) => String(row.marked)], ["with a map", (row) => String(row.map)], ["people an image", (row) => digits(row.people, 1)]]));
    ceiling.replaceChildren(found.ceiling.length ? tableOfRows(found.ceiling, [["scenario", (row) => row.scenario], ["metric", (row) => row.metric.toUpperCase()], ["model", (row) => digits(row.model)], ["other people: the ceiling", (row) => digits(row.ceiling)], ["mean training map", (row) => digits(row.mean_map)], ["images", (row) => counted(row.n_images, "image")]])
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
