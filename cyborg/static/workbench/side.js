// What is looked at: choices at the side, and chips that say what is chosen and take it away.
import { make, newId, counted } from "./dom.js";
import { isSet, nothing } from "./state.js";

const dot = (style) => make("i", { class: "wb-dot", style: `--own:${style?.colour || "transparent"}`, "aria-hidden": "true" });

// A group of boxes to tick; none ticked is all of them.
function ticks(bench, key, title, options) {
  const state = bench.store.get(), chosen = state[key];
  const boxes = options.map(({ value, text = String(value), style, n }) => {
    const box = make("input", { type: "checkbox", checked: chosen.includes(value) });
    box.addEventListener("change", () => {
      const now = bench.store.get()[key];
      const next = box.checked ? [...now, value] : now.filter((one) => one !== value);
      bench.store.set({ [key]: next.length === options.length ? [] : next, row: -1 });
    });
    return make("label", { class: "wb-tick" }, box, style ? dot(style) : null, make("span", {}, text), n === undefined ? null : make("small", {}, n.toLocaleString("en")));
  });
  return section(title, make("div", { class: "wb-ticks-list" }, boxes), chosen.length ? `${chosen.length} of ${options.length}` : "all");
}

function section(title, content, note = "") {
  const id = newId("section");
  return make("section", { class: "wb-choice", "aria-labelledby": id }, make("h3", { id }, title, note ? make("small", {}, note) : null), content);
}

function select(bench, key, title, options, none) {
  const control = make("select", { "aria-label": title, onchange: () => bench.store.set({ ...forget(key), [key]: control.value }) });
  control.append(...options.map((name) => make("option", { value: name, selected: name === (bench.store.get()[key] || none) }, name)));
  return section(title, control);
}

// What no longer means anything after another study or set was chosen.
function forget(key) {
  const below = { study: ["data", "network", "scenario", "seed", "source", "label", "wrong", "right", "lasso"], data: ["network", "scenario", "seed", "source", "label", "wrong", "right", "lasso"] };
  return { ...Object.fromEntries((below[key] || []).map((name) => [name, nothing(name)])), row: -1, layer: "" };
}

// Two ends of a range.
function range(bench, key, title, low, high) {
  const now = bench.store.get()[key];
  const ends = now.map((value, i) => make("input", { type: "number", min: low, max: high, step: 0.05, value, "aria-label": `${title}, ${i ? "highest" : "lowest"}` }));
  const changed = () => {
    const [a, b] = ends.map((end) => Math.min(high, Math.max(low, Number(end.value))));
    bench.store.set({ [key]: a <= b ? [a, b] : [b, a] });
  };
  ends.forEach((end) => end.addEventListener("change", changed));
  return section(title, make("div", { class: "wb-range" }, ends[0], " to ", ends[1]), isSet(bench.store.get(), key) ? "" : "all");
}

function errorsOnly(bench) {
  const box = make("input", { type: "checkbox", checked: bench.store.get().errors });
  box.addEventListener("change", () => bench.store.set({ errors: box.checked }));
  return make("label", { class: "wb-tick" }, box, make("span", {}, "only images that some scenario gets wrong"));
}

export const setOf = (offer, state) => offer.sets[state.data] || Object.values(offer.sets)[0] || null;

export function networksOf(offer, state) {
  const set = setOf(offer, state);
  return set ? (state.network.length ? state.network : set.networks.slice(0, 1)) : [];
}

export function scenariosOf(offer, state) {
  const set = setOf(offer, state);
  return set ? [...new Set(networksOf(offer, state).flatMap((name) => set.scenarios[name] || []))] : [];
}

// What of the choice a tab asks for.
const OF_RUNS = ["network", "scenario", "seed"], OF_IMAGES = ["data", ...OF_RUNS, "rows"];
const ASKED_BY = { maps: OF_IMAGES, images: OF_IMAGES, runs: OF_RUNS, study: [], picture: ["data", ...OF_RUNS], people: ["data", ...OF_RUNS] };

export function fillSide(bench, element) {
  const { offer, store } = bench, state = store.get(), set = setOf(offer, state), parts = [], asked = ASKED_BY[state.tab] || OF_IMAGES;
  if (offer.studies.length > 1) parts.push(select(bench, "study", "Study", offer.studies, offer.study));
  if (set) {
    if (asked.includes("data") && Object.keys(offer.sets).length > 1) parts.push(select(bench, "data", "Test images", Object.keys(offer.sets), Object.keys(offer.sets)[0]));
    const networks = set.networks.map((value) => ({ value }));
    if (asked.includes("network") && networks.length > 1) parts.push(networkTicks(bench, networks));
    if (asked.includes("scenario")) parts.push(ticks(bench, "scenario", "Scenarios", scenariosOf(offer, state).map((value) => ({ value, style: offer.styles[value] }))));
    if (asked.includes("seed") && set.seeds.length > 1) parts.push(ticks(bench, "seed", "Seeds", set.seeds.map((value) => ({ value }))));
    const tallied = (counts) => Object.entries(counts).map(([value, n]) => ({ value, n }));
    if (asked.includes("rows")) parts.push(ticks(bench, "source", "Sources", tallied(set.sources)), ticks(bench, "label", "Labels", tallied(set.labels)),
      range(bench, "scores", "Score", 0, 1), range(bench, "agreements", "Agreement (CC)", -1, 1), errorsOnly(bench));
  }
  if (!asked.length) parts.push(make("p", { class: "wb-about" }, "Tables and figures here are of the whole study: nothing else is to be chosen."));
  const focused = element.contains(document.activeElement) ? [...element.querySelectorAll("input, select")].indexOf(document.activeElement) : -1;
  element.replaceChildren(...parts);
  if (focused >= 0) element.querySelectorAll("input, select")[focused]?.focus();
}

// None ticked means the first network: means over networks would mean nothing.
function networkTicks(bench, options) {
  const state = bench.store.get(), chosen = networksOf(bench.offer, state);
  const boxes = options.map(({ value }) => {
    const box = make("input", { type: "checkbox", checked: chosen.includes(value) });
    box.addEventListener("change", () => {
      const next = box.checked ? [...chosen, value] : chosen.filter((one) => one !== value);
      const plain = next.length === 0 || (next.length === 1 && next[0] === options[0].value);
      bench.store.set({ network: plain ? [] : next, wrong: "", right: "", layer: "", row: -1 });
    });
    return make("label", { class: "wb-tick" }, box, make("span", {}, value));
  });
  return section("Networks", make("div", { class: "wb-ticks-list" }, boxes), `${chosen.length} of ${options.length}`);
}

const CHIPS = {
  network: ["network", (value) => value], scenario: ["scenario", (value) => value], seed: ["seed", (value) => `seed ${value}`],
  source: ["source", (value) => value], label: ["label", (value) => value],
};

function chip(text, away) {
  return make("button", { type: "button", class: "wb-chip", onclick: away, "aria-label": `take away: ${text}`, title: "take away" }, text, make("span", { "aria-hidden": "true" }, " ×"));
}

export function fillChips(bench, element) {
  const { store } = bench, state = store.get(), found = [];
  for (const [key, [, words]] of Object.entries(CHIPS)) {
    for (const value of state[key]) found.push(chip(words(value), () => store.set({ [key]: state[key].filter((one) => one !== value), row: -1 })));
  }
  const ranges = { scores: "score", agreements: "CC" };
  for (const [key, name] of Object.entries(ranges)) {
    if (isSet(state, key)) found.push(chip(`${name} ${state[key].join(" to ")}`, () => store.set({ [key]: nothing(key) })));
  }
  if (state.errors) found.push(chip("errors only", () => store.set({ errors: false })));
  if (state.wrong || state.right) {
    const parts = [state.wrong && `${state.wrong} wrong`, state.right && `${state.right} right`].filter(Boolean);
    found.push(chip(parts.join(", "), () => store.set({ wrong: "", right: "" })));
  }
  if (state.lasso.length) found.push(chip("lasso in the scatter", () => store.set({ lasso: [] })));
  if (state.find) found.push(chip(`name has “${state.find}”`, () => store.set({ find: "" })));
  const keys = [...Object.keys(CHIPS), "scores", "agreements", "errors", "wrong", "right", "lasso", "find"];
  if (found.length > 1) found.push(make("button", { type: "button", class: "wb-clear", onclick: () => store.set({ ...Object.fromEntries(keys.map((key) => [key, nothing(key)])), row: -1 }) }, "take all away"));
  element.replaceChildren(...found);
  element.hidden = !found.length;
}

export const studyWords = (offer) => `${offer.study || offer.folder} · ${counted(offer.runs, "run")}${offer.running ? `, ${offer.running} training` : ""}`;
