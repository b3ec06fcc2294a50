// The search runs in a worker, and a page that is opened from the disk may start none: a hidden frame
// does the worker's part. mkdocs-material looks for this name, and else for a file in the network.
if (location.protocol === "file:") window.Worker = class extends EventTarget {
  constructor(source) {
    super();
    this.frame = document.createElement("iframe");
    this.frame.hidden = true;
    document.body.append(this.frame);
    const inside = this.frame.contentWindow;
    const load = (address) => new Promise((done, failed) => {
      const script = inside.document.createElement("script");
      Object.assign(script, { src: address, onload: done, onerror: failed });
      inside.document.head.append(script);
    });
    inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
    inside.importScripts = (...addresses) => Promise.all(addresses.map(load));
    this.ready = load(source);
  }
  postMessage(data) {
    this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
  }
  terminate() { this.frame.remove(); }
};
