// One map as large as the window, the others a key away.
import { make } from "./dom.js";
import { makeBoard } from "./board.js";

export function openLarge(cards, key, how, probe) {
  const shown = cards.filter((card) => card.kind === "picture" || card.values);
  let at = Math.max(0, shown.findIndex((card) => card.key === key));
  const board = makeBoard(probe, { sized: false });
  const step = (by) => { at = (at + by + shown.length) % shown.length; board.show([shown[at]], how); };
  const before = document.activeElement;
  const dialog = make("dialog", { class: "wb-large", "aria-label": "map, large" },
    make("div", { class: "wb-large-tools" },
      make("button", { type: "button", onclick: () => step(-1), "aria-label": "previous map" }, "←"),
      make("button", { type: "button", onclick: () => step(1), "aria-label": "next map" }, "→"),
      make("button", { type: "button", class: "wb-close", onclick: () => dialog.close() }, "close")),
    board.element);
  dialog.addEventListener("keydown", (event) => {
    const by = { PageDown: 1, PageUp: -1, n: 1, p: -1 }[event.key];
    if (by) { event.preventDefault(); step(by); }
    event.stopPropagation();
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => { dialog.remove(); before?.focus?.(); });
  (before?.closest?.(".wb") || document.querySelector(".wb")).append(dialog);
  dialog.showModal();
  step(0);
}
