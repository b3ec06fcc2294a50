// A plotly figure in its place: fitted to the room there is, and drawn anew as a whole each time.
const PANEL = 270, CELL = 120; // pixels: least width of a panel, and of a picture in a grid
const AXIS = 95; // pixels below a panel: its ticks, its axis title and the next panel's name
const context = document.createElement("canvas").getContext("2d");

function width_of(text, font) {
  context.font = `${font.size}px ${font.family}`;
  const plain = text.replace(/<[^>]*>/g, "").replace(/&(\w+|#\d+);/g, "x");
  return context.measureText(plain).width;
}

// The text in lines that fit; a word that is longer than a line keeps one to itself.
export function wrapped(text, font, room) {
  const lines = [];
  for (const given of text.split(/<br\s*\/?>/)) {
    let line = "";
    for (const word of given.split(" ")) {
      const longer = line ? `${line} ${word}` : word;
      if (line && width_of(longer, font) > room) { lines.push(line); line = word; } else line = longer;
    }
    lines.push(line);
  }
  return lines;
}

const axes = (layout, letter) => Object.keys(layout).filter((key) => new RegExp(`^${letter}axis\\d*$`).test(key));
const legends = (layout) => Object.keys(layout).filter((key) => /^legend\d*$/.test(key));
const entries = (figure, name) => figure.data.filter((trace) => trace.showlegend !== false
  && trace.visible !== false && (trace.legend || "legend") === name);

// A panel is a pair of axes, in reading order.
function panels_of(layout) {
  const found = axes(layout, "x").map((key) => {
    const y = `yaxis${(layout[key].anchor || "y").slice(1)}`;
    return { x: key, y, dx: layout[key].domain || [0, 1], dy: layout[y]?.domain || [0, 1] };
  });
  return found.sort((a, b) => b.dy[1] - a.dy[1] || a.dx[0] - b.dx[0]);
}

// Title and subtitle in lines that fit; room for the further ones.
function fit_title(layout, look, width) {
  const title = layout.title;
  if (!title?.text) return;
  const fonts = [{ ...look.font, ...look.title.font }, { ...look.font, ...look.title.subtitle.font }];
  const parts = [title, title.subtitle || {}];
  const before = parts.map((part) => (part.text || "").split(/<br\s*\/?>/).length);
  let more = 0;
  parts.forEach((part, i) => {
    if (!part.text) return;
    const size = part.font?.size || fonts[i].size;
    const lines = wrapped(part.text, { ...fonts[i], size }, width - 36);
    part.text = lines.join("<br>");
    more += (lines.length - before[i]) * 1.3 * size;
  });
  layout.margin.t += more;
  layout.height += more;
}

// Panels below each other where they would be too narrow side by side, each with its axis names.
function stack(figure, look, width) {
  const layout = figure.layout, panels = panels_of(layout);
  const columns = new Set(panels.map((panel) => panel.dx[0])).size;
  const room = width - layout.margin.l - layout.margin.r;
  const fits = Math.max(1, Math.floor(room / PANEL));
  if (columns < 2 || room / columns >= PANEL) return;
  const inner = layout.height - layout.margin.t - layout.margin.b, gap = fits > 1 ? AXIS / room : 0;
  const wide = (1 - gap * (fits - 1)) / fits, rows = Math.ceil(panels.length / fits);
  const own = legends(layout).length > 1 ? legends(layout) : [];
  const below = Math.max(0, ...own.map((key) => 21 * entries(figure, key).length));
  const tall = panels.map((panel) => {
    const high = (panel.dy[1] - panel.dy[0]) * inner;
    return layout[panel.y].scaleanchor ? Math.min(high, wide * room) : high;
  });
  const high = Math.max(...tall), space = AXIS + below, whole = rows * high + (rows - 1) * space;
  const moved = panels.map((panel, i) => {
    const left = (i % fits) * (wide + gap), top = 1 - (Math.floor(i / fits) * (high + space)) / whole;
    return { ...panel, to: { dx: [left, left + wide], dy: [top - high / whole, top] } };
  });
  name_axes(layout, moved);
  for (const panel of moved) {
    layout[panel.x].domain = panel.to.dx;
    layout[panel.y].domain = panel.to.dy.map((y) => Math.min(1, Math.max(0, y)));
  }
  move(layout, moved, inner, whole);
  layout.height += whole - inner;
  if (below) { layout.height += Math.max(0, below + AXIS - layout.margin.b); layout.margin.b = Math.max(layout.margin.b, below + AXIS); }
}

// Axes that left their name or their ticks to a neighbour get them back.
function name_axes(layout, panels) {
  const named = (axis) => axis?.title?.text;
  for (const panel of panels) {
    const row = panels.find((other) => other.dy[1] === panel.dy[1] && named(layout[other.y]));
    const column = panels.findLast((other) => other.dx[0] === panel.dx[0] && named(layout[other.x]));
    for (const [axis, from] of [[layout[panel.y], layout[row?.y]], [layout[panel.x], layout[column?.x]]]) {
      if (!axis) continue;
      if (!named(axis) && from) axis.title = structuredClone(from.title);
      axis.showticklabels = true;
    }
  }
}

// Names of panels and legends go with their panel; a legend below all of them stays below.
function move(layout, panels, before, after) {
  const near = (a, b) => Math.abs(a - b) < 1e-6, middle = (d) => (d[0] + d[1]) / 2;
  for (const note of layout.annotations || []) {
    if (note.xref !== "paper" || note.yref !== "paper") continue;
    const panel = panels.find((p) => near(note.x, middle(p.dx)) && near(note.y, p.dy[1]));
    if (panel) Object.assign(note, { x: middle(panel.to.dx), y: panel.to.dy[1] });
  }
  const keys = legends(layout);
  if (keys.length === 1 && layout.legend.y < 0) layout.legend.y *= before / after;
  if (keys.length < 2) return;
  for (const key of keys) { // of a panel: in or below it, and below it from now on
    const x = layout[key].x ?? 0, panel = panels.find((p) => x >= p.dx[0] - 1e-6 && x <= p.dx[1] + 1e-6);
    if (!panel) continue;
    const y = panel.to.dy[0] - (AXIS - 30) / after;
    Object.assign(layout[key], { x: panel.to.dx[0], xanchor: "left", y, yanchor: "top", bgcolor: "rgba(0,0,0,0)" });
  }
}

// A legend beside the panel goes below it where both together would be too narrow.
function fit_legend(figure, look, width) {
  const { layout } = figure, legend = layout.legend || {}, shown = entries(figure, "legend");
  const beside = legend.orientation !== "h" && (legend.x === undefined || legend.x >= 1) && legend.xanchor !== "right";
  if (layout.showlegend === false || (shown.length < 2 && !layout.showlegend) || !beside) return;
  const font = { ...look.font, ...look.legend.font };
  const longest = Math.max(0, ...shown.map((trace) => width_of(trace.name || "", font)));
  if (width - layout.margin.l - longest - 60 >= 1.3 * PANEL) return;
  const groups = new Set(shown.map((trace) => trace.legendgrouptitle?.text).filter(Boolean));
  const tall = 20 * (shown.length + groups.size) + 12;
  layout.legend = { ...legend, orientation: "v", x: 0, xanchor: "left", y: 0, yanchor: "bottom", yref: "container" };
  layout.margin.b += tall;
  layout.height += tall;
}

// Pictures keep their shape, and a square its place at the left with the legend beside it.
function fit_shape(figure, pictures, width) {
  const layout = figure.layout, [panel, ...others] = panels_of(layout);
  if (others.length || !layout[panel?.y]?.scaleanchor) return;
  const span = (axis) => Math.abs(axis.range[1] - axis.range[0]);
  const ratio = span(layout[panel.y]) / span(layout[panel.x]);
  const room = width - layout.margin.l - layout.margin.r;
  const inner = layout.height - layout.margin.t - layout.margin.b;
  if (room * ratio < inner) {
    layout.height += room * ratio - inner;
    const bar = layout.coloraxis?.colorbar;
    if (bar?.lenmode === "pixels") bar.len = Math.min(bar.len, room * ratio + layout.margin.b);
    return;
  }
  const legend = layout.legend || {}, share = inner / ratio / room;
  Object.assign(layout[panel.x], { constrain: "domain", constraintoward: "left" });
  if (pictures || legend.x !== undefined) return;
  layout[panel.x].domain = [0, share];
  layout.legend = { ...legend, x: share + 0.02 };
}

// Names at the left push the panel to the right.
function names_at_left(figure, look, margin) {
  const font = { ...look.font, size: look.yaxis?.tickfont?.size || 12 };
  const names = figure.data.filter((trace) => Array.isArray(trace.y) && typeof trace.y[0] === "string").flatMap((trace) => trace.y);
  const ticks = axes(figure.layout, "y").flatMap((key) => figure.layout[key].ticktext || []);
  return Math.max(0, ...[...names, ...ticks].map((text) => width_of(String(text), font) + 12)) - margin;
}

// Names of axes in lines, and as many ticks as there is room for.
function fit_axes(figure, look, width) {
  const { layout } = figure;
  const room = width - layout.margin.l - layout.margin.r - Math.max(0, names_at_left(figure, look, layout.margin.l));
  const inner = layout.height - layout.margin.t - layout.margin.b;
  for (const [letter, length] of [["x", room], ["y", inner]]) for (const key of axes(layout, letter)) {
    const axis = layout[key], long = length * ((axis.domain?.[1] ?? 1) - (axis.domain?.[0] ?? 0));
    const size = axis.title?.font?.size || look[`${letter}axis`]?.title?.font?.size || 14;
    if (axis.title?.text) axis.title.text = wrapped(axis.title.text, { ...look.font, size }, Math.max(90, long)).join("<br>");
    const ticks = axis.dtick && axis.range ? Math.abs(axis.range[1] - axis.range[0]) / axis.dtick : 0;
    if (letter === "x" && ticks > 1 && long / ticks < 34) { delete axis.dtick; delete axis.tick0; axis.nticks = Math.max(2, Math.floor(long / 40)); }
  }
}

// Numbers come packed; as arrays, whoever looks at a plot finds them under `data`.
const ARRAYS = { f8: Float64Array, f4: Float32Array, i4: Int32Array, u4: Uint32Array, i2: Int16Array,
  u2: Uint16Array, i1: Int8Array, u1: Uint8Array };
function unpacked(value) {
  if (!value || typeof value !== "object" || !ARRAYS[value.dtype] || value.shape) return value;
  const bytes = Uint8Array.from(atob(value.bdata), (letter) => letter.charCodeAt(0));
  return new ARRAYS[value.dtype](bytes.buffer);
}

// Data and layout as plotly.js takes them, for so many pixels.
export function fitted(given, room) {
  const figure = structuredClone(given), { layout } = figure;
  for (const trace of figure.data) for (const key of Object.keys(trace)) trace[key] = unpacked(trace[key]);
  const look = structuredClone(layout.template?.layout || {});
  look.font ||= { family: "sans-serif", size: 13 };
  look.title ||= {};
  look.title.subtitle ||= {};
  look.legend ||= {};
  look.legend.font ||= {};
  const pictures = figure.data.some((trace) => ["image", "heatmap"].includes(trace.type));
  const columns = pictures ? Math.ceil(layout.xaxis?.range?.[1] || 1) : 0;
  layout.margin = { l: 80, r: 80, t: 100, b: 80, ...look.margin, ...layout.margin };
  layout.height ??= look.height || 450;
  const least = pictures ? layout.margin.l + layout.margin.r + CELL * columns : 0;
  const width = Math.max(least, Math.min(room, pictures ? layout.meta?.width || room : room));
  fit_title(layout, look, width);
  fit_legend(figure, look, width);
  stack(figure, look, width);
  fit_shape(figure, pictures, width);
  fit_axes(figure, look, width);
  return { data: figure.data, layout: { ...layout, width: Math.floor(width), height: Math.round(layout.height), autosize: false } };
}

// A figure in an element; what is shown there later leaves nothing of what was shown before.
export function hosted(element, clicked = () => {}) {
  const Plotly = load_plotly();
  let figure = null, drawn = 0, wanted = 0; // drawn: the width of what is there; 0: nothing yet, or another figure
  element.classList.add("figure-host");
  Object.assign(element.style, { width: "100%", minWidth: 0, minHeight: "1px", overflow: "auto hidden" });
  const draw = async () => {
    const room = Math.floor(element.clientWidth);
    if (!figure || !room || element.offsetParent === null) return; // seen later
    drawn = room;
    const { data, layout } = fitted(figure, room);
    const place = document.createElement("div");
    const old = [...element.children];
    element.append(place);
    old.forEach((one) => { Plotly.purge(one); one.remove(); });
    await Plotly.newPlot(place, data, layout, { displaylogo: false });
    place.dataset.width = room;
    place.on("plotly_click", (event) => clicked(event.points[0]));
  };
  const soon = () => { cancelAnimationFrame(wanted); wanted = requestAnimationFrame(draw); };
  const watch = new ResizeObserver(() => { if (Math.floor(element.clientWidth) !== drawn) soon(); });
  watch.observe(element);
  return {
    show(given) { figure = given; drawn = 0; soon(); },
    stop() { watch.disconnect(); [...element.children].forEach((one) => Plotly.purge(one)); },
  };
}

// As a widget: what Python shows, and which point was clicked.
function render({ model, el }) {
  const host = hosted(el, (point) => model.send({ kind: "clicked", trace: point.curveNumber, point: point.pointIndex }));
  const show = () => host.show(JSON.parse(model.get("content")));
  model.on("change:content", show);
  show();
  return () => { model.off("change:content", show); host.stop(); };
}

export default { render };
