// Progress, accuracy, exclusions, export; the token stays in this page and in the request's header.
const main = document.getElementById("main");
const notice = (text) => { document.getElementById("notice").textContent = text; };
const token = () => document.getElementById("token").value;

function make(tag, attributes = {}, ...children) {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children);
  return element;
}

function table(rows) {
  if (!rows.length) return make("p", { textContent: "Nobody yet." });
  const names = Object.keys(rows[0]);
  const line = (tag, values) => make("tr", {}, ...values.map((value) => make(tag, { textContent: value ?? "" })));
  return make("table", {}, line("th", names), ...rows.map((row) => line("td", names.map((name) => row[name]))));
}

async function get(path) {
  const response = await fetch(path, { headers: { Authorization: `Bearer ${token()}` }, cache: "no-store" });
  if (!response.ok) throw new Error((await response.json()).error);
  return response;
}

async function save(name) {
  try {
    const file = await (await get(`admin/export/${name}`)).blob();
    const link = make("a", { href: URL.createObjectURL(file), download: name });
    link.click();
    URL.revokeObjectURL(link.href);
  } catch (error) { notice(error.message); }
}

document.getElementById("login").addEventListener("submit", async (event) => {
  event.preventDefault();
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
      make("h2", { textContent: "Subjects" }), table(content.subjects),
      make("h2", { textContent: "Export" }), make("div", { className: "actions" }, ...buttons),
    );
  } catch (error) { notice(error.message); }
});
