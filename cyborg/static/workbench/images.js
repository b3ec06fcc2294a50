// Images: a scatter of what the runs say, a grid of the pictures, and one picture with everything there is of it.
import { make, labelled, segments, digits, counted, latest, soon } from "./dom.js";
import { field, paintMap } from "./draw.js";
import { choiceOf } from "./state.js";
import { makeChart } from "./chart.js";
import { makeDetail } from "./detail.js";

const PAGE = 24, AHEAD = 600; // pictures; pixels below the window
const FEW = 3; // scenarios whose scores fit below a picture
const SIDES = { s: 112, m: 176, l: 272 };
const WORTH = { uncertain: "worth a map: unsure", disagree: "worth a map: runs disagree", far: "worth a map: unlike people's" };
const LASSO_CORNERS = 40, DIGITS = 3;

export function imagesTab(bench) {
  const { store, carrier } = bench;
  const chart = makeChart({ selected: lassoed, click: clicked }, { modeBarButtons: [["lasso2d", "zoom2d", "resetScale2d"]] });
  const scatter = make("section", { class: "wb-panel wb-scatter", "aria-label": "Scatter of score and agreement" },
    make("h2", {}, "Score and agreement"), make("p", { class: "wb-about" }, "Draw around points to see only these; click one to open it."), chart.element);
  const count = make("output", { class: "wb-count" });
  const grid = make("div", { class: "wb-grid" }), end = make("div", { class: "wb-end" });
  const detail = makeDetail(bench, { step });
  const annotate = make("section", { class: "wb-annotate", "aria-label": "Annotate", hidden: true });
  const controls = makeGridControls(bench, { go });
  const element = make("div", { class: "wb-tab-images" }, controls.element, annotate, make("div", { class: "wb-split" }, scatter, make("div", { class: "wb-grid-side" }, count, grid, end)), detail.element);
  const ask = latest(), askScatter = latest(), askLines = latest();
  let tiles = [], total = 0, loading = false, layer = "";

  const choice = () => choiceOf(store.get());
  const rowChoice = () => choiceOf(store.get(), "sort", "up", "find", "scores", "agreements", "errors", "wrong", "right", "lasso");
  const layerOf = () => store.get().layer || (bench.scenarios()[0] ?? "");

  function lassoed(event) {
    const path = event?.lassoPoints || boxed(event?.range);
    if (!path) return;
    const every = Math.max(1, Math.ceil(path.x.length / LASSO_CORNERS));
    const lasso = path.x.map((x, i) => [x, path.y[i]]).filter((_, i) => i % every === 0).map((corner) => corner.map((value) => Number(value.toFixed(DIGITS))));
    if (lasso.length > 2) store.set({ lasso, row: -1 });
  }

  function boxed(range) {
    return range ? { x: [range.x[0], range.x[1], range.x[1], range.x[0]], y: [range.y[0], range.y[0], range.y[1], range.y[1]] } : null;
  }

  function clicked(event) {
    const row = event.points?.[0]?.customdata;
    if (row !== undefined) store.set({ row: Number(row) });
  }

  // A number or a name opens its image; what is not there is said.
  async function go(find) {
    try {
      const { row } = await carrier.ask("place", { choice: choice(), find });
      store.set({ row });
    } catch (error) { bench.say(error); }
  }

  async function step(by) {
    const at = tiles.findIndex((tile) => tile.row === store.get().row);
    if (at + by >= tiles.length && tiles.length < total) await more();
    const next = tiles[at + by];
    if (next && at >= 0) store.set({ row: next.row }, { step: false });
    else if (at < 0 && tiles.length) store.set({ row: tiles[0].row }, { step: false });
  }

  function makeTile(tile, place) {
    const image = make("img", { alt: "", loading: "lazy", decoding: "async", draggable: false });
    const canvas = make("canvas", { "aria-hidden": "true" });
    const scores = Object.entries(tile.score).map(([name, score]) => {
      const wrong = tile.wrong.includes(name);
      return make("span", { class: wrong ? "wb-score wb-wrong" : "wb-score", style: `--own:${bench.colour(name)}`, title: `${name}: score ${digits(score)}, CC ${digits(tile.cc[name])}${wrong ? ", wrong" : ""}` }, digits(score), wrong ? make("i", { "aria-hidden": "true" }, "✕") : null);
    });
    const words = scores.length > FEW ? manyWords(tile) : scores;
    const said = Object.entries(tile.score).map(([name, score]) => `${name} ${digits(score)}${tile.wrong.includes(name) ? " wrong" : ""}`).join(", ");
    const button = make("button", { type: "button", class: "wb-tile", onclick: () => store.set({ row: tile.row }), "aria-label": `number ${place + 1}, ${tile.source}, ${tile.label}: ${said}` },
      make("span", { class: "wb-pic" }, image, canvas), make("span", { class: "wb-tile-words" }, make("span", { class: "wb-source" }, tile.source), ...words));
    carrier.show(image, "picture", { choice: rowChoice(), row: tile.row, side: SIDES[store.get().size] > 192 ? 512 : 256 });
    if (tile.map) paintMap(canvas, field(tile.map, 64), bench.table, 1);
    canvas.hidden = !tile.map;
    button.dataset.row = tile.row;
    return button;
  }

  // Of many scenarios: how many are right, and a square each, crossed out where it is wrong.
  function manyWords(tile) {
    const names = Object.keys(tile.score), right = names.length - tile.wrong.length;
    const marks = names.map((name) => make("i", { class: tile.wrong.includes(name) ? "wb-not" : "", style: `--own:${bench.colour(name)}`, title: `${name}: score ${digits(tile.score[name])}${tile.wrong.includes(name) ? ", wrong" : ""}` }));
    return [make("span", { class: "wb-right" }, `${right} of ${names.length} right`), make("span", { class: "wb-squares", "aria-hidden": "true" }, ...marks)];
  }

  function append(answer) {
    total = answer.n;
    const from = tiles.length;
    tiles = [...tiles, ...answer.tiles];
    grid.append(...answer.tiles.map((tile, i) => makeTile(tile, from + i)));
    marked();
    requestAnimationFrame(() => { if (end.getClientRects().length && end.getBoundingClientRect().top < innerHeight + AHEAD) more(); }); // a large window has room
  }

  function marked() {
    for (const one of grid.children) one.classList.toggle("wb-now", Number(one.dataset.row) === store.get().row);
  }

  async function more() {
    if (loading || tiles.length >= total) return;
    loading = true;
    try { await ask(() => carrier.ask("images", { choice: choice(), start: tiles.length, count: PAGE, layer }), append); } catch (error) { bench.say(error); }
    loading = false;
  }

  function begin(answer) {
    tiles = [];
    grid.replaceChildren();
    append(answer);
    count.textContent = answer.n === answer.total ? counted(answer.total, "image") : `${answer.n.toLocaleString("en")} of ${counted(answer.total, "image")}`;
    if (!answer.n) grid.append(make("p", {}, "No image fits this choice."));
    controls.offer(answer);
    element.dataset.ready = "1";
    element.dataset.shown = answer.n;
  }

  new IntersectionObserver((seen) => { if (seen.some((one) => one.isIntersecting)) more(); }, { rootMargin: `${AHEAD}px` }).observe(end);

  // Where a map is worth most, the way there: what to type, to paint the training images in this order and to train again.
  function offerAnnotation() {
    annotate.hidden = !WORTH[store.get().sort];
    if (annotate.hidden) return;
    askLines(() => carrier.ask("annotate", { choice: choice() }), ({ lines }) => {
      const code = make("pre", { tabIndex: 0 }, lines.join("\n"));
      const copy = make("button", { type: "button", class: "wb-plain", onclick: async () => { await navigator.clipboard.writeText(lines.join("\n")); copy.textContent = "copied"; } }, "copy");
      annotate.replaceChildren(make("p", { class: "wb-about" }, "Images without a human map come first. The training images, to paint in this order, and to train again with what was painted:"), make("div", { class: "wb-code-line" }, code, copy));
    }).catch(bench.say);
  }

  const draw = soon(() => {
    const state = store.get();
    element.style.setProperty("--tile", `${SIDES[state.size]}px`);
    element.style.setProperty("--opacity", state.over === "plain" ? 0 : state.opacity);
    controls.show(state);
    marked();
  });

  const LISTED = ["tab", "study", "data", "network", "scenario", "seed", "source", "label", "scores", "agreements", "errors", "wrong", "right", "lasso", "find", "sort", "up", "layer"];
  const SCATTERED = LISTED.filter((key) => !["sort", "up", "layer", "lasso"].includes(key));
  let first = true;
  return {
    element,
    show(state, keys) {
      draw();
      const changed = (names) => first || names.some((key) => keys.has(key));
      if (changed(LISTED) || keys.has("size")) {
        layer = layerOf();
        ask(() => carrier.ask("images", { choice: choice(), start: 0, count: PAGE, layer }), begin).catch(bench.say);
      }
      if (changed(["sort", ...SCATTERED])) offerAnnotation();
      if (changed(SCATTERED)) {
        const given = choiceOf(state, "sort", "up", "lasso");
        askScatter(() => carrier.ask("scatter", { choice: given }), (answer) => chart.show(answer.figure)).catch(bench.say);
      }
      if (changed(["row", ...LISTED])) detail.show(state.row, rowChoice());
      first = false;
    },
    key(event) {
      const by = { ArrowRight: 1, n: 1, j: 1, ArrowLeft: -1, p: -1, k: -1 }[event.key];
      if (by) { event.preventDefault(); step(by); } else if (event.key === "o") store.set({ over: store.get().over === "plain" ? "face" : "plain" });
      else if (event.key === "Escape" && store.get().row >= 0) store.set({ row: -1 });
      else if (event.key === "/") { event.preventDefault(); controls.focus(); }
    },
    table: () => tiles.map((tile) => ({ image: tile.image, source: tile.source, label: tile.label, ...prefixed("score", tile.score), ...prefixed("cc", tile.cc) })),
  };
}

const prefixed = (word, values) => Object.fromEntries(Object.entries(values).map(([name, value]) => [`${word} ${name}`, value]));

function makeGridControls(bench, { go }) {
  const { store } = bench;
  const sort = make("select", { onchange: () => store.set({ sort: sort.value }) });
  const up = make("button", { type: "button", class: "wb-plain", onclick: () => store.set({ up: !store.get().up }) });
  const layer = make("select", { onchange: () => store.set({ layer: layer.value }) });
  const opacity = make("input", { type: "range", min: 0.1, max: 1, step: 0.05, oninput: () => store.set({ opacity: Number(opacity.value) }, { step: false }) });
  const size = segments("size of pictures", [["s", "S"], ["m", "M"], ["l", "L"]], (value) => store.set({ size: value }));
  const disagree = make("select", { onchange: () => { const [wrong, right] = JSON.parse(disagree.value); store.set({ wrong, right, row: -1 }); } });
  const find = make("input", { type: "search", placeholder: "number or name", size: 14, "aria-label": "open an image by its number in the list, or by its name" });
  const form = make("form", { class: "wb-field", onsubmit: (event) => { event.preventDefault(); if (find.value.trim()) go(find.value.trim()); } }, find, make("button", { class: "wb-plain" }, "open"));
  const where = labelled("where they disagree", disagree);
  const show = make("input", { type: "checkbox", onchange: () => store.set({ over: show.checked ? "face" : "plain" }) });
  const element = make("div", { class: "wb-controls" }, labelled("sort", sort), up, where, labelled("maps of", layer), make("label", { class: "wb-tick" }, show, "show"), opacity, size, form);
  opacity.setAttribute("aria-label", "opacity of the maps");
  return {
    element,
    focus: () => find.focus(),
    offer(answer) {
      const state = store.get();
      sort.replaceChildren(...[...answer.columns, ...answer.worth].map((name) => make("option", { value: name, selected: name === state.sort }, WORTH[name] || (name === "row" ? "as listed" : name))));
      const pairs = answer.disagree, now = JSON.stringify([state.wrong, state.right]);
      const named = pairs.map((one) => [JSON.stringify([one.wrong, one.right]), `${one.wrong} wrong, ${one.right} right (${one.n})`]);
      disagree.replaceChildren(...[[JSON.stringify(["", ""]), "everywhere"], ...named].map(([value, text]) => make("option", { value, selected: value === now }, text)));
      where.hidden = bench.scenarios().length < 2;
      layer.replaceChildren(...["human", ...bench.scenarios()].map((name) => make("option", { value: name, selected: name === (state.layer || bench.scenarios()[0]) }, name === "human" ? "people" : name)));
    },
    show(state) {
      up.textContent = state.up ? "lowest first ↑" : "highest first ↓";
      opacity.value = state.opacity;
      show.checked = state.over !== "plain";
      size.show(state.size);
    },
  };
}
