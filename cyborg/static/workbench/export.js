// What is seen, to take along: SVG and PNG of the tab, its numbers as CSV, a PDF, and the Python that makes it.
import { make, makeSvg } from "./dom.js";
import { choiceOf } from "./state.js";

const NONE = "rgba(0, 0, 0, 0)";

function pictureOf(element, width, height) {
  const canvas = make("canvas", { width, height });
  canvas.getContext("2d").drawImage(element, 0, 0, width, height);
  return canvas.toDataURL("image/png");
}

// Words where they stand, a line at a time.
function textsOf(node, origin) {
  const style = getComputedStyle(node.parentElement), range = document.createRange(), lines = [];
  for (let i = 0; i < node.length; i += 1) {
    range.setStart(node, i);
    range.setEnd(node, i + 1);
    const box = range.getClientRects()[0];
    if (!box || !box.width) continue;
    const line = lines.at(-1);
    if (line && Math.abs(line.box.y - box.y) < 3) line.text += node.data[i];
    else lines.push({ box, text: node.data[i] });
  }
  return lines.map(({ box, text }) => makeSvg("text", {
    x: box.x - origin.x, y: box.y - origin.y + box.height * 0.78, fill: style.color, "font-family": style.fontFamily, "font-size": style.fontSize, "font-weight": style.fontWeight, "xml:space": "preserve",
  }, text));
}

function boxOf(element, box, style, origin) {
  const border = parseFloat(style.borderTopWidth) > 0 && style.borderTopStyle !== "none" ? style.borderTopColor : "none";
  if (style.backgroundColor === NONE && border === "none") return [];
  return [makeSvg("rect", { x: box.x - origin.x, y: box.y - origin.y, width: box.width, height: box.height, fill: style.backgroundColor === NONE ? "none" : style.backgroundColor, stroke: border, rx: parseFloat(style.borderTopLeftRadius) || 0 })];
}

function partsOf(element, origin) {
  const box = element.getBoundingClientRect(), style = getComputedStyle(element);
  if (style.display === "none" || style.visibility === "hidden" || element.matches("select, input, .modebar-container, .wb-controls")) return [];
  const place = { x: box.x - origin.x, y: box.y - origin.y, width: box.width, height: box.height };
  if (element.matches("img, canvas, svg") && !(box.width && box.height)) return [];
  if (element.matches("img, canvas")) {
    const picture = makeSvg("image", { ...place, href: pictureOf(element, ...(element.matches("canvas") ? [element.width, element.height] : [Math.round(2 * box.width), Math.round(2 * box.height)])), preserveAspectRatio: "none", opacity: style.opacity });
    return [picture];
  }
  if (element instanceof SVGSVGElement) {
    const copy = element.cloneNode(true);
    Object.entries(place).forEach(([key, value]) => copy.setAttribute(key, value));
    styled(element, copy);
    return [copy];
  }
  const inside = [...element.childNodes].flatMap((node) => (node.nodeType === 3 ? textsOf(node, origin) : node.nodeType === 1 ? partsOf(node, origin) : []));
  return [...boxOf(element, box, style, origin), ...inside];
}

// A copied drawing keeps what the page's style sheet gave it.
function styled(element, copy) {
  const keys = ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity"], from = element.querySelectorAll("polygon, polyline, line, circle"), to = copy.querySelectorAll("polygon, polyline, line, circle");
  from.forEach((one, i) => { const style = getComputedStyle(one); keys.forEach((key) => { if (!to[i].hasAttribute(key) && !to[i].style[key]) to[i].setAttribute(key, style.getPropertyValue(key)); }); });
}

export function snapshot(element) {
  const whole = element.getBoundingClientRect(), first = [...element.children].find((child) => child.offsetHeight && !child.matches(".wb-controls"));
  const top = first ? first.getBoundingClientRect().y - 8 : whole.y; // controls are left out
  const box = { x: whole.x - 8, y: top }, width = Math.ceil(whole.width + 16), height = Math.ceil(whole.bottom - top + 8);
  const svg = makeSvg("svg", { xmlns: "http://www.w3.org/2000/svg", width, height, viewBox: `0 0 ${width} ${height}` });
  svg.append(makeSvg("rect", { width, height, fill: getComputedStyle(element.closest(".wb")).backgroundColor }), ...partsOf(element, box));
  return { text: new XMLSerializer().serializeToString(svg), width, height };
}

export function csvOf(rows) {
  const names = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const cell = (value) => { const text = value === null || value === undefined ? "" : String(value); return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text; };
  return [names, ...rows.map((row) => names.map((name) => row[name]))].map((line) => line.map(cell).join(",")).join("\n");
}

function save(name, blob) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function rasterised({ text, width, height }, scale = 2) {
  const image = make("img", { src: `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}` });
  await image.decode();
  const canvas = make("canvas", { width: scale * width, height: scale * height });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => { canvas.toBlob(resolve, "image/png"); });
}

const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

export function exportMenu(bench) {
  const { store, carrier } = bench, name = (kind) => `cyborg-${store.get().tab}.${kind}`;
  const seen = () => snapshot(bench.tab().element);
  const makers = {
    SVG: async () => save(name("svg"), new Blob([seen().text], { type: "image/svg+xml" })),
    PNG: async () => save(name("png"), await rasterised(seen())),
    PDF: async () => {
      const { text, width, height } = seen();
      const { pdf } = await bench.working("making the PDF …", () => carrier.ask("pdf", { svg: text, width, height }));
      save(name("pdf"), new Blob([bytes(pdf)], { type: "application/pdf" }));
    },
    CSV: async () => {
      const tab = bench.tab(), text = tab.csv ? tab.csv() : csvOf(tab.table());
      if (!text.trim()) throw new Error("there are no numbers here to take along");
      save(name("csv"), new Blob([text], { type: "text/csv" }));
    },
    Python: async () => showCode(bench, await carrier.ask("code", { choice: choiceOf(store.get()), tab: store.get().tab, what: store.get().curve, section: store.get().section })),
  };
  const menu = make("details", { class: "wb-export" }, make("summary", { class: "wb-plain" }, "Export"));
  const items = Object.entries(makers).map(([kind, work]) => make("button", { type: "button", onclick: async () => {
    menu.open = false;
    bench.say("");
    try { await work(); } catch (error) { bench.say(error); }
  } }, kind));
  menu.append(make("div", { class: "wb-export-items" }, ...items));
  menu.addEventListener("focusout", (event) => { if (!menu.contains(event.relatedTarget)) menu.open = false; });
  menu.addEventListener("keydown", (event) => { if (event.key === "Escape") { menu.open = false; menu.firstChild.focus(); event.stopPropagation(); } });
  return menu;
}

function showCode(bench, { code }) {
  const text = make("pre", { tabIndex: 0 }, code);
  const dialog = make("dialog", { class: "wb-keys wb-code", "aria-label": "Python", onclose: () => dialog.remove() }, make("h2", {}, "Python that makes it"), text,
    make("button", { type: "button", onclick: () => navigator.clipboard?.writeText(code) }, "copy"), " ", make("button", { type: "button", onclick: () => dialog.close() }, "close"));
  bench.root.append(dialog);
  dialog.showModal();
}
