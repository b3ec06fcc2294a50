// Elements, and the few things that are done to them everywhere.

const SVG = "http://www.w3.org/2000/svg";

function dress(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "class") element.setAttribute("class", value);
    else if (key === "style") element.style.cssText = value;
    else if (key in element && key !== "list" && !(element instanceof SVGElement)) element[key] = value;
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// make("button", { class: "x", onclick: f }, "text", element, ...)
export const make = (tag, attributes = {}, ...children) => dress(document.createElement(tag), attributes, children);
export const makeSvg = (tag, attributes = {}, ...children) => dress(document.createElementNS(SVG, tag), attributes, children);

let numbers = 0;
export const newId = (word) => `wb-${word}-${(numbers += 1)}`;

// A control with its name in front of it.
export function labelled(text, control, attributes = {}) {
  control.id ||= newId("control");
  return make("span", { class: "wb-field", ...attributes }, make("label", { htmlFor: control.id }, text), control);
}

// A choice of few, as buttons beside each other: options are [value, text] pairs.
export function segments(name, options, changed) {
  const group = make("span", { class: "wb-segments", role: "radiogroup", "aria-label": name });
  const buttons = options.map(([value, text]) => make("button", {
    type: "button", role: "radio", onclick: () => changed(value),
  }, text));
  group.append(...buttons);
  group.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const next = (buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length;
    buttons[next].focus();
    buttons[next].click();
  });
  group.show = (value) => options.forEach(([own], i) => {
    buttons[i].setAttribute("aria-checked", own === value);
    buttons[i].tabIndex = own === value ? 0 : -1;
  });
  return group;
}

export const digits = (value, n = 2) => (value === null || value === undefined || Number.isNaN(value) ? "–" : value.toFixed(n).replace("-", "−"));
export const counted = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

// The latest of several questions: an answer that comes after a later question was asked is dropped.
export function latest() {
  let asked = 0;
  return async (work, use) => {
    const own = (asked += 1);
    const found = await work();
    if (own === asked) use(found);
  };
}

// Work that is done once when several ask for it in one moment.
export function soon(work) {
  let waiting = 0;
  return (...given) => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => work(...given));
  };
}
