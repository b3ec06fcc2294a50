// Progress, accuracy, exclusions, the mean map as it grows, export. The token stays in this page and in the
// request's header; what is shown is asked for again every few seconds while the page can be seen.
const main = document.getElementById("main");
const notice = (text) => { document.getElementById("notice").textContent = text; };
const EVERY = 5; // seconds
let token = "", timer = 0;

function make(tag, attributes = {}, ...children) {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children);
  return element;
}

function table(rows, action) { // action: what stands beside the first value of a row
  if (!rows.length) return make("p", { textContent: "Nobody yet." });
  const names = Object.keys(rows[0]);
  const line = (tag, values) => make("tr", {}, ...values.map((value) => make(tag, { textContent: value ?? "" })));
  const lines = rows.map((row) => line("td", names.map((name) => row[name])));
  const head = line("th", names);
  if (action) {
    head.firstChild.after(make("th"));
    lines.forEach((one, i) => one.firstChild.after(make("td", {}, action(rows[i]))));
  }
  return make("div", { className: "wide" }, make("table", {}, head, ...lines));
}

async function get(path, body) {
  const headers = { Authorization: `Bearer ${token}` };
  const options = body ? { method: "POST", body: JSON.stringify(body) } : {};
  const response = await fetch(path, { ...options, headers, cache: "no-store" });
  if (!response.ok) throw new Error((await response.json()).error);
  return response;
}

// The answers of who is left out by hand no longer count to the wanted ones.
function exclusion(row) {
  const out = row.not_counted === "by hand";
  const button = make("button", { type: "button", textContent: out ? "Take back" : "Leave out" });
  button.setAttribute("aria-label", `${button.textContent} ${row.subject}`);
  button.addEventListener("click", async () => {
    try {
      await get("admin/exclude", { worker: row.subject, excluded: !out });
      await refresh();
    } catch (error) { notice(error.message); }
  });
  return button;
}

async function save(name) {
  try {
    const file = await (await get(`admin/export/${name}`)).blob();
    const link = make("a", { href: URL.createObjectURL(file), download: name });
    link.click();
    URL.revokeObjectURL(link.href);
  } catch (error) { notice(error.message); }
}

// What is asked first stands first: how many are at it, how far it is, how long it takes, how well they do.
const share = (value) => (value === null ? "\u2013" : `${(100 * value).toFixed(1)} %`);
function tiles(p) {
  const shown = [
    ["subjects now", p["subjects now"], `${p.subjects} came, ${p.finished} finished`],
    ["answers", p.answers, `of ${p.wanted} wanted; ${p["answers kept"]} kept`],
    ["time a trial", p.seconds === null ? "\u2013" : `${p.seconds.toFixed(1)} s`, "median"],
    ["accuracy", share(p.accuracy), `${share(p["accuracy kept"])} of those kept`],
  ];
  const one = ([name, value, more]) =>
    make("div", { className: "tile" }, make("span", { textContent: name }), make("strong", { textContent: value }), make("span", { textContent: more }));
  return make("div", { className: "tiles", id: "now" }, ...shown.map(one));
}

function files(content) {
  const rows = content.exports.map((name) => {
    const why = content.empty[name] || "";
    const button = make("button", { className: "main", textContent: name, disabled: Boolean(why) });
    button.addEventListener("click", () => save(name));
    return make("p", { className: "file" }, button, make("span", { className: "hint", textContent: why && `Empty: ${why}.` }));
  });
  return make("div", { id: "files" }, ...rows);
}

function meanMap(found) {
  if (!found.images) return make("p", { className: "hint", textContent: "No mean map yet: it is made of right answers that count." });
  const words = `Mean of ${found.images} human ${found.images === 1 ? "map" : "maps"} (${found.marks} marks)${found.behind ? ", more to come" : ""}`;
  const picture = make("img", { src: found.picture, alt: words });
  const scale = make("span", { className: "scale" }, make("span", { textContent: "0" }), make("i"), make("span", { textContent: found.top }));
  return make("figure", { className: "mean" }, picture, scale, make("figcaption", { textContent: words }));
}

// A table that scrolls, and a button that has the focus, stay where they are.
function put(...children) {
  const focus = document.activeElement && document.activeElement.getAttribute("aria-label");
  const [x, y] = [window.scrollX, window.scrollY];
  const places = [...main.querySelectorAll(".wide")].map((one) => one.scrollLeft);
  main.replaceChildren(...children);
  [...main.querySelectorAll(".wide")].forEach((one, i) => { one.scrollLeft = places[i] || 0; });
  if (focus) [...main.querySelectorAll("button")].find((one) => one.getAttribute("aria-label") === focus)?.focus({ preventScroll: true });
  window.scrollTo(x, y);
}

async function refresh() {
  clearTimeout(timer);
  try {
    const content = await (await get("admin/progress")).json();
    const map = await (await get("admin/mean_map")).json();
    notice("");
    put(
      make("h2", { textContent: "Now" }), tiles(content.progress),
      make("div", { className: "beside" },
        meanMap(map),
        make("div", {}, make("h2", { textContent: "Left out, by reason" }), content.reasons.length ? table(content.reasons) : make("p", { textContent: "Nobody." })),
        make("div", {}, make("h2", { textContent: "By source" }), table(content.sources))),
      make("h2", { textContent: "Subjects" }), table(content.subjects, exclusion),
      make("h2", { textContent: "Export" }), files(content),
    );
    document.getElementById("asked").textContent = `as of ${new Date().toLocaleTimeString()}, renewed every ${EVERY} s`;
    timer = setTimeout(again, 1000 * EVERY);
  } catch (error) { notice(error.message); }
}

function again() { // not while nobody looks
  if (document.hidden) timer = setTimeout(again, 1000 * EVERY);
  else refresh();
}

document.getElementById("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token = document.getElementById("token").value;
  refresh();
});
