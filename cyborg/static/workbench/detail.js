// One image: the picture, what people marked on it, and the map of every scenario and run.
import { make, digits, latest } from "./dom.js";
import { field } from "./draw.js";
import { makeProbe, makeBoard } from "./board.js";
import { openLarge } from "./large.js";

const numbersOf = (run) => [["score", run.score], ["CC", run.cc], ["SIM", run.sim]].filter(([, value]) => value !== null).map(([name, value]) => `${name} ${digits(value)}`).join(", ");

export function makeDetail(bench, { step }) {
  const { store, carrier } = bench, probe = makeProbe(), ask = latest();
  const opened = (key) => openLarge(cards(), key, how(), probe);
  const board = makeBoard(probe, { opened, height: () => innerHeight - 120 });
  const title = make("h2", { tabIndex: -1 }), marks = make("p", { class: "wb-about" });
  const each = make("input", { type: "checkbox", onchange: () => store.set({ each: each.checked }, { step: false }) });
  const tools = make("div", { class: "wb-controls" },
    make("button", { type: "button", onclick: () => step(-1), "aria-label": "previous image" }, "←"),
    make("button", { type: "button", onclick: () => step(1), "aria-label": "next image" }, "→"),
    make("label", { class: "wb-tick" }, each, "each run"),
    make("button", { type: "button", class: "wb-close", onclick: () => store.set({ row: -1 }) }, "close"));
  const element = make("section", { class: "wb-detail", "aria-label": "One image", hidden: true }, tools, title, board.element, marks);
  let found = null, choice = {};

  const face = (image) => carrier.show(image, "picture", { choice, row: found.row, side: 512 });
  const how = () => ({ table: bench.table, top: 1, over: store.get().over, opacity: store.get().opacity });

  function cards() {
    const picture = [{ key: "picture", kind: "picture", title: "picture", lines: [`${found.source}, ${found.label}`], face }];
    if (found.marks.length) picture.push({ key: "marks", kind: "picture", title: "marks", lines: [`of ${found.marks.length} people`], face: (image) => carrier.show(image, "marks", { choice, row: found.row }) });
    const people = { key: "human", title: "people", colour: "#222222", face, lines: [found.human ? "human map" : found.why || "no human map"], values: () => (found.human ? field(found.human) : null) };
    const groups = Object.entries(found.groups).map(([name, group]) => ({
      key: `group ${name}`, title: name, colour: bench.colour(name), face, values: () => (group.map ? field(group.map) : null),
      lines: [`score ${digits(found.score[name])}${found.cc[name] === null ? "" : `, CC ${digits(found.cc[name])}`}${found.wrong.includes(name) ? " ✕ wrong" : ""}`, group.runs.length > 1 ? `mean of ${group.runs.length} runs` : ""].filter(Boolean),
    }));
    const runs = Object.entries(found.groups).flatMap(([name, group]) => group.runs.map((run) => ({
      key: `run ${name} ${run.name}`, title: run.name, colour: bench.colour(name), face, values: () => (run.map ? field(run.map) : null), lines: [numbersOf(run)],
    })));
    return [...picture, people, ...groups, ...(store.get().each ? runs : [])];
  }

  function redraw() {
    if (!found) return;
    each.checked = store.get().each;
    board.show(cards(), how());
  }

  function use(answer) {
    const fresh = element.hidden;
    found = answer;
    element.hidden = false;
    title.textContent = found.image;
    marks.replaceChildren(...found.marks.map((one) => make("span", { class: "wb-mark" }, make("i", { style: `color:${one.colour}`, "aria-hidden": "true" }, "■ "), one.who, one.correct ? "" : " (wrong)")));
    redraw();
    if (fresh) element.scrollIntoView({ block: "nearest" });
  }

  return {
    element,
    show(row, given) {
      choice = given;
      if (row < 0) { element.hidden = true; found = null; return; }
      if (found?.row === row) redraw();
      ask(() => carrier.ask("image", { choice, row }), use).catch((error) => { element.hidden = true; bench.say(error); });
    },
    redraw,
  };
}
