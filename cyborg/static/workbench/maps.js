// Maps: people against models, on average.
import { make, labelled, segments, digits, counted, latest } from "./dom.js";
import { field, mixed, minus, relative, remembered, highest } from "./draw.js";
import { choiceOf } from "./state.js";
import { makeProbe, makeBoard, makeBar } from "./board.js";
import { makeChart } from "./chart.js";
import { openLarge } from "./large.js";

const agreed = (found) => (found.cc === undefined ? "" : `CC ${digits(found.cc)}, SIM ${digits(found.sim)}`);
const ASKED = ["sort", "up"]; // of no meaning for a mean map

export function mapsTab(bench) {
  const { store, carrier } = bench, probe = makeProbe();
  const opened = (key) => openLarge(cards(), key, how(), probe);
  const board = makeBoard(probe, { opened }), differences = makeBoard(probe, { opened, most: () => board.side || Infinity });
  const bar = makeBar("map"), differenceBar = makeBar("difference");
  const chart = makeChart(), sentences = make("div", { class: "wb-sentences", role: "status" });
  const regions = make("section", { class: "wb-panel", "aria-label": "Regions" }, make("h2", {}, "Regions"), sentences, chart.element);
  const controls = makeControls(bench, () => redraw());
  const level = segments("differences of", [["even", "equal totals"], ["values", "values as they are"]], (value) => store.set({ level: value }));
  const about = make("p", { class: "wb-about" }), less = make("p", { class: "wb-about" });
  const apart = make("section", { "aria-label": "Differences" }, make("h2", {}, "Where models differ from people"), make("div", { class: "wb-controls" }, level, differenceBar.element), less, differences.element);
  const element = make("div", { class: "wb-tab-maps" }, controls.element, bar.element, about, board.element, apart, regions);
  const ask = latest(), askRegions = latest();
  let found = null, outlines = null, shares = [];

  const human = () => (found.human ? field(found.human) : null);
  const choice = () => choiceOf(store.get(), ...ASKED);
  const face = (image) => carrier.show(image, "face", { choice: choice() });
  const groups = () => Object.entries(found.groups).filter(([, group]) => group.map);
  const colour = (name) => bench.offer.styles[name.split(", ").at(-1)]?.colour;

  const crossed = remembered((map, people, share) => mixed(people, map, share));
  function blended(map) {
    const people = human(), share = store.get().blend;
    return people && share < 1 ? crossed(field(map), people, share) : field(map);
  }

  function runsOf([name, group]) {
    return group.runs.map((run) => ({ key: `run ${name} ${run.name}`, title: run.name, lines: [agreed(run)], colour: colour(name), values: () => blended(run.map), face }));
  }

  function mapCards() {
    const state = store.get(), people = found.human ? [{ key: "human", title: "people", lines: [found.about, found.ceiling].filter(Boolean), colour: "#222222", values: human, face }] : [];
    if (found.training) people.push({ key: "training", title: "people, training", lines: [counted(found.n_training, "training image")], colour: "#777777", values: () => field(found.training), face });
    const means = groups().map(([name, group]) => ({
      key: `mean ${name}`, title: name, colour: colour(name), values: () => blended(group.map), face,
      lines: [`${group.n > 1 ? `mean of ${group.n} runs` : "one run"}, ${counted(group.images, "image")}`, agreed(group)],
    }));
    return [...people, ...means, ...(state.each ? groups().flatMap(runsOf) : [])];
  }

  // A model's map lies higher or lower as a whole: of equal totals, what is left is where.
  const takenAway = remembered((map, people, level) => (level === "even" ? minus(relative(map), relative(people)) : minus(map, people)));
  const apartOf = (map, people) => takenAway(map, people, store.get().level);

  function differenceCards() {
    const people = human();
    return people ? groups().map(([name, group]) => ({
      key: `difference ${name}`, title: `${name} − people`, kind: "difference", colour: colour(name), face,
      lines: [agreed(group)], values: () => apartOf(field(group.map), people),
    })) : [];
  }

  const cards = () => [...mapCards(), ...differenceCards()];

  function how() {
    const state = store.get(), unit = state.scale === "unit";
    const maps = [found.human, ...groups().map(([, group]) => group.map)].filter(Boolean);
    const top = unit ? 1 : Math.max(0.01, ...maps.map((map) => highest(field(map))));
    const far = unit && state.level !== "even" ? 1 : Math.max(0.01, ...differenceCards().map((card) => highest(card.values())));
    return { table: bench.table, top, topDifference: far, over: state.over, opacity: state.opacity, outlines: state.outlines ? outlines : null };
  }

  function redraw() {
    if (!found) return;
    const look = how();
    bar.show(bench.table, look.top, "saliency, of a range from 0 to 1");
    const even = store.get().level === "even";
    differenceBar.show(bench.table, look.topDifference, even ? "model − people, times an even map" : "model − people, saliency");
    less.textContent = `Orange: the model looks more than people, blue: less; white, or the bare face: no difference. ${even ? "Each map is divided by its mean, so that only where counts." : "One scale for all."}`;
    board.show(mapCards(), look);
    differences.show(differenceCards(), look);
  }

  function use(answer) {
    found = answer;
    const lacking = Object.values(found.groups).flatMap((group) => Object.entries(group.lacking).map(([name, why]) => `${name}: ${why}`));
    about.textContent = [found.human ? "" : found.about, ...lacking].filter(Boolean).join(" · ");
    apart.hidden = !found.human;
    controls.show(store.get(), Boolean(found.human), Boolean(outlines));
    level.show(store.get().level);
    redraw();
    element.dataset.ready = "1";
  }

  function useRegions(answer) {
    outlines = answer.outlines || null;
    shares = answer.table || [];
    chart.element.hidden = !answer.figure;
    sentences.replaceChildren(...(answer.why ? [make("p", { class: "wb-about" }, `Not shown: ${answer.why}.`)] : answer.sentences.map((one) => make("p", {}, one))));
    if (answer.figure) chart.show(answer.figure);
    controls.show(store.get(), Boolean(found?.human), Boolean(outlines));
    if (store.get().outlines) redraw();
  }

  const CHOSEN = ["tab", "study", "data", "network", "scenario", "seed", "source", "label", "find", "scores", "agreements", "errors", "wrong", "right", "lasso"];
  return {
    element,
    show(state, keys) {
      if (!found || CHOSEN.some((key) => keys.has(key))) {
        const given = { choice: choice() };
        ask(() => carrier.ask("maps", given), use).catch(bench.say);
        askRegions(() => carrier.ask("regions", given), useRegions).catch(bench.say);
      } else {
        controls.show(state, Boolean(found.human), Boolean(outlines));
        level.show(state.level);
        redraw();
      }
    },
    key(event) {
      if (event.key === "o") store.set({ over: store.get().over === "plain" ? "face" : "plain" });
    },
    table: () => shares,
  };
}

function makeControls({ store }) {
  const over = segments("maps are drawn", [["face", "over the face"], ["lines", "as lines"], ["plain", "alone"]], (value) => store.set({ over: value }));
  const scale = segments("range of colours", [["unit", "0 to 1"], ["top", "to the highest"]], (value) => store.set({ scale: value }));
  const opacity = make("input", { type: "range", min: 0.1, max: 1, step: 0.05, oninput: () => store.set({ opacity: Number(opacity.value) }, { step: false }) });
  const blend = make("input", { type: "range", min: 0, max: 1, step: 0.02, list: "", oninput: () => store.set({ blend: Number(blend.value) }, { step: false }) });
  const told = make("output", {});
  const cross = make("span", { class: "wb-field wb-blend" }, make("span", {}, "people"), blend, make("span", {}, "models"), told);
  blend.setAttribute("aria-label", "cross over from people to models");
  const each = make("input", { type: "checkbox", onchange: () => store.set({ each: each.checked }) });
  const outlines = make("input", { type: "checkbox", onchange: () => store.set({ outlines: outlines.checked }) });
  const regions = make("label", { class: "wb-tick" }, outlines, "regions");
  const thick = labelled("opacity", opacity);
  const element = make("div", { class: "wb-controls" }, over, thick, cross, scale, make("label", { class: "wb-tick" }, each, "each run"), regions);
  return {
    element,
    show(state, people, known) {
      over.show(state.over);
      scale.show(state.scale);
      thick.hidden = state.over !== "face";
      opacity.value = state.opacity;
      blend.value = state.blend;
      cross.hidden = !people;
      told.textContent = state.blend === 1 ? "" : `${Math.round(100 * state.blend)} %`;
      each.checked = state.each;
      outlines.checked = state.outlines;
      regions.hidden = !known;
    },
  };
}
