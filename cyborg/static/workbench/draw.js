// Maps as pictures: enlarged without steps, in one scale of colours, with the value at every place.

export const FINE = 256; // pixels a side that maps are drawn in; the browser stretches them from there

// A map as Python packs it: { shape, values: base64 of uint16 }.
const opened = new WeakMap();
export function unpack(map) {
  if (!map) return null;
  if (!opened.has(map)) {
    const bytes = Uint8Array.from(atob(map.values), (letter) => letter.charCodeAt(0));
    const cells = Float32Array.from(new Uint16Array(bytes.buffer), (value) => value / 65535);
    opened.set(map, { rows: map.shape[0], columns: map.shape[1], cells });
  }
  return opened.get(map);
}

// Weights of the four cells around each of n places (cubic, as OpenCV enlarges), and where they begin.
function taps(cells, n) {
  const a = -0.75, weights = new Float32Array(4 * n), starts = new Int32Array(n);
  const near = (x) => ((a + 2) * x - (a + 3)) * x * x + 1;
  const far = (x) => ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
  for (let i = 0; i < n; i += 1) {
    const at = ((i + 0.5) * cells) / n - 0.5, whole = Math.floor(at), part = at - whole;
    starts[i] = whole - 1;
    weights.set([far(1 + part), near(part), near(1 - part), far(2 - part)], 4 * i);
  }
  return { weights, starts };
}

const within = (i, n) => (i < 0 ? 0 : i >= n ? n - 1 : i);

// A map in n x n values, clipped to [0, 1].
const fields = new WeakMap();
export function field(map, n = FINE) {
  const given = unpack(map);
  if (!given) return null;
  const known = fields.get(given) || new Map();
  fields.set(given, known);
  if (!known.has(n)) known.set(n, grown(given, n));
  return known.get(n);
}

function grown({ rows, columns, cells }, n) {
  const across = taps(columns, n), down = taps(rows, n);
  const wide = new Float32Array(rows * n), found = new Float32Array(n * n);
  for (let r = 0; r < rows; r += 1) for (let i = 0; i < n; i += 1) {
    let sum = 0;
    for (let k = 0; k < 4; k += 1) sum += across.weights[4 * i + k] * cells[r * columns + within(across.starts[i] + k, columns)];
    wide[r * n + i] = sum;
  }
  for (let j = 0; j < n; j += 1) for (let k = 0; k < 4; k += 1) {
    const weight = down.weights[4 * j + k], from = within(down.starts[j] + k, rows) * n;
    for (let i = 0; i < n; i += 1) found[j * n + i] += weight * wide[from + i];
  }
  for (let i = 0; i < found.length; i += 1) found[i] = Math.min(1, Math.max(0, found[i]));
  return found;
}

export const mixed = (a, b, share) => a.map((value, i) => (1 - share) * value + share * b[i]);
export const minus = (a, b) => a.map((value, i) => value - b[i]);
// As multiples of what an even map of the same total has everywhere; a map of zeros stays one.
export const relative = (values) => { const mean = values.reduce((sum, value) => sum + value, 0) / values.length || 1; return values.map((value) => value / mean); };
const peaks = new WeakMap();
export function highest(values) {
  if (!peaks.has(values)) peaks.set(values, values.reduce((most, value) => Math.max(most, Math.abs(value)), 0));
  return peaks.get(values);
}
// A function of maps whose last results are kept, by the maps themselves: drawing asks for the same ones again and again.
export function remembered(work) {
  const kept = new WeakMap();
  return (a, b, ...rest) => {
    if (!kept.has(a)) kept.set(a, []);
    const known = kept.get(a), given = [b, ...rest];
    let found = known.find((one) => given.every((value, i) => value === one.given[i]));
    if (!found) { found = { given, result: work(a, b, ...rest) }; known.unshift(found); known.length = Math.min(known.length, 4); }
    return found.result;
  };
}

// What lies at a place, u and v in shares of the side.
export function valueAt(values, u, v) {
  const n = Math.sqrt(values.length), place = (x) => within(Math.floor(x * n), n);
  return values[place(v) * n + place(u)];
}

// Colours: 256 of a perceptual table for maps; blue, white, orange for differences.
export const tableOf = (packed) => Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
const LESS = [0, 114, 178], MORE = [213, 94, 0];
export function differenceColour(share) {
  const end = share > 0 ? MORE : LESS, strength = Math.min(1, Math.abs(share));
  return end.map((value) => 255 + (value - 255) * strength);
}

function fill(canvas, values, colour) {
  const n = Math.sqrt(values.length), pen = canvas.getContext("2d");
  if (canvas.width !== n) canvas.width = canvas.height = n;
  const picture = pen.createImageData(n, n);
  for (let i = 0; i < values.length; i += 1) colour(values[i], picture.data, 4 * i);
  pen.putImageData(picture, 0, 0);
}

export function paintMap(canvas, values, table, top = 1) {
  fill(canvas, values, (value, data, at) => {
    const from = 3 * Math.min(255, Math.round((255 * value) / top));
    data[at] = table[from]; data[at + 1] = table[from + 1]; data[at + 2] = table[from + 2]; data[at + 3] = 255;
  });
}

export function paintDifference(canvas, values, top = 1) {
  fill(canvas, values, (value, data, at) => {
    const end = value > 0 ? MORE : LESS, strength = Math.min(1, Math.abs(value) / top);
    for (let k = 0; k < 3; k += 1) data[at + k] = 255 + (end[k] - 255) * strength;
    data[at + 3] = 255;
  });
}

// A difference over a face: where there is none the face is seen, so strength goes into the opacity.
export function paintThin(canvas, values, top = 1) {
  fill(canvas, values, (value, data, at) => {
    const end = value > 0 ? MORE : LESS;
    for (let k = 0; k < 3; k += 1) data[at + k] = end[k];
    data[at + 3] = 255 * Math.min(1, Math.abs(value) / top) ** 0.7;
  });
}

// Lines of equal saliency, each in its colour with a dark rim, for a picture that is to stay visible.
export function paintContours(canvas, values, table, top = 1, levels = [0.25, 0.5, 0.75]) {
  const n = Math.sqrt(values.length);
  const level = (i) => levels.filter((one) => values[i] / top >= one).length;
  fill(canvas, values, (value, data, at) => {
    const i = at / 4, own = level(i), column = i % n;
    const edge = [column + 1 < n ? i + 1 : i, i + n < n * n ? i + n : i, column > 0 ? i - 1 : i, i - n >= 0 ? i - n : i].some((other) => level(other) < own);
    if (!edge) { data[at + 3] = 0; return; }
    const from = 3 * Math.min(255, Math.round(255 * Math.min(1, levels[own - 1] + 0.2)));
    data[at] = table[from]; data[at + 1] = table[from + 1]; data[at + 2] = table[from + 2]; data[at + 3] = 255;
  });
}
