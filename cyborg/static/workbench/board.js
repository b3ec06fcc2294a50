// Maps beside each other: one scale, one place marked in all of them, each as large as there is room for.
import { make, makeSvg, digits, soon } from "./dom.js";
import { valueAt, paintMap, paintDifference, paintThin, paintContours, differenceColour } from "./draw.js";

// The place under the pointer, shared by all boards of a tab.
export function makeProbe() {
  const listeners = [];
  return {
    place: null, // [u, v] in shares of the side
    listen: (listener) => { listeners.push(listener); },
    set(place) { this.place = place; listeners.forEach((listen) => listen(place)); },
  };
}

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

// One map. Of a card: key, title, lines, colour, kind (map, difference, picture), values() and face(image), each may be missing.
function makeCard(board, card) {
  const face = make("img", { class: "wb-face", alt: "", draggable: false });
  const canvas = make("canvas", { class: "wb-canvas", "aria-hidden": "true" });
  const lines = makeSvg("svg", { class: "wb-outlines", viewBox: "0 0 1 1", "aria-hidden": "true" });
  const cross = make("span", { class: "wb-cross", hidden: true });
  const value = make("output", { class: "wb-value" });
  const words = make("span", { class: "wb-lines" });
  const place = make("div", { class: "wb-map" }, face, canvas, lines, cross);
  const open = make("button", { type: "button", class: "wb-open" }, place);
  const title = make("b", {}), dot = make("i", { class: "wb-dot", "aria-hidden": "true" });
  const element = make("figure", { class: "wb-card" }, open, make("figcaption", {}, make("span", { class: "wb-title" }, dot, title, value), words));
  const at = (event) => {
    const box = place.getBoundingClientRect();
    return [(event.clientX - box.x) / box.width, (event.clientY - box.y) / box.height].map((x) => Math.min(0.999, Math.max(0, x)));
  };
  open.addEventListener("pointermove", (event) => board.probe.set(at(event)));
  open.addEventListener("pointerleave", () => board.probe.set(null));
  open.addEventListener("blur", () => board.probe.set(null));
  open.addEventListener("click", () => board.opened?.(card.key));
  open.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (!step || event.ctrlKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    const [u, v] = board.probe.place || [0.5, 0.5];
    board.probe.set([u + step[0] / 32, v + step[1] / 32].map((x) => Math.min(0.984, Math.max(0.016, x))));
  });
  return { element, face, canvas, lines, cross, value, words, title, dot, open, values: null, card };
}

function describe(own) {
  const { card } = own;
  own.title.textContent = card.title;
  own.dot.hidden = !card.colour;
  own.dot.style.setProperty("--own", card.colour);
  own.words.replaceChildren(...(card.lines || []).flatMap((line) => [line, make("br")]));
  const hint = card.kind === "picture" ? "" : " Arrow keys read values, Enter shows it large.";
  own.open.setAttribute("aria-label", `${card.title}. ${(card.lines || []).join(". ")}.${hint}`);
}

function paint(own, how) {
  const { card, canvas, face } = own;
  own.values = card.values?.() || null;
  own.element.classList.toggle("wb-none", !own.values && card.kind !== "picture");
  const seen = Boolean(card.face) && (how.over !== "plain" || card.kind === "picture");
  face.hidden = !seen;
  if (seen) card.face(face);
  canvas.hidden = !own.values;
  if (!own.values) return;
  const difference = card.kind === "difference", lines = how.over === "lines" && !difference && seen;
  canvas.style.opacity = seen && !lines && !difference ? how.opacity : 1;
  const asked = [own.values, how.table, difference ? how.topDifference : how.top, difference && seen, lines];
  if (own.painted?.every((value, i) => value === asked[i])) return; // as it is there
  own.painted = asked;
  if (difference) (seen ? paintThin : paintDifference)(canvas, own.values, how.topDifference);
  else if (lines) paintContours(canvas, own.values, how.table, how.top);
  else paintMap(canvas, own.values, how.table, how.top);
}

function outline(own, outlines) {
  const paths = Object.values(outlines || {}).flat().map((line) => makeSvg("polygon", { points: line.map((p) => p.join(",")).join(" ") }));
  own.lines.replaceChildren(...paths);
}

function mark(own, place) {
  own.cross.hidden = !place;
  own.value.textContent = "";
  if (!place) return;
  own.cross.style.left = `${100 * place[0]}%`;
  own.cross.style.top = `${100 * place[1]}%`;
  if (!own.values) return;
  const value = valueAt(own.values, ...place);
  own.value.textContent = own.card.kind === "difference" ? `${value > 0 ? "+" : value < 0 ? "−" : ""}${digits(Math.abs(value))}` : digits(value);
}

// As large as n cards can be in a room, 256 pixels at least where that much is there.
// A layout is good where maps are large, rows are full and the width is used.
export function sideOf(room, height, n, captions = 76, gap = 14) {
  const least = Math.min(room, 256);
  const most = Math.max(1, Math.min(n, Math.floor((room + gap) / (least + gap)))); // columns that there is room for
  const layouts = Array.from({ length: n }, (_, i) => {
    const columns = i + 1, rows = Math.ceil(n / columns), wide = (room - i * gap) / columns;
    const each = height / rows - captions; // where all are to be seen at once
    const side = Math.min(wide, each >= least ? each : columns === most ? height - captions : least);
    const used = (columns * side + i * gap) / room;
    return { columns, side, worth: wide < least ? 0 : side * (n / (rows * columns)) * Math.sqrt(used) };
  });
  const best = layouts.reduce((a, b) => (b.worth > a.worth ? b : a));
  return { columns: best.columns, side: Math.floor(best.side) };
}

export function makeBoard(probe, { opened = null, height = () => innerHeight - 210, most = () => Infinity, sized = true } = {}) {
  const element = make("div", { class: "wb-board" });
  const board = { element, probe, opened, side: 0 };
  let cards = new Map(), how = {};
  const fit = () => {
    if (!sized || !element.clientWidth || !cards.size) return;
    const { columns, side } = sideOf(element.clientWidth, Math.max(300, height()), cards.size);
    board.side = Math.min(side, most());
    element.style.setProperty("--card", `${board.side}px`);
    element.style.setProperty("--columns", Math.max(columns, Math.min(cards.size, Math.floor((element.clientWidth + 14) / (board.side + 14)))));
  };
  new ResizeObserver(soon(fit)).observe(element);
  probe.listen((place) => { if (element.isConnected) cards.forEach((own) => mark(own, place)); });
  board.show = (given, look) => {
    how = look;
    const old = cards;
    cards = new Map(given.map((card) => {
      const own = old.get(card.key) || makeCard(board, card);
      own.card = card;
      return [card.key, own];
    }));
    const wanted = [...cards.values()].map((own) => own.element);
    if (wanted.length !== element.children.length || wanted.some((one, i) => one !== element.children[i])) element.replaceChildren(...wanted);
    for (const own of cards.values()) { describe(own); outline(own, how.outlines); }
    board.redraw(look);
    fit();
  };
  board.redraw = (look) => {
    how = { ...how, ...look };
    for (const own of cards.values()) { paint(own, how); mark(own, probe.place); }
  };
  return board;
}

// The scale below or above the maps: a strip of colours with its ticks and its unit.
export function makeBar(kind) {
  const strip = make("canvas", { width: 256, height: 1, "aria-hidden": "true" });
  const ticks = make("span", { class: "wb-ticks" }), unit = make("span", { class: "wb-unit" });
  const element = make("div", { class: "wb-bar", role: "img" }, unit, make("span", { class: "wb-strip" }, strip, ticks));
  const show = (table, top, words) => {
    const pen = strip.getContext("2d"), row = pen.createImageData(256, 1);
    for (let i = 0; i < 256; i += 1) {
      const colour = kind === "difference" ? differenceColour((i - 127.5) / 127.5) : table.subarray(3 * i, 3 * i + 3);
      row.data.set([...colour, 255], 4 * i);
    }
    pen.putImageData(row, 0, 0);
    const shares = [0, 0.25, 0.5, 0.75, 1];
    const names = shares.map((share) => (kind === "difference" ? (2 * share - 1) * top : share * top)).map((value) => `${kind === "difference" && value > 0 ? "+" : ""}${Number(value.toPrecision(2))}`.replace("-", "−"));
    ticks.replaceChildren(...names.map((name, i) => make("span", { style: `left:${100 * shares[i]}%` }, name)));
    unit.textContent = words;
    element.setAttribute("aria-label", `${words}: from ${names[0]} to ${names.at(-1)}`);
  };
  return { element, show };
}
