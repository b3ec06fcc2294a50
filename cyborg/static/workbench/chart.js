// Figures of Python in the page: fitted to the room there is, drawn by the plotly.js that comes with the package plotly.
import { fitted } from "../figure.js";
import { make, soon } from "./dom.js";

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
    const { data, layout } = fitted(own, room);
    await Plotly.react(place, data, layout, { ...TOOLS, ...tools });
    element.dataset.drawn = room;
    if (heard) return;
    heard = true;
    for (const [name, handler] of Object.entries(handlers)) place.on(`plotly_${name}`, handler);
  };
  const later = soon(draw);
  new ResizeObserver(() => { if (Math.floor(element.clientWidth) !== drawn) later(); }).observe(element);
  return {
    element,
    place,
    show(given) { figure = typeof given === "string" ? JSON.parse(given) : given; later(); },
    get figure() { return figure; },
  };
}
