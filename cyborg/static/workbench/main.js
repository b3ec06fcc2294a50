// The page: tabs that share one state, the side bar, messages and keys.
import { make, newId } from "./dom.js";
import { tableOf } from "./draw.js";
import { plotly } from "./chart.js";
import { makeStore, choiceOf, toAddress, TABS } from "./state.js";
import { overHttp, overWidget } from "./carrier.js";
import { fillSide, fillChips, scenariosOf, networksOf, studyWords } from "./side.js";
import { mapsTab } from "./maps.js";
import { imagesTab } from "./images.js";
import { runsTab } from "./runs.js";
import { studyTab } from "./study.js";
import { pictureTab } from "./picture.js";
import { peopleTab } from "./people.js";
import { exportMenu } from "./export.js";

const MAKERS = { maps: mapsTab, images: imagesTab, runs: runsTab, study: studyTab, picture: pictureTab, people: peopleTab };
const TITLES = { maps: "Maps", images: "Images", runs: "Runs", study: "Study", picture: "One picture", people: "People" };
const KEYS = [["1 … 6", "tabs"], ["← →, n p", "previous, next image"], ["o", "maps on the pictures on and off"], ["/", "find an image by number or name"], ["arrows on a map", "read values"], ["Esc", "close"], ["?", "these keys"]];

export function workbench(root, carrier, start = "") {
  const store = makeStore(carrier.addressed, start);
  const notice = make("div", { class: "wb-notice", role: "alert", hidden: true }), busy = make("div", { class: "wb-busy", role: "status", hidden: true });
  const side = make("aside", { class: "wb-side", "aria-label": "What is looked at" }), chips = make("div", { class: "wb-chips", "aria-label": "What is chosen" });
  const told = make("span", { class: "wb-study" }), panels = make("div", { class: "wb-panels" });
  const bench = { store, carrier, offer: null, table: null, root };
  const tabs = {};

  bench.say = (error) => {
    if (error instanceof TypeError || error instanceof ReferenceError) console.error(error); // a fault of the page itself
    notice.textContent = error ? String(error.message || error) : "";
    notice.hidden = !error;
  };
  bench.working = async (text, work) => {
    busy.textContent = text;
    busy.hidden = false;
    try { return await work(); } finally { busy.hidden = true; }
  };
  // Scenarios that are shown, as answers name them.
  bench.scenarios = () => {
    const state = store.get(), networks = networksOf(bench.offer, state), set = bench.offer.sets[state.data] || Object.values(bench.offer.sets)[0];
    const wanted = (name) => !state.scenario.length || state.scenario.includes(name);
    if (networks.length < 2) return scenariosOf(bench.offer, state).filter(wanted);
    return networks.flatMap((network) => set.scenarios[network].filter(wanted).map((name) => `${network}, ${name}`));
  };
  bench.colour = (name) => bench.offer.styles[name.split(", ").at(-1)]?.colour || "#777777";

  const names = TABS.filter((name) => MAKERS[name]);
  bench.tab = () => tabs[store.get().tab];
  const buttons = Object.fromEntries(names.map((name) => [name, make("button", { type: "button", role: "tab", id: newId("tab"), onclick: () => store.set({ tab: name }) }, TITLES[name])]));
  const bar = make("div", { class: "wb-tabs", role: "tablist", "aria-label": "Views", onkeydown: (event) => along(event) }, ...Object.values(buttons));
  const menu = make("button", { type: "button", class: "wb-menu wb-plain", "aria-expanded": "false", onclick: () => toggleSide() }, "Choose");
  const help = make("button", { type: "button", class: "wb-plain", "aria-label": "keys", onclick: () => showKeys() }, "?");
  root.classList.add("wb");
  root.replaceChildren(
    make("header", { class: "wb-top" }, menu, make("strong", {}, "cyborg"), told, bar, make("span", { class: "wb-space" }), exportMenu(bench), themeButton(root), help),
    side, make("main", { class: "wb-main" }, chips, notice, busy, panels));

  function along(event) {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    const next = names[(names.indexOf(store.get().tab) + by + names.length) % names.length];
    store.set({ tab: next });
    buttons[next].focus();
  }

  function toggleSide(open = !root.classList.contains("wb-open-side")) {
    root.classList.toggle("wb-open-side", open);
    menu.setAttribute("aria-expanded", open);
  }

  function showKeys() {
    const rows = KEYS.map(([key, what]) => make("tr", {}, make("th", { scope: "row" }, key), make("td", {}, what)));
    const dialog = make("dialog", { class: "wb-keys", "aria-label": "Keys", onclose: () => dialog.remove() }, make("h2", {}, "Keys"), make("table", {}, ...rows), make("button", { type: "button", onclick: () => dialog.close() }, "close"));
    root.append(dialog);
    dialog.showModal();
  }

  function panelOf(name) {
    if (!tabs[name]) {
      tabs[name] = MAKERS[name](bench);
      tabs[name].element.classList.add("wb-tab");
      Object.entries({ role: "tabpanel", "aria-labelledby": buttons[name].id }).forEach(([key, value]) => tabs[name].element.setAttribute(key, value));
      panels.append(tabs[name].element);
    }
    return tabs[name];
  }

  const seen = {}; // what of the state a tab has drawn
  function show(state, keys) {
    const now = names.includes(state.tab) ? state.tab : names[0], tab = panelOf(now);
    for (const name of names) {
      buttons[name].setAttribute("aria-selected", name === now);
      buttons[name].tabIndex = name === now ? 0 : -1;
      if (tabs[name]) tabs[name].element.hidden = name !== now;
    }
    for (const name of names) if (name !== now && seen[name]) keys.forEach((key) => key !== "tab" && seen[name].add(key));
    const missed = seen[now] || new Set(["tab"]);
    seen[now] = new Set();
    const fresh = new Set([...keys].filter((key) => key !== "tab"));
    missed.forEach((key) => fresh.add(key));
    buttons[now].scrollIntoView?.({ block: "nearest", inline: "nearest" });
    bench.say("");
    tab.show(state, fresh);
    root.dataset.tab = now;
  }

  async function look() {
    const found = await carrier.ask("offer", { choice: choiceOf({ ...store.get() }, ...LATER) });
    bench.offer = found;
    bench.table = tableOf(found.colours);
    told.textContent = studyWords(found);
    told.title = found.folder;
    fillSide(bench, side);
    fillChips(bench, chips);
    if (found.problems.length) bench.say(found.problems.join(" · "));
  }

  store.listen(async (state, keys) => {
    if (keys.has("study")) await begin();
    else if (bench.offer) {
      fillSide(bench, side);
      fillChips(bench, chips);
      show(state, keys);
    }
  });

  async function begin() {
    try {
      await look();
      if (!Object.keys(bench.offer.sets).length && !names.includes("runs")) throw new Error(`no run in ${bench.offer.folder} has predictions yet`);
      names.forEach((name) => seen[name]?.add("study"));
      show(store.get(), new Set(["tab", "study"]));
      if (carrier.addressed) readAhead();
    } catch (error) { bench.say(error); }
  }

  // What other tabs draw with is fetched once the first is drawn.
  function readAhead() {
    if (root.querySelector("[data-ready]")) setTimeout(() => plotly().catch(() => {}), 800);
    else setTimeout(readAhead, 200);
  }

  const keyed = carrier.addressed ? document : root; // in a notebook other cells have keys of their own
  keyed.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    if (event.key === "?") showKeys();
    else if (names[Number(event.key) - 1]) store.set({ tab: names[Number(event.key) - 1] });
    else tabs[store.get().tab]?.key?.(event);
  });
  document.title = carrier.addressed ? "cyborg workbench" : document.title;
  begin();
  return { store, bench, address: () => toAddress(store.get()) };
}

const LATER = ["data", "network", "scenario", "seed", "source", "label", "scores", "agreements", "errors", "wrong", "right", "lasso", "find", "sort", "up"];

// Colours follow the system or JupyterLab unless they are chosen.
function themeButton(root) {
  const order = ["", "dark", "light"], names = { "": "auto", dark: "dark", light: "light" };
  const read = () => { try { return localStorage.getItem("cyborg-theme") || ""; } catch { return ""; } };
  const button = make("button", { type: "button", class: "wb-plain" });
  const use = (theme) => {
    if (theme) root.dataset.theme = theme; else delete root.dataset.theme;
    button.replaceChildren("◐", make("span", { class: "wb-theme-name" }, ` ${names[theme]}`));
    button.setAttribute("aria-label", `colours: ${names[theme]}; press for the next`);
    try { localStorage.setItem("cyborg-theme", theme); } catch { /* a page without storage keeps nothing */ }
    dispatchEvent(new Event("cyborg-theme"));
  };
  button.addEventListener("click", () => use(order[(order.indexOf(root.dataset.theme || "") + 1) % 3]));
  use(read());
  return button;
}

export const openPage = () => workbench(document.getElementById("workbench"), overHttp());
export function openWidget(element, model) {
  const { store, address } = workbench(element, overWidget(model), model.get("view"));
  store.listen(() => { model.set("view", address()); model.save_changes(); });
}
