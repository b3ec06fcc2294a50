// One picture: dropped, pasted or chosen, alone or by the folder, asked of a run of each scenario.
import { make, digits, latest } from "./dom.js";
import { field } from "./draw.js";
import { choiceOf } from "./state.js";
import { makeProbe, makeBoard, makeBar } from "./board.js";
import { openLarge } from "./large.js";

const KINDS = /\.(png|jpe?g|webp|bmp|tiff?)$/i;

async function asText(file) {
  const bytes = new Uint8Array(await file.arrayBuffer()), parts = [];
  for (let i = 0; i < bytes.length; i += 32768) parts.push(String.fromCharCode(...bytes.subarray(i, i + 32768)));
  return btoa(parts.join(""));
}

// The files of what was dropped; of folders, what is right in them.
async function filesOf(transfer) {
  const entries = [...(transfer.items || [])].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const folders = entries.filter((entry) => entry.isDirectory);
  if (!folders.length) return [...transfer.files];
  const listed = await Promise.all(folders.map((folder) => new Promise((resolve) => { folder.createReader().readEntries(resolve); })));
  const files = listed.flat().filter((entry) => entry.isFile && KINDS.test(entry.name));
  return Promise.all(files.map((entry) => new Promise((resolve) => { entry.file(resolve); })));
}

export function pictureTab(bench) {
  const { store, carrier } = bench, probe = makeProbe(), ask = latest(), askNear = latest();
  const opened = (key) => openLarge(cards(), key, how(), probe);
  const board = makeBoard(probe, { opened, height: () => innerHeight - 330 }), bar = makeBar("map");
  const input = make("input", { type: "file", accept: "image/*", multiple: true, hidden: true });
  const zone = make("button", { type: "button", class: "wb-drop", onclick: () => input.click() }, make("b", {}, "Drop a picture or a folder here"), make("span", {}, "paste one, or click to choose; nothing leaves this machine"));
  const crop = make("input", { type: "checkbox", checked: true, onchange: () => again() });
  const list = make("div", { class: "wb-strip-list" }), words = make("p", { class: "wb-about", role: "status" });
  const reactions = make("div", {}), nearest = make("div", {});
  const element = make("div", { class: "wb-tab-picture" }, make("div", { class: "wb-controls" }, make("label", { class: "wb-tick" }, crop, "crop to the largest face")), zone, input, list, words, bar.element, board.element, reactions, nearest);
  let files = [], found = null, now = null;
  bar.element.hidden = true;

  const choice = () => choiceOf(store.get(), "source", "label", "scores", "agreements", "errors", "wrong", "right", "lasso", "find", "sort", "up");
  const face = (image) => { image.src = found.picture; };
  const how = () => ({ table: bench.table, top: 1, over: store.get().over, opacity: store.get().opacity });

  function cards() {
    const picture = { key: "picture", kind: "picture", title: "as the network sees it", lines: [found.name], face };
    const maps = Object.entries(found.groups).flatMap(([name, group]) => [["cam", "class activation map"], ["grad_cam", "GradCAM"]].map(([key, title]) => ({
      key: `${name} ${key}`, title: name, colour: bench.colour(name), face, values: () => field(group[key]),
      lines: [`${title} of the predicted class`, `${group.label}: ${digits(group.score, 3)}`],
    })));
    return [picture, ...maps];
  }

  function redraw() {
    if (!found) return;
    bar.element.hidden = false;
    bar.show(bench.table, 1, "saliency, of a range from 0 to 1");
    board.show(cards(), how());
  }

  function table() {
    const names = Object.keys(Object.values(found.groups)[0].blurred);
    const head = make("tr", {}, ...["scenario", "run", "score", ...names.map((name) => `${name} blurred`)].map((text) => make("th", { scope: "col" }, text)));
    const lines = Object.entries(found.groups).map(([name, group]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, group.run), make("td", {}, digits(group.score, 3)),
      ...names.map((one) => { const change = group.blurred[one] - group.score; return make("td", {}, `${digits(group.blurred[one], 3)} (${change > 0 ? "+" : ""}${digits(change, 3)})`); })));
    return make("div", { class: "wb-wide" }, make("table", { class: "wb-table" }, make("thead", {}, head), make("tbody", {}, ...lines)));
  }

  function use(answer) {
    found = answer;
    words.textContent = `${answer.name}: ${answer.words}.`;
    redraw();
    reactions.replaceChildren(make("h2", {}, "What the score reacts to"), make("p", { class: "wb-about" }, "If a network reads what its map shows, blurring the most salient tenth moves the score and blurring the least salient does not."), table());
    element.dataset.ready = "1";
    element.dataset.name = answer.name;
  }

  function useNear(near) {
    nearest.replaceChildren(make("h2", {}, "Nearest training images", make("small", {}, ` by ${near.of}`)), near.why ? make("p", { class: "wb-about" }, `None: ${near.why}`) : make("div", { class: "wb-near" }, ...near.images.map((one) => make("figure", {}, make("img", { src: one.picture || "data:,", alt: one.words }), make("figcaption", {}, one.words)))));
    element.dataset.near = found.name;
  }

  async function show(file) {
    now = file;
    const given = { choice: choice(), name: file.name, content: await asText(file), crop: crop.checked };
    try {
      await bench.working(`asking the networks about ${file.name} …`, () => ask(() => carrier.ask("visitor", { ...given, near: false }), use));
      bench.say("");
      nearest.replaceChildren(make("h2", {}, "Nearest training images"), make("p", { class: "wb-about", role: "status" }, "Looking through the training images: the first time every one of them goes through the network …"));
      askNear(() => carrier.ask("nearest", given), useNear).catch(bench.say);
    } catch (error) { bench.say(error); }
    marked();
  }

  const again = () => { if (now) show(now); };

  function marked() {
    for (const one of list.children) one.classList.toggle("wb-now", one.file === now);
  }

  function take(given) {
    files = given.filter((file) => file.type.startsWith("image/") || KINDS.test(file.name) || given.length === 1);
    if (!files.length) { bench.say("no picture among what was dropped"); return; }
    list.replaceChildren(...(files.length < 2 ? [] : files.slice(0, 500).map((file) => {
      const image = make("img", { alt: file.name, src: URL.createObjectURL(file), loading: "lazy" });
      image.onload = () => URL.revokeObjectURL(image.src);
      return Object.assign(make("button", { type: "button", class: "wb-thumb", title: file.name, onclick: () => show(file) }, image), { file });
    })));
    show(files[0]);
  }

  const over = (on) => (event) => { event.preventDefault(); zone.classList.toggle("wb-over", on); };
  zone.addEventListener("dragover", over(true));
  zone.addEventListener("dragleave", over(false));
  zone.addEventListener("drop", async (event) => { over(false)(event); take(await filesOf(event.dataTransfer)); });
  input.addEventListener("change", () => { take([...input.files]); input.value = ""; });
  document.addEventListener("paste", (event) => { if (element.isConnected && !element.hidden && event.clipboardData.files.length) take([...event.clipboardData.files]); });
  element.dataset.ready = "1";

  return {
    element,
    show(state, keys) {
      if (now && ["study", "data", "network", "scenario", "seed"].some((key) => keys.has(key))) again();
      else redraw();
    },
    key(event) {
      const by = { ArrowRight: 1, n: 1, ArrowLeft: -1, p: -1 }[event.key], at = files.indexOf(now);
      if (by && files[at + by]) show(files[at + by]);
      else if (event.key === "o") store.set({ over: store.get().over === "plain" ? "face" : "plain" });
    },
    table: () => (found ? Object.entries(found.groups).map(([name, group]) => ({ picture: found.name, scenario: name, run: group.run, score: group.score, ...group.blurred })) : []),
  };
}
