// Figures are drawn when they come into view, as the report draws them; plotly itself is asked for by
// the first. A page that is opened from the disk may load scripts, but neither modules nor data.
const figures = (() => {
  const base = new URL(".", document.currentScript.src), waiting = {};
  let plotly;
  const load = (source) => new Promise((done, failed) => {
    const script = document.createElement("script");
    Object.assign(script, { src: source, onload: done, onerror: failed });
    document.head.append(script);
  });
  const draw = async (place) => {
    plotly ??= load(new URL("plotly.min.js", base));
    const given = new Promise((done) => { waiting[place.id] = done; });
    await Promise.all([plotly, load(new URL(place.dataset.source, document.baseURI))]);
    const told = await given;
    place.style.height = "";
    hostOfFigures().hosted(place).show(told);
    place.dataset.drawn = "yes";
  };
  document.addEventListener("DOMContentLoaded", () => {
    const seen = new IntersectionObserver((entries) => {
      for (const one of entries.filter((entry) => entry.isIntersecting)) {
        seen.unobserve(one.target);
        draw(one.target);
      }
    }, { rootMargin: "600px" });
    document.querySelectorAll("div.figure").forEach((place) => seen.observe(place));
  });
  return { add: (name, told) => waiting[name](told) };
})();
