// The brush: one or two pictures to paint on. Used as it stands by the study page (import { Board })
// and by the widget cyborg.widgets.Brush (anywidget calls the default export).
//
// A stroke is {points: [[x, y, seconds], ...], radius, erase}, x and y in pixels of the picture from its
// outer corner, seconds since the picture was shown. Painting, erasing and clearing are kept in one
// history for all pictures of a board, so that undo takes back what was done last, wherever it was.

const ZOOMS = [1, 1.5, 2, 3, 4, 6, 8];
const PALM = 60; // CSS pixels: a touch that is wider is a hand, not a finger
const MOST = { strokes: 500, points: 20000 }; // of one picture, as cyborg.annotation stores them
const COLOUR = "rgb(0, 158, 115)"; // bluish green of Okabe and Ito; half transparent by the style sheet
const round = (value, step) => Math.round(value / step) * step;
const tidy = (value) => Number(value.toFixed(3));

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") element.addEventListener("click", value);
    else if (value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export function drawStroke(context, stroke, scale) {
  context.globalCompositeOperation = stroke.erase ? "destination-out" : "source-over";
  context.fillStyle = context.strokeStyle = COLOUR;
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = 2 * stroke.radius * scale;
  context.beginPath();
  const [first, ...rest] = stroke.points;
  if (rest.length === 0) {
    context.arc(first[0] * scale, first[1] * scale, stroke.radius * scale, 0, 2 * Math.PI);
    context.fill();
    return;
  }
  context.moveTo(first[0] * scale, first[1] * scale);
  for (const [x, y] of rest) context.lineTo(x * scale, y * scale);
  context.stroke();
}

class Picture {
  constructor(board, number, { src, alt, width, height }) {
    Object.assign(this, { board, number, width, height, pen: null, cursor: null });
    this.scale = Math.max(1, Math.ceil(512 / Math.max(width, height)));
    this.image = make("img", { alt: alt || "", draggable: "false" });
    this.loaded = new Promise((done, failed) => {
      this.image.addEventListener("load", done, { once: true });
      this.image.addEventListener("error", () => failed(new Error("a picture did not load")), { once: true });
    });
    this.loaded.catch(() => {});
    this.image.src = src;
    this.canvas = make("canvas", { width: width * this.scale, height: height * this.scale });
    this.ring = make("div", { class: "brush-ring", hidden: "" });
    this.stage = make(
      "div",
      {
        class: "brush-stage",
        tabindex: "0",
        role: "application",
        "aria-label": `${alt || "picture"}: paint here. Arrow keys move, space lowers and lifts the brush`,
      },
      this.image,
      this.canvas,
      this.ring,
    );
    this.stage.style.aspectRatio = `${width} / ${height}`; // no style attribute: the page forbids them
    this.view = make("div", { class: "brush-view" }, this.stage);
    this.figure = make("div", { class: "brush-figure" }, this.view);
    this.touches = new Map();
    const on = (name, handler) => this.stage.addEventListener(name, handler.bind(this));
    on("pointerdown", this.down);
    on("pointermove", this.move);
    on("pointerup", this.up);
    on("pointercancel", this.cancel);
    on("pointerleave", () => { if (!this.cursor) this.ring.hidden = true; });
    on("blur", this.lift);
    on("keydown", this.key);
    on("contextmenu", (event) => event.preventDefault());
  }

  name(alt) { // for those who cannot see where it stands
    if (this.image.alt === alt) return;
    this.image.alt = alt;
    this.stage.setAttribute("aria-label", `${alt}: paint here. Arrow keys move, space lowers and lifts the brush`);
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * this.width;
    const y = ((event.clientY - box.top) / box.height) * this.height;
    return this.point(x, y);
  }

  point(x, y) {
    const inside = (value, end) => tidy(Math.min(Math.max(value, 0), end));
    return [inside(x, this.width), inside(y, this.height), tidy(this.board.seconds())];
  }

  begin(point) {
    if (this.board.isFull(this.number)) return;
    const { radius, erase } = this.board;
    this.pen = { points: [point], radius: tidy(radius * this.width), erase };
    this.board.inputs.add(this.cursor ? "keyboard" : this.kind);
    this.draw();
  }

  extend(point) {
    const last = this.pen.points[this.pen.points.length - 1];
    if (Math.hypot(point[0] - last[0], point[1] - last[1]) < 0.4) return;
    if (this.board.isFull(this.number, this.pen.points.length)) return;
    this.pen.points.push(point);
  }

  lift() {
    if (!this.pen) return;
    const stroke = this.pen;
    this.pen = null;
    this.board.add({ picture: this.number, stroke });
  }

  down(event) {
    if (event.button !== 0 || this.board.locked) return;
    event.preventDefault();
    this.stage.focus({ preventScroll: true });
    this.cursor = null;
    this.stage.setPointerCapture(event.pointerId);
    if (event.pointerType === "pen") this.board.pen = true;
    if (event.pointerType === "touch") {
      if (Math.max(event.width || 0, event.height || 0) > PALM) return; // a palm
      this.touches.set(event.pointerId, event);
      if (this.touches.size > 1) { // a second finger: the first one did not mean to paint
        this.pen = null;
        this.pinch = { apart: this.apart(), zoom: this.board.zoom };
        this.draw();
        return;
      }
      if (this.board.pen) return; // who has a pen rests a hand and moves the picture with fingers
    }
    this.lift();
    this.pointer = event.pointerId;
    this.kind = ["mouse", "pen", "touch"].includes(event.pointerType) ? event.pointerType : "mouse";
    this.begin(this.place(event));
    this.show(event);
  }

  move(event) {
    this.show(event);
    if (this.touches.size > 1 && this.touches.has(event.pointerId)) {
      const before = this.touches.get(event.pointerId);
      const [dx, dy] = [event.clientX - before.clientX, event.clientY - before.clientY].map((d) => d / this.touches.size);
      this.view.scrollLeft -= dx;
      if (this.view.scrollHeight > this.view.clientHeight + 1) this.view.scrollTop -= dy;
      else window.scrollBy(0, -dy); // two fingers move the page where the picture is not enlarged
      this.touches.set(event.pointerId, event);
      const apart = this.apart();
      if (this.touches.size === 2 && Math.abs(apart / this.pinch.apart - 1) > 0.08) {
        this.board.zoomTo(this.pinch.zoom * (apart / this.pinch.apart));
      }
      return;
    }
    if (!this.pen || event.pointerId !== this.pointer) return;
    const events = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
    for (const each of events.length ? events : [event]) this.extend(this.place(each));
    this.draw();
  }

  apart() { // of the first two fingers, CSS pixels
    const [a, b] = [...this.touches.values()];
    return Math.max(1, Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY));
  }

  up(event) {
    this.touches.delete(event.pointerId);
    if (!this.pen || event.pointerId !== this.pointer) return;
    this.extend(this.place(event));
    this.lift();
  }

  cancel(event) {
    this.touches.delete(event.pointerId);
    this.lift();
  }

  key(event) {
    const step = event.shiftKey ? 1 : Math.max(1, this.board.radius * this.width * 0.5);
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (event.key in moves) {
      const [x, y] = this.cursor || [this.width / 2, this.height / 2];
      const [dx, dy] = this.cursor ? moves[event.key] : [0, 0];
      this.cursor = this.point(x + dx, y + dy);
      if (this.pen) this.extend(this.cursor);
      this.draw();
      this.showCursor();
    } else if (event.key === " " || event.key === "Enter") {
      if (this.board.locked) return;
      this.cursor = this.cursor || this.point(this.width / 2, this.height / 2);
      if (this.pen) this.lift();
      else this.begin(this.point(this.cursor[0], this.cursor[1]));
      this.showCursor();
      if (this.pen) this.board.say("brush down");
    } else if (event.key === "Escape") {
      this.pen = null;
      this.draw();
    } else if (!this.board.shortcut(event)) return;
    event.preventDefault();
    event.stopPropagation();
  }

  show(event) {
    const box = this.canvas.getBoundingClientRect();
    this.showRing((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  }

  showCursor() {
    const [x, y] = [this.cursor[0] / this.width, this.cursor[1] / this.height];
    const { view, stage } = this, margin = this.board.radius * stage.offsetWidth;
    const inside = (at, now, room) => Math.max(Math.min(now, at - margin), at + margin - room);
    view.scrollLeft = inside(x * stage.offsetWidth, view.scrollLeft, view.clientWidth);
    view.scrollTop = inside(y * stage.offsetHeight, view.scrollTop, view.clientHeight);
    this.showRing(x, y);
  }

  showRing(x, y) {
    this.ring.hidden = false;
    this.ring.style.left = `${100 * x}%`;
    this.ring.style.top = `${100 * y}%`;
    this.ring.style.width = `${200 * this.board.radius}%`;
    this.ring.classList.toggle("erase", this.board.erase);
    this.ring.classList.toggle("down", Boolean(this.pen));
  }

  draw() {
    const context = this.canvas.getContext("2d");
    context.globalCompositeOperation = "source-over";
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    for (const stroke of this.board.strokes(this.number)) drawStroke(context, stroke, this.scale);
    if (this.pen) drawStroke(context, this.pen, this.scale);
  }
}

export class Board {
  // radius: of the brush, as a share of the picture's width; strokes: one list a picture
  constructor(element, { pictures, strokes = [], radius = 0.06, onChange = () => {} }) {
    Object.assign(this, { radius, onChange, erase: false, zoom: 1, locked: false, undone: [], pen: false, inputs: new Set() });
    this.before = pictures.map((_, i) => strokes[i] || []); // what was there when the board was made
    this.history = [];
    this.started = performance.now();
    this.offset = Math.max(0, ...this.before.flat().flatMap((s) => s.points.map((p) => p[2])));
    this.pictures = pictures.map((picture, number) => new Picture(this, number, picture));
    this.status = make("span", { class: "brush-status", role: "status", "aria-live": "polite" });
    this.tools = this.makeTools();
    this.row = make("div", { class: "brush-pictures" }, ...this.pictures.map((picture) => picture.figure));
    this.element = make("div", { class: "brush-board" }, this.tools, this.row);
    this.element.addEventListener("keydown", (event) => {
      if (event.target !== this.size && this.shortcut(event)) event.preventDefault();
    });
    element.replaceChildren(this.element);
    this.refresh();
  }

  makeTools() {
    const button = (name, label, title, act) =>
      (this[name] = make("button", { type: "button", title, "data-tool": name, onclick: act }, label));
    this.size = make("input", {
      type: "range", min: "0.01", max: "0.2", step: "0.005", value: this.radius, "aria-label": "brush size",
    });
    this.size.addEventListener("input", () => this.setRadius(Number(this.size.value)));
    const tools = [
      make("label", { class: "brush-size" }, "Size ", this.size),
      button("brushButton", "Brush", "paint (E changes to the eraser)", () => this.setErase(false)),
      button("eraseButton", "Eraser", "rub out (E changes to the brush)", () => this.setErase(true)),
      button("undoButton", "Undo", "take back (Z)", () => this.undo()),
      button("redoButton", "Redo", "do again (Y)", () => this.redo()),
      button("clearButton", "Clear", "remove all marks (Delete)", () => this.clear()),
      button("outButton", "\u2212", "zoom out (-)", () => this.setZoom(-1)),
      button("inButton", "+", "zoom in (+)", () => this.setZoom(1)),
    ];
    this.outButton.setAttribute("aria-label", "zoom out");
    this.inButton.setAttribute("aria-label", "zoom in");
    return make("div", { class: "brush-tools", role: "toolbar", "aria-label": "brush" }, ...tools, this.status);
  }

  seconds() {
    return this.offset + (performance.now() - this.started) / 1000;
  }

  layout() { // how two pictures stand; one alone is beside itself
    const boxes = this.pictures.map((picture) => picture.view.getBoundingClientRect());
    return boxes.length > 1 && boxes[1].top >= boxes[0].bottom - 1 && boxes[0].height ? "stacked" : "side by side";
  }

  get loaded() {
    return Promise.all(this.pictures.map((picture) => picture.loaded));
  }

  restart() { // the clock: called when the pictures can be seen
    this.started = performance.now();
  }

  strokes(number) {
    let own = this.before[number];
    for (const done of this.history) {
      if (done.clear) own = [];
      else if (done.picture === number) own = [...own, done.stroke];
    }
    return own;
  }

  allStrokes() {
    return this.pictures.map((_, number) => this.strokes(number));
  }

  replace(strokes) { // from outside; the history begins anew
    this.before = this.pictures.map((_, i) => strokes[i] || []);
    this.history = [];
    this.undone = [];
    this.refresh();
  }

  limit(number, more = 0) { // in words, where a picture has as much as can be stored
    const own = this.strokes(number);
    const points = own.reduce((sum, stroke) => sum + stroke.points.length, more);
    if (own.length < MOST.strokes && points < MOST.points) return "";
    const most = own.length < MOST.strokes ? `${MOST.points} points` : `${MOST.strokes} strokes`;
    return `This picture has ${most}, the most that can be stored. Undo or clear to go on.`;
  }

  isFull(number, more = 0) { // and says so
    const limit = this.limit(number, more);
    if (limit) this.say(limit);
    return Boolean(limit);
  }

  lift() { // what is being painted is kept
    for (const picture of this.pictures) picture.lift();
  }

  add(done) {
    this.history.push(done);
    this.undone = [];
    this.changed(done.clear ? "cleared" : done.stroke.erase ? "erased" : "painted");
  }

  undo() {
    if (this.locked || !this.history.length) return;
    this.undone.push(this.history.pop());
    this.changed("undone");
  }

  redo() {
    if (this.locked || !this.undone.length) return;
    this.history.push(this.undone.pop());
    this.changed("done again");
  }

  clear() {
    if (!this.locked && this.allStrokes().some((own) => own.length)) this.add({ clear: true });
  }

  changed(what) {
    this.refresh();
    const count = this.allStrokes().flat().filter((stroke) => !stroke.erase).length;
    const limit = this.pictures.map((_, number) => this.limit(number)).find(Boolean);
    this.say(limit || `${what}; ${count} ${count === 1 ? "mark" : "marks"}`);
    this.onChange(this.allStrokes());
  }

  refresh() {
    const tool = document.activeElement;
    for (const picture of this.pictures) picture.draw();
    this.undoButton.disabled = this.locked || !this.history.length;
    this.redoButton.disabled = this.locked || !this.undone.length;
    this.clearButton.disabled = this.locked || !this.allStrokes().some((own) => own.length);
    this.brushButton.setAttribute("aria-pressed", String(!this.erase));
    this.eraseButton.setAttribute("aria-pressed", String(this.erase));
    this.outButton.disabled = this.zoom === ZOOMS[0];
    this.inButton.disabled = this.zoom === ZOOMS[ZOOMS.length - 1];
    if (tool && tool.disabled && this.tools.contains(tool)) { // or the keyboard would be lost with it
      this.pictures[0].stage.focus({ preventScroll: true });
    }
  }

  say(text) {
    this.status.textContent = text;
  }

  lock(locked) {
    this.locked = locked;
    this.refresh();
  }

  setErase(erase) {
    this.erase = erase;
    this.refresh();
  }

  setRadius(radius) {
    this.radius = Math.min(0.2, Math.max(0.01, round(radius, 0.005)));
    this.size.value = this.radius;
    for (const picture of this.pictures) picture.ring.style.width = `${200 * this.radius}%`;
  }

  setZoom(step) { // to the next one of ZOOMS
    const wider = ZOOMS.filter((zoom) => (zoom - this.zoom) * step > 1e-9);
    this.zoomTo(step > 0 ? wider[0] ?? this.zoom : wider[wider.length - 1] ?? this.zoom);
  }

  zoomTo(zoom) { // any value between the ends of ZOOMS, about the middle of what is seen
    this.zoom = Math.min(Math.max(zoom, ZOOMS[0]), ZOOMS[ZOOMS.length - 1]);
    for (const { view, stage } of this.pictures) {
      const centre = [view.scrollLeft + view.clientWidth / 2, view.scrollTop + view.clientHeight / 2];
      const old = stage.offsetWidth || 1;
      stage.style.width = `${100 * this.zoom}%`;
      const factor = stage.offsetWidth / old;
      view.scrollLeft = centre[0] * factor - view.clientWidth / 2;
      view.scrollTop = centre[1] * factor - view.clientHeight / 2;
    }
    this.refresh();
  }

  shortcut(event) {
    const acts = {
      e: () => this.setErase(!this.erase),
      z: () => (event.shiftKey ? this.redo() : this.undo()),
      y: () => this.redo(),
      "[": () => this.setRadius(this.radius - 0.01),
      "]": () => this.setRadius(this.radius + 0.01),
      "+": () => this.setZoom(1),
      "=": () => this.setZoom(1),
      "-": () => this.setZoom(-1),
      Delete: () => this.clear(),
    };
    const act = acts[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act || event.altKey) return false;
    if ((event.ctrlKey || event.metaKey) && !"zy".includes(event.key.toLowerCase())) return false;
    act();
    return true;
  }
}

// What is painted is sent as a message, which comes in its turn among the presses of buttons, and with
// the key of its picture: the kernel may have gone on to another one while this was still shown.
function render({ model, el }) {
  let board = null, id = "";
  const build = () => {
    if (board) board.lift(); // a stroke that is being painted belongs to the picture that goes
    const [{ key }] = model.get("pictures"), own = Math.random().toString(36).slice(2);
    const send = (strokes) => {
      model.send({ kind: "painted", key, board: own, strokes, seconds: tidy(made.seconds()) });
    };
    const made = new Board(el, {
      pictures: model.get("pictures"),
      strokes: model.get("strokes"),
      radius: model.get("radius"),
      onChange: send,
    });
    made.size.addEventListener("change", () => {
      model.set("radius", made.radius);
      model.save_changes();
    });
    [board, id] = [made, own];
  };
  const fromPython = () => {
    if (model.get("painter") === id) return; // its own, perhaps older than what it shows
    const strokes = model.get("strokes");
    if (JSON.stringify(strokes) !== JSON.stringify(board.allStrokes())) board.replace(strokes);
  };
  const resize = () => board.setRadius(model.get("radius"));
  const complain = () => { if (model.get("problem")) board.say(`Not kept: ${model.get("problem")}`); };
  const heard = {
    "change:pictures": build,
    "change:strokes": fromPython,
    "change:painter": fromPython,
    "change:radius": resize,
    "change:problem": complain,
  };
  build();
  for (const [event, act] of Object.entries(heard)) model.on(event, act);
  return () => { for (const [event, act] of Object.entries(heard)) model.off(event, act); };
}

export default { render };
