// Progress, accuracy, exclusions, export; the token stays in this page and in the request's header.
const main = document.getElementById("main");
const notice = (text) => { document.getElementById("notice").textContent = text; };
const token = () => document.getElementById("token").value;

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
  return make("table", {}, head, ...lines);
}

async function get(path, body) {
  const headers = { Authorization: `Bearer ${token()}` };
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

async function refresh() {
  try {
    const content = await (await get("admin/progress")).json();
    notice("");
    const buttons = content.exports.map((name) => {
      const button = make("button", { className: "main", textContent: name });
      button.addEventListener("click", () => save(name));
      return button;
    });
    main.replaceChildren(
      make("h2", { textContent: "Progress" }), table([content.progress]),
      make("h2", { textContent: "By source" }), table(content.sources),
      make("h2", { textContent: "Subjects" }), table(content.subjects, exclusion),
      make("h2", { textContent: "Export" }), make("div", { className: "actions" }, ...buttons),
    );
  } catch (error) { notice(error.message); }
}

document.getElementById("login").addEventListener("submit", (event) => {
  event.preventDefault();
  refresh();
});
