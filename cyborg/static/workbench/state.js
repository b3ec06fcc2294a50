// What is looked at, as one object that an address in the browser says: #tab?name=value&...

const words = { read: (all) => all, write: (value) => value, none: [] };
const text = { read: (all) => all[0], write: (value) => [value], none: "" };
const flag = { read: (all) => all[0] === "1", write: (value) => [value ? "1" : "0"], none: false };
const number = (none) => ({ read: (all) => Number(all[0]), write: (value) => [String(value)], none });
const pair = (low, high) => ({ read: (all) => all[0].split("~").map(Number), write: (value) => [value.join("~")], none: [low, high] });
const points = {
  read: (all) => all[0].split(";").map((one) => one.split("~").map(Number)),
  write: (value) => [value.map((one) => one.join("~")).join(";")],
  none: [],
};
const oneOf = (none) => ({ ...text, none });

// Of the choice, which Python is told; and of the view, which it need not know.
const CHOICE = {
  study: text, data: text, network: words, scenario: words,
  seed: { ...words, read: (all) => all.map(Number), write: (value) => value.map(String) },
  source: words, label: words, scores: pair(0, 1), agreements: pair(-1, 1), errors: flag,
  wrong: text, right: text, lasso: points, find: text, sort: oneOf("error"), up: flag,
};
const VIEW = {
  over: oneOf("face"), opacity: number(0.6), blend: number(1), scale: oneOf("unit"), level: oneOf("even"), each: flag, outlines: flag,
  layer: text, size: oneOf("m"), row: number(-1), curve: oneOf("val_loss"), picked: words, section: text,
};
const FIELDS = { ...CHOICE, ...VIEW };
export const TABS = ["maps", "images", "runs", "study", "picture", "people"];

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
export const nothing = (key) => structuredClone(FIELDS[key].none);
export const isSet = (state, key) => !same(state[key], FIELDS[key].none);

export function fromAddress(hash) {
  const [tab, query = ""] = hash.replace(/^#/, "").split("?"), given = new URLSearchParams(query);
  const state = { tab: TABS.includes(tab) ? tab : TABS[0] };
  for (const [key, field] of Object.entries(FIELDS)) state[key] = given.has(key) ? field.read(given.getAll(key)) : nothing(key);
  return state;
}

export function toAddress(state) {
  const query = new URLSearchParams();
  for (const [key, field] of Object.entries(FIELDS)) {
    if (isSet(state, key)) for (const one of field.write(state[key])) query.append(key, one);
  }
  return `#${state.tab}${query.size ? `?${query}` : ""}`;
}

// The part of the state that questions are about.
export function choiceOf(state, ...without) {
  const keys = Object.keys(CHOICE).filter((key) => isSet(state, key) && !without.includes(key));
  return Object.fromEntries(keys.map((key) => [key, state[key]]));
}

// A store that tells who listens what has changed. Steps go into the browser's history; what a slider does on its way does not.
export function makeStore(addressed, start = "") {
  let state = fromAddress(addressed ? location.hash : start);
  const listeners = [];
  const tell = (old) => {
    const keys = ["tab", ...Object.keys(FIELDS)].filter((key) => !same(state[key], old[key]));
    if (keys.length) listeners.forEach((listen) => listen(state, new Set(keys)));
  };
  const store = {
    get: () => state,
    listen: (listener) => { listeners.push(listener); },
    set(changes, { step = true } = {}) {
      const old = state;
      state = { ...state, ...changes };
      const address = toAddress(state);
      if (addressed && address !== location.hash) history[step ? "pushState" : "replaceState"](null, "", address);
      tell(old);
    },
    load(hash) {
      const old = state;
      state = fromAddress(hash);
      tell(old);
    },
  };
  if (addressed) addEventListener("popstate", () => store.load(location.hash));
  return store;
}
