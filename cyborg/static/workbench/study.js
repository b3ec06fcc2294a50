// Study: the sentences of the report, and its tables and figures, made when they are looked at.
import { make, latest } from "./dom.js";
import { choiceOf } from "./state.js";
import { makeChart } from "./chart.js";

export function studyTab(bench) {
  const { store, carrier } = bench, ask = latest(), askPart = latest();
  const chart = makeChart(), tableBox = make("div", { class: "wb-wide wb-report", tabIndex: 0, role: "region", "aria-label": "Table" });
  const headline = make("div", { class: "wb-sentences" }), notes = make("div", {});
  const list = make("nav", { class: "wb-parts", "aria-label": "Parts of the study" });
  const title = make("h2", {}), why = make("p", { class: "wb-about", role: "status" });
  const element = make("div", { class: "wb-tab-study" }, headline, make("div", { class: "wb-reading" }, list, make("section", { class: "wb-panel", "aria-label": "Part" }, title, why, chart.element, tableBox)), notes);
  let found = null, csv = "", loaded = false;

  const choice = () => choiceOf({ ...store.get() }, "data", "network", "scenario", "seed", "source", "label", "scores", "agreements", "errors", "wrong", "right", "lasso", "find", "sort", "up");

  function links() {
    const chapters = new Map();
    for (const part of found.parts) chapters.set(part.chapter, [...(chapters.get(part.chapter) || []), part]);
    const now = current();
    list.replaceChildren(...[...chapters].flatMap(([name, parts]) => [
      make("h3", {}, name),
      ...parts.map((part) => make("button", { type: "button", class: "wb-part", "aria-current": part.key === now ? "true" : "false", onclick: () => store.set({ section: part.key }) }, part.title)),
    ]));
  }

  const current = () => (found.parts.some((part) => part.key === store.get().section) ? store.get().section : found.parts[0].key);

  function drawPart() {
    const key = current();
    links();
    title.textContent = found.parts.find((part) => part.key === key).title;
    askPart(() => carrier.ask("part", { choice: choice(), key }), (part) => {
      why.textContent = part.why ? `Not shown: ${part.why}` : "";
      csv = part.csv || "";
      chart.element.hidden = !part.figure;
      tableBox.hidden = !part.html;
      if (part.figure) chart.show(part.figure);
      if (part.html) tableBox.innerHTML = part.html; // escaped by pandas
      element.dataset.part = key;
      element.dataset.ready = "1";
    }).catch(bench.say);
  }

  function use(answer) {
    found = answer;
    headline.replaceChildren(...answer.headline.map(([network, lines]) => make("p", {}, network ? make("b", {}, `${network}: `) : null, ...lines.flatMap((line) => [line, make("br")]))));
    notes.replaceChildren(...[...answer.notes, ...answer.problems].map((text) => make("p", { class: "wb-about" }, text)));
    drawPart();
  }

  return {
    element,
    show(state, keys) {
      if (!loaded || keys.has("study")) {
        loaded = true;
        delete element.dataset.ready;
        bench.working("reading the study …", () => ask(() => carrier.ask("study", { choice: choice() }), use)).catch((error) => { found = null; csv = ""; list.replaceChildren(); notes.replaceChildren(); [title, why].forEach((one) => { one.textContent = ""; }); chart.element.hidden = tableBox.hidden = true; headline.replaceChildren(make("p", {}, error.message)); element.dataset.ready = "1"; });
      } else if (found && keys.has("section")) drawPart();
    },
    csv: () => csv,
  };
}
