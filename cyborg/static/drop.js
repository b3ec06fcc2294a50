// A place for one picture: dropped on it, pasted into it, or chosen from the disk.
function render({ model, el }) {
  const input = document.createElement("input");
  Object.assign(input, { type: "file", accept: "image/*", hidden: true });
  const zone = document.createElement("button");
  zone.type = "button";
  zone.className = "drop-zone";
  zone.textContent = model.get("label");
  const status = document.createElement("span");
  status.className = "drop-status";
  status.setAttribute("role", "status");
  const take = async (file) => {
    if (!file) return;
    // What is too large is named, not sent: Python refuses it in words.
    const fits = file.size <= model.get("limit");
    const content = new DataView(fits ? await file.arrayBuffer() : new ArrayBuffer(0));
    status.textContent = file.name;
    model.set("picture", { name: file.name, size: file.size, number: (model.get("picture").number || 0) + 1, content });
    model.save_changes();
  };
  const mark = (on) => (event) => { event.preventDefault(); zone.classList.toggle("over", on); };
  zone.addEventListener("click", () => input.click());
  zone.addEventListener("dragover", mark(true));
  zone.addEventListener("dragleave", mark(false));
  zone.addEventListener("drop", (event) => { mark(false)(event); take(event.dataTransfer.files[0]); });
  zone.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
  input.addEventListener("change", () => { take(input.files[0]); input.value = ""; });
  el.append(zone, input, status);
}

export default { render };
