// A small copy of a figure, in a corner of the window while the figure itself is out of sight:
// Run All takes the reader to the end of the notebook, and the cell that draws is far above.
function initialize({ model }) {
  const panel = document.createElement("div");
  panel.className = "cyborg-follow";
  Object.assign(panel.style, { position: "fixed", right: "28px", bottom: "40px", zIndex: 1000, background: "white",
    border: "1px solid #bbb", borderRadius: "4px", boxShadow: "0 2px 10px rgba(0, 0, 0, .3)", maxWidth: "90vw", overflow: "hidden" });
  const close = document.createElement("button");
  Object.assign(close, { type: "button", textContent: "×", title: "Hide this copy" });
  Object.assign(close.style, { position: "absolute", top: 0, right: "4px", zIndex: 1, border: 0, background: "none", fontSize: "20px", cursor: "pointer" });
  const place = document.createElement("div");
  panel.append(close, place);
  document.body.append(panel);
  let closed = false;
  close.addEventListener("click", () => { closed = true; look(); });
  const host = hosted(place);
  Object.assign(place.style, { width: "960px", zoom: 0.6 });
  const show = () => host.show(JSON.parse(model.get("content")));
  model.on("change:content", show);
  show();
  const title = (plot) => (plot.layout?.title?.text || "").replaceAll("<br>", " ");
  const own = () => JSON.parse(model.get("content")).layout.title?.text || "";
  const inSight = () => [...document.querySelectorAll(".jp-OutputArea .js-plotly-plot")].some((plot) => {
    const box = plot.getBoundingClientRect();
    return box.height && box.top < innerHeight - 150 && box.bottom > 250 && title(plot) === own();
  });
  const look = () => { panel.style.visibility = closed || inSight() ? "hidden" : "visible"; };
  const watch = setInterval(look, 300);
  look();
  return () => { clearInterval(watch); host.stop(); panel.remove(); };
}
export default { initialize };
