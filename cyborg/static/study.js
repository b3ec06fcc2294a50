// The study page. It knows nothing that tells the answer: pictures come under random names, and the
// server says which pair comes next. Whatever has not been acknowledged is kept in the browser and sent
// again; the server stores it once.
import { Board } from "./brush.js";

const main = document.getElementById("main");
const parameters = new URLSearchParams(location.search);
const kept = {
  get: (key) => { try { return JSON.parse(localStorage.getItem(`cyborg:${key}`)); } catch { return null; } },
  set: (key, value) => { try { localStorage.setItem(`cyborg:${key}`, JSON.stringify(value)); } catch { /* full or forbidden */ } },
  drop: (key) => { try { localStorage.removeItem(`cyborg:${key}`); } catch { /* forbidden */ } },
};
let token = "", submit = "";

const wait = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));
const notice = (text) => { document.getElementById("notice").textContent = text; };

function make(tag, attributes = {}, ...children) {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children);
  return element;
}

function show(...children) {
  main.className = "";
  main.replaceChildren(...children);
  main.focus();
  window.scrollTo(0, 0);
}

function pressed(button) {
  return new Promise((done) => button.addEventListener("click", () => { button.disabled = true; done(); }, { once: true }));
}

class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function refusal(response) { // a server in between may refuse in its own words
  const content = await response.json().catch(() => ({}));
  return new Refused(content.error || `the server says ${response.status}`, response.status);
}

// Try until the server answers: a lost connection or a restarted server loses nothing. What it refuses, and a
// fault of its own (500), is told once: the same again would have the same answer.
const AGAIN = {
  429: "The server is busy. Your work is kept here; trying again …",
  503: "The server cannot store anything just now. Your work is kept here; trying again …",
};
const LOST = "No connection to the server. Your work is kept here; trying again …";

async function call(path, body) {
  for (let attempt = 0; ; attempt += 1) {
    let why = LOST, pause = Math.min(8, 0.5 * 2 ** attempt);
    try {
      const headers = { "Content-Type": "application/json", Authorization: `Bearer ${token}` };
      const options = body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers };
      const response = await fetch(path, { ...options, cache: "no-store" });
      const ours = response.headers.get("Content-Type") === "application/json"; // a proxy may speak for a server that is gone
      if (ours && response.status in AGAIN) {
        why = AGAIN[response.status];
        pause = Math.max(pause, Number(response.headers.get("Retry-After")) || 0);
      } else if (response.status <= 500) {
        const content = response.ok ? await response.json() : null;
        if (attempt) notice(""); // its own words about the connection, nobody else's
        if (!content) throw await refusal(response);
        return content;
      }
    } catch (error) {
      if (error instanceof Refused) throw error;
    }
    notice(why);
    await wait(pause);
  }
}

const isPreview = () => parameters.get("assignmentId") === "ASSIGNMENT_ID_NOT_AVAILABLE";

function workerId(guests) {
  const given = parameters.get("PROLIFIC_PID") || parameters.get("workerId") || parameters.get("worker");
  if (given || !guests) return given;
  const guest = kept.get("guest") || `guest-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`;
  kept.set("guest", guest);
  return guest;
}

async function consent(texts, worker) {
  const text = make("div", { className: "text", innerHTML: texts.consent });
  if (isPreview()) {
    const why = "This is a preview: nothing is stored. Accept the task to take part.";
    const instructions = make("div", { className: "text", id: "preview", innerHTML: texts.instructions });
    show(make("p", { className: "hint", textContent: why }), text, instructions);
    await new Promise(() => {});
  }
  if (!worker) {
    const why = "This link lacks a worker id. Please use the link you were given.";
    show(text, make("p", { className: "hint", textContent: why }));
    await new Promise(() => {});
  }
  const agree = make("input", { type: "checkbox", id: "agree" });
  const start = make("button", { className: "main", id: "start", textContent: "Take part", disabled: true });
  agree.addEventListener("change", () => { start.disabled = !agree.checked; });
  show(text, make("p", {}, make("label", {}, agree, " I have read this and agree to take part.")), start);
  await pressed(start);
}

async function enter(worker, agreed) {
  const entry = Object.fromEntries(parameters);
  const entered = await call("api/enter", { worker, entry, consent: agreed });
  ({ token, submit } = entered);
  return entered;
}

async function read(texts) {
  const start = make("button", { className: "main", id: "begin", textContent: "Begin" });
  show(make("div", { className: "text", innerHTML: texts.instructions }), start);
  await pressed(start);
}

function progress(trial) { // practice and checks counted: it ends with the last one
  document.getElementById("progress").hidden = false;
  document.getElementById("bar").value = trial.number / trial.total;
  document.getElementById("count").textContent = `${trial.number + 1} of ${trial.total}`;
}

const KINDS = { authentic: "real", synthetic: "synthetic" };
const QUESTIONS = {
  authentic: ["Which picture is ", "real", "is real"],
  synthetic: ["Which picture is ", "synthetic", "is synthetic"],
};
const MARKS = {
  either: "mark on the pictures what told you",
  both: "mark on both pictures what told you",
  chosen: "mark on the picture you chose what told you",
  single: "mark on the picture what told you",
};
const SIDES = (trial) => (trial.right ? ["left", "right"] : ["left"]);

// Of one picture, both answers stand below it.
function verdicts(board, onChoice) {
  const answers = Object.entries(KINDS).map(([kind, word]) => {
    const input = make("input", { type: "radio", name: "choice", value: kind, id: `choose-${kind}` });
    input.addEventListener("change", () => onChoice(kind));
    return make("label", { className: "choice" }, input, ` ${word[0].toUpperCase()}${word.slice(1)}`);
  });
  const row = make("div", { className: "verdicts" }, ...answers);
  row.setAttribute("role", "radiogroup");
  row.setAttribute("aria-label", "Your answer");
  board.pictures[0].view.after(row);
}

// How sure, and why in words, where the study asks for it. `missing` says what is still wanted.
const SURE = { 2: ["a guess", "sure"], 3: ["a guess", "fairly sure", "certain"] };

function remarks(trial, draft, onChange) {
  const parts = [], values = { confidence: draft.confidence, reason: draft.reason || "" };
  if (trial.confidence) {
    const words = SURE[trial.confidence] || Array.from({ length: trial.confidence }, (_, i) =>
      i === 0 ? "1, a guess" : i === trial.confidence - 1 ? `${i + 1}, certain` : `${i + 1}`);
    const levels = words.map((word, i) => {
      const input = make("input", { type: "radio", name: "confidence", value: i + 1, id: `sure-${i + 1}`, checked: draft.confidence === i + 1 });
      input.addEventListener("change", () => { values.confidence = i + 1; onChange(); });
      return make("label", { className: "choice" }, input, ` ${word}`);
    });
    parts.push(make("fieldset", { className: "sure" }, make("legend", { textContent: "How sure are you?" }), ...levels));
  }
  if (trial.reasons !== "none") {
    const text = make("textarea", { id: "reason", rows: 2, maxLength: 2000, value: values.reason });
    text.addEventListener("input", () => { values.reason = text.value; onChange(); });
    const words = trial.reasons === "required" ? "What told you, in your words" : "What told you, in your words (if you like)";
    parts.push(make("label", { className: "reason" }, words, text));
  }
  const missing = () => [
    trial.confidence && !values.confidence && "say how sure you are",
    trial.reasons === "required" && !values.reason.trim() && "write what told you",
  ].filter(Boolean);
  const given = () => ({ ...(trial.confidence && { confidence: values.confidence }), ...(trial.reasons !== "none" && { reason: values.reason }) });
  return { element: make("div", { className: "remarks" }, ...parts), values, missing, given };
}

// Each answer stands at its picture. Where pictures stand is measured, not taken from the width of the page.
const PLACES = { "side by side": ["left", "right"], stacked: ["upper", "lower"], single: ["alone", ""] };

function choices(board, question, onChoice) {
  const names = ["left", "right"].map((side, number) => {
    const input = make("input", { type: "radio", name: "choice", value: side, id: `choose-${side}` });
    input.addEventListener("change", () => onChoice(side));
    const name = make("span");
    const answer = make("label", { className: "choice" }, input, " ", name);
    board.pictures[number].view.after(answer);
    board.pictures[number].figure.setAttribute("role", "group");
    return name;
  });
  board.row.setAttribute("role", "radiogroup");
  board.row.setAttribute("aria-label", "Your answer");
  const name = () => PLACES[board.layout()].forEach((place, number) => {
    names[number].textContent = `The ${place} one ${QUESTIONS[question][2]}`;
    board.pictures[number].name(`${place} picture`);
  });
  new ResizeObserver(name).observe(board.row); // also when it is first shown
  return name;
}

function layout(board) { // as the server stores it with the answer
  const kind = board.pictures.length > 1 ? board.layout() : "single", [left_at, right_at] = PLACES[kind];
  const view = { viewport_width: window.innerWidth, viewport_height: window.innerHeight };
  const picture_width = board.pictures[0].view.clientWidth, input = [...board.inputs].sort().join(" ");
  return { layout: kind, left_at, right_at, ...view, picture_width, device_pixel_ratio: window.devicePixelRatio, input };
}

// Whether paint is left on a picture: what was painted may have been rubbed out again.
function isPainted(canvas) {
  const probe = Object.assign(document.createElement("canvas"), { width: 128, height: 128 });
  const context = probe.getContext("2d", { willReadFrequently: true });
  context.drawImage(canvas, 0, 0, 128, 128);
  return context.getImageData(0, 0, 128, 128).data.some((value, i) => i % 4 === 3 && value > 127);
}

function marked(trial, choice, board) {
  if (!board) return false;
  const painted = board.pictures.map((picture) => isPainted(picture.canvas));
  if (trial.marks === "both") return painted.every(Boolean);
  if (trial.marks === "chosen" && painted.length > 1) return painted[choice === "left" ? 0 : 1];
  return painted.some(Boolean);
}

async function ask(trial) {
  const sides = SIDES(trial);
  const draft = kept.get(trial.trial) || { strokes: sides.map(() => []), choice: "", seconds: 0 };
  const place = make("div");
  const next = make("button", { className: "main", id: "next", textContent: "Next", disabled: true });
  const hint = make("span", { className: "hint", id: "hint" });
  let choice = draft.choice, board = null, said = null, started = performance.now(), refused = "";
  const seconds = () => draft.seconds + (performance.now() - started) / 1000;
  const update = () => {
    const strokes = board ? board.allStrokes() : sides.map(() => []);
    const missing = marked(trial, choice, board) ? [] : [MARKS[sides.length > 1 ? trial.marks : "single"]];
    if (said) missing.push(...said.missing());
    next.disabled = !choice || missing.length > 0;
    if (refused) notice(refused = "");
    if (!choice) missing.unshift("choose");
    const wanted = missing.length > 1 ? `${missing.slice(0, -1).join(", ")} and ${missing[missing.length - 1]}` : missing[0];
    hint.textContent = !wanted ? "" : choice ? `Now ${wanted}.` : `${wanted[0].toUpperCase()}${wanted.slice(1)}.`;
    kept.set(trial.trial, { strokes, choice, seconds: seconds(), ...(said && said.values) });
  };
  const words = trial.question ? QUESTIONS[trial.question] : ["Is this picture ", "real or synthetic"];
  const question = make("p", { className: "question", id: "question" }, words[0], make("strong", { textContent: words[1] }), "?");
  if (trial.practice) question.prepend(make("em", { textContent: "Practice. " }));
  const pictures = sides.map((side) => ({
    src: trial[side], alt: sides.length > 1 ? `${side} picture` : "picture", width: trial.side, height: trial.side,
  }));
  for (;;) {
    board = new Board(place, { pictures, strokes: draft.strokes, onChange: update });
    try { await board.loaded; break; } catch { notice("A picture did not arrive; trying again …"); await wait(1); }
  }
  notice("");
  said = remarks(trial, draft, update);
  const choose = (what) => { choice = what; update(); };
  const name = sides.length > 1 ? choices(board, trial.question, choose) : verdicts(board, choose);
  const rest = make("div", { className: "rest" }, said.element, make("div", { className: "actions" }, next, hint));
  show(question, place, rest);
  main.className = sides.length > 1 ? "trial" : "trial single";
  if (name) name();
  if (choice) document.getElementById(`choose-${choice}`).checked = true;
  board.restart();
  started = performance.now();
  update();
  for (;;) {
    await pressed(next);
    board.lock(true);
    const strokes = Object.fromEntries(board.allStrokes().map((own, i) => [sides[i], own]));
    const body = { trial: trial.trial, choice, strokes, seconds: Number(seconds().toFixed(3)), layout: layout(board), ...said.given() };
    try {
      const stored = await call("api/answer", body);
      kept.drop(trial.trial);
      return { ...stored, choice };
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      // What was painted stays, here and in the browser's memory. Where the trial is over, answered in
      // another tab, there is nothing to mend, and the page goes on when that was read.
      if ([403, 404, 409].includes(error.status)) {
        await between(`This answer was not stored. ${error.message}.`, "Go on");
        return {};
      }
      board.lock(false);
      const what = error.status === 500 ? "try again, or later by the same link" : "change them and try again";
      refused = `Not stored: ${error.message}. Your marks are still here; ${what}.`;
      notice(refused);
      next.disabled = false;
    }
  }
}

// Practice shows the pictures again, with the right answer at each.
async function answered(trial, choice, feedback) {
  if (!trial.right) return answeredSingle(trial, choice, feedback);
  const asked = feedback === "right" ? choice : choice === "left" ? "right" : "left";
  const other = { authentic: "synthetic", synthetic: "real" }[trial.question];
  const figures = ["left", "right"].map((side) => {
    const words = side === asked ? `This one ${QUESTIONS[trial.question][2]}` : `This one is ${other}`;
    const caption = make("figcaption", { textContent: side === choice ? `${words}: your choice` : words });
    return make("figure", { className: side === asked ? "asked" : "" }, make("img", { src: trial[side], alt: words }), caption);
  });
  const text = make("p", { className: "feedback", textContent: feedback === "right" ? "Right." : "No, it was the other one." });
  const go = make("button", { className: "main", id: "continue", textContent: "Next" });
  show(text, make("div", { className: "answered" }, ...figures), go);
  await pressed(go);
}

async function answeredSingle(trial, choice, feedback) {
  const other = choice === "authentic" ? "synthetic" : "authentic";
  const words = `This picture is ${KINDS[feedback === "right" ? choice : other]}`;
  const figure = make("figure", { className: "asked" }, make("img", { src: trial.left, alt: words }), make("figcaption", { textContent: words }));
  const text = make("p", { className: "feedback", textContent: feedback === "right" ? "Right." : `No, it is not ${KINDS[choice]}.` });
  const go = make("button", { className: "main", id: "continue", textContent: "Next" });
  show(text, make("div", { className: "answered" }, figure), go);
  await pressed(go);
}

async function between(text, button) {
  const go = make("button", { className: "main", id: "continue", textContent: button });
  show(make("p", { className: "feedback", textContent: text }), go);
  await pressed(go);
}

function full() {
  document.getElementById("progress").hidden = true;
  const why = "Other people have answered all its questions in the meantime. Nothing more is asked of you, and there is no completion code. If you came from a crowd service, please return the task there.";
  show(make("h2", { textContent: "This study is full" }), make("p", { id: "full", textContent: why }));
}

function finish(end) {
  document.getElementById("progress").hidden = true;
  const code = make("p", {}, make("span", { className: "code", id: "code", textContent: end.code }));
  const parts = [make("h2", { textContent: "Thank you" }), make("p", { textContent: "All your answers are stored. Your completion code:" }), code];
  const form = submit && turkForm(end.code);
  if (form) parts.push(form);
  if (end.url) parts.push(make("p", {}, make("a", { href: end.url, textContent: "Return to where you came from" })));
  show(...parts);
  if (form) form.submit();
}

// Mechanical Turk takes an assignment as done when this form reaches it. The button is there in case it did not.
function turkForm(code) {
  const fields = { assignmentId: parameters.get("assignmentId"), code };
  const hidden = Object.entries(fields).map(([name, value]) => make("input", { type: "hidden", name, value }));
  const again = make("button", { type: "submit", className: "main", id: "turk", textContent: "Submit to Mechanical Turk" });
  return make("form", { method: "post", action: submit }, ...hidden, again);
}

async function run() {
  const texts = await call("api/texts");
  document.title = texts.title;
  document.getElementById("title").textContent = texts.title;
  const worker = isPreview() ? "" : workerId(texts.guests);
  const agreement = `agreed:${texts.study}:${worker}`;
  const returning = worker && kept.get(agreement) === texts.consent_hash;
  if (!returning) await consent(texts, worker);
  try {
    await enter(worker, texts.consent_hash);
  } catch (error) {
    if (error.status === 410) return full();
    throw error;
  }
  kept.set(agreement, texts.consent_hash);
  if (!returning) await read(texts);
  for (let first = true; ; first = false) {
    const trial = await call("api/trial");
    if (trial.done) return trial.full ? full() : finish(trial);
    progress(trial);
    if (trial.rest && !first) await between("Time for a break, if you like. You can also close this page and return later by the same link.", "Go on");
    const stored = await ask(trial);
    if (stored.feedback) await answered(trial, stored.choice, stored.feedback);
  }
}

// What ends the page is told once, with a way to ask again; what was painted is in the browser's memory.
run().catch((error) => {
  const again = make("button", { type: "button", id: "again", textContent: "Try again" });
  again.addEventListener("click", () => location.reload());
  notice(`${error.message}. `);
  if (error.status >= 500) document.getElementById("notice").append(again);
});
