// Figures of Python in the page: fitted to the room there is, drawn by the plotly.js that comes with the package plotly.
import { fitted } from "../figure.js";
import { make, soon } from "./dom.js";

// On dark paper: greys change ends, what is too dark to be seen becomes lighter; colours that say a value stay.
const NAMED = { white: "#ffffff", black: "#000000", grey: "#808080", gray: "#808080" };
export function relit(colour) {
  const hex = /^#([0-9a-f]{6}|[0-9a-f]{3})$/i.exec(NAMED[colour] || colour)?.[1], rgba = /^rgba?\(([^)]*)\)$/.exec(colour)?.[1];
  if (!hex && !rgba) return colour;
  const parts = hex ? (hex.length === 3 ? [...hex].map((one) => one + one) : hex.match(/../g)).map((one) => parseInt(one, 16)) : rgba.split(",").map(Number);
  const [r, g, b, alpha = 1] = parts, light = (0.21 * r + 0.72 * g + 0.07 * b) / 255;
  const change = Math.max(r, g, b) - Math.min(r, g, b) < 24 ? (value) => 246 - 0.87 * value : light < 0.42 ? (value) => value + (0.42 - light) * (255 - value) : (value) => value;
  return `rgba(${[r, g, b].map((value) => Math.round(change(value)))}, ${alpha})`;
}

const KEPT_AS_IS = /^(colorscale|coloraxis|colorbar|source|z)$/;
function relitAll(given, key = "") {
  if (typeof given === "string") return /color(s|way)?$/.test(key) ? relit(given) : given;
  if (Array.isArray(given)) return /color(s|way)?$/.test(key) || (given.length < 200 && typeof given[0] === "object") ? given.map((one) => relitAll(one, key)) : given;
  if (!given || typeof given !== "object" || ArrayBuffer.isView(given)) return given;
  return Object.fromEntries(Object.entries(given).map(([name, value]) => [name, KEPT_AS_IS.test(name) ? value : relitAll(value, name)]));
}

function onDark({ data, layout }) {
  const clear = { paper_bgcolor: "rgba(0, 0, 0, 0)", plot_bgcolor: "rgba(0, 0, 0, 0)" };
  const font = { ...layout.template?.layout?.font, ...layout.font, color: layout.font?.color || layout.template?.layout?.font?.color || "#222222" };
  return { data: data.map((trace) => relitAll(trace)), layout: { ...relitAll({ ...layout, font }), ...clear } };
}

let loading = null;
export function plotly() {
  if (typeof load_plotly === "function") return Promise.resolve(load_plotly());
  loading ||= new Promise((resolve, reject) => {
    const script = make("script", { src: "plotly.js" });
    script.onload = () => resolve(globalThis.Plotly);
    script.onerror = () => reject(new Error("plotly.js could not be loaded"));
    document.head.append(script);
  });
  return loading;
}

const TOOLS = { displaylogo: false, modeBarButtonsToRemove: ["toImage", "autoScale2d"], responsive: false };

// handlers: of plotly events, by name without "plotly_".
export function makeChart(handlers = {}, tools = {}) {
  const element = make("div", { class: "wb-chart" }), place = make("div", {});
  element.append(place);
  let figure = null, drawn = 0, heard = false;
  const draw = async () => {
    const room = Math.floor(element.clientWidth);
    if (!figure || !room) return;
    drawn = room;
    const own = figure, Plotly = await plotly();
    if (own !== figure) return;
    const whole = fitted(own, room), dark = getComputedStyle(element).colorScheme === "dark";
    const { data, layout } = dark ? onDark(whole) : whole;
    await Plotly.react(place, data, layout, { ...TOOLS, ...tools });
    element.dataset.drawn = room;
    if (heard) return;
    heard = true;
    for (const [name, handler] of Object.entries(handlers)) place.on(`plotly_${name}`, handler);
  };
  const later = soon(draw);
  new ResizeObserver(() => { if (Math.floor(element.clientWidth) !== drawn) later(); }).observe(element);
  addEventListener("cyborg-theme", later);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", later);
  return {
    element,
    place,
    show(given) { figure = typeof given === "string" ? JSON.parse(given) : given; later(); },
    get figure() { return figure; },
  };
}
