// How questions reach Python: over HTTP, or as messages of a widget. Both offer the same:
//   ask(name, given)        a promise of the answer; an Error says in words why there is none
//   show(image, name, given) fills an <img>

export function overHttp() {
  const address = (name, { choice = {}, ...rest }) =>
    `api/${name}?${new URLSearchParams({ choice: JSON.stringify(choice), ...rest })}`;
  return {
    async ask(name, given = {}) {
      let reply;
      try {
        reply = await fetch(`api/${name}`, { method: "POST", body: JSON.stringify(given) });
      } catch {
        throw new Error("the workbench does not answer: was its command ended?");
      }
      const found = await reply.json();
      if (found.error) throw new Error(found.error);
      return found;
    },
    show(image, name, given) {
      const source = address(name, given);
      if (image.getAttribute("src") !== source) image.src = source;
    },
    addressed: true,
  };
}

export function overWidget(model) {
  let number = 0;
  const waiting = new Map(), pictures = new Map();
  model.on("msg:custom", (message, buffers) => {
    const { resolve, reject } = waiting.get(message.number) || {};
    waiting.delete(message.number);
    if (!resolve) return;
    if (message.error) reject(new Error(message.error));
    else resolve(buffers?.length ? new Blob([buffers[0]], { type: message.kind }) : message.found);
  });
  const ask = (name, given = {}) => new Promise((resolve, reject) => {
    number += 1;
    waiting.set(number, { resolve, reject });
    model.send({ number, name, given });
  });
  return {
    ask,
    async show(image, name, given) {
      const key = JSON.stringify([name, given]);
      image.dataset.wanted = key;
      if (!pictures.has(key)) pictures.set(key, ask(name, given).then((blob) => URL.createObjectURL(blob)));
      try {
        const source = await pictures.get(key);
        if (image.dataset.wanted === key) image.src = source;
      } catch (error) { image.alt = error.message; }
    },
    addressed: false,
  };
}
