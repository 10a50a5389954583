// The page of an explanation. One state, one function that draws it; every part is a function of the state.
const $ = (id) => document.getElementById(id);

// ---- the archive: the length of a JSON text, the text, and the arrays and pictures that it refers to as [kind, offset, length]
const packed = Uint8Array.from(atob($("data").textContent), (c) => c.charCodeAt(0));
const archive = await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
const length = new DataView(archive).getUint32(0, true);
const data = JSON.parse(new TextDecoder().decode(new Uint8Array(archive, 4, length)));
const held = ([, offset, size]) => archive.slice(4 + length + offset, 4 + length + offset + size);
const model = data.model, factor = model.factor;
function half(n) {
  const sign = n & 0x8000 ? -1 : 1, power = (n >> 10) & 31, rest = n & 1023;
  if (power === 0) return sign * rest * 2 ** -24;
  if (power === 31) return rest ? NaN : sign * Infinity;
  return sign * (1 + rest / 1024) * 2 ** (power - 15);
}
const kept = new Map(); // read once
function once(ref, read) {
  if (!kept.has(ref[1])) kept.set(ref[1], read(held(ref)));
  return kept.get(ref[1]);
}
const floats = (ref) => once(ref, (bytes) => Float32Array.from(new Uint16Array(bytes), half));
const address = (ref) => once(ref, (bytes) => URL.createObjectURL(new Blob([bytes], { type: ref[0] })));
const linear = new Float32Array(held(data.linear.map));
for (const run of data.runs) for (const kind of [run.attention, run.attention?.heads]) if (kind) kind.values = new Uint8Array(held(kind.maps));

const state = { run: 0, step: 0, word: null, layer: -1, head: -1, scale: null, spot: null, channel: 0 };
const run = () => data.runs[state.run];
const step = () => run().steps[state.step];
const scale = () => (state.scale === null ? run().guidance_scale : state.scale);
const exact = () => state.scale === null || Math.abs(state.scale - run().guidance_scale) < 1e-9;

// ---- pictures
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "circle", "text", "title"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) key.startsWith("on") ? (node[key] = value) : node.setAttribute(key, value);
  node.append(...children);
  return node;
}
// Latents drawn by the linear decoder, no finer than is looked at: its columns are means over parts of a patch.
const grains = new Map();
function coarse(grain) {
  if (!grains.has(grain)) {
    const each = factor / grain, rows = linear.length / (3 * factor * factor), columns = 3 * grain * grain, out = new Float32Array(rows * columns);
    for (let row = 0; row < rows; row++)
      for (let color = 0; color < 3; color++)
        for (let y = 0; y < factor; y++)
          for (let x = 0; x < factor; x++)
            out[row * columns + (color * grain + Math.floor(y / each)) * grain + Math.floor(x / each)] += linear[((row * 3 + color) * factor + y) * factor + x] / each ** 2;
    grains.set(grain, out);
  }
  return grains.get(grain);
}
// A difference is drawn without what no latent says, around gray.
function drawn(latents, shape, label, difference = false) {
  const [channels, tall, wide] = shape;
  let grain = factor;
  while (grain % 2 === 0 && grain * Math.max(tall, wide) > 256) grain /= 2;
  const map = coarse(grain), patch = grain * grain, columns = 3 * patch;
  const canvas = make("canvas", { width: wide * grain, height: tall * grain, role: "img", "aria-label": label });
  const context = canvas.getContext("2d"), pixels = context.createImageData(wide * grain, tall * grain);
  const none = map.subarray(channels * columns, (channels + 1) * columns), values = new Float32Array(columns);
  for (let place = 0; place < tall * wide; place++) {
    const top = Math.floor(place / wide) * grain, left = (place % wide) * grain;
    difference ? values.fill(0) : values.set(none);
    for (let c = 0; c < channels; c++) {
      const weight = latents[c * tall * wide + place], from = c * columns;
      for (let column = 0; column < columns; column++) values[column] += weight * map[from + column];
    }
    for (let k = 0; k < patch; k++) {
      const at = 4 * ((top + Math.floor(k / grain)) * wide * grain + left + (k % grain));
      for (let color = 0; color < 3; color++) pixels.data[at + color] = (values[color * patch + k] + 1) * 127.5;
      pixels.data[at + 3] = 255;
    }
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}
function picture(ref, label) {
  return make("img", { src: address(ref), alt: label, class: ref[0] === "image/png" ? "" : "fine" });
}
function figure(content, caption, attributes = {}) {
  return make("figure", attributes, content, make("figcaption", {}, caption));
}
function latent(name) { // what was expected without the text is kept only where it does not follow from what the sampler was told
  const s = step(), g = run().guidance_scale;
  if (s.latents[name]) return floats(s.latents[name]);
  if (name !== "negative" || !s.guided) return null;
  const plus = latent("positive"), told = latent("denoised");
  return plus.map((value, k) => (g * value - told[k]) / (g - 1));
}
function guided() {
  const plus = latent("positive"), minus = latent("negative");
  return exact() || !minus ? latent("denoised") : plus.map((value, k) => minus[k] + scale() * (value - minus[k]));
}
function seen(name, label) {
  const shot = step().pictures[name];
  if (shot && (name !== "denoised" || exact())) return picture(shot, label);
  return drawn(name === "denoised" ? guided() : latent(name), run().shape, label);
}

// ---- parts of the page
function header() {
  $("pictures").replaceChildren(...data.runs.map((r, k) => make("button",
    { role: "radio", "aria-checked": k === state.run, "aria-label": r.label || "no text", onclick: () => set({ run: k }) },
    Object.assign(picture(r.picture, r.prompt), { width: Math.max(64, Math.min(160, 480 / data.runs.length)) }))));
  const r = run(), tries = r.best_of > 1 ? `, candidate ${r.candidate + 1} of ${r.best_of}` : "";
  $("prompt").textContent = r.prompt || "no text";
  $("branch").textContent = r.then_step === null ? "" : `From step ${r.then_step} on` + (r.then === null ? "" : `, the text is "${r.then}"`) +
    (r.then_guidance_scale === null ? "." : `, the guidance scale is ${r.then_guidance_scale}.`);
  $("facts").textContent = `${model.name}, seed ${r.seed}${tries}, ${r.steps.length} steps of ${r.sampler}, guidance scale ${r.guidance_scale}, ${r.size.join("x")}` +
    (r.negative_prompt ? `; negative prompt "${r.negative_prompt}"` : "") + (r.source ? `; started from a picture` : "");
}
function where() {
  const r = run();
  $("scrub").max = r.steps.length - 1;
  $("scrub").value = state.step;
  $("where").textContent = `step ${state.step + 1} of ${r.steps.length}, noise ${step().sigma.toPrecision(3)}`;
}
const many = (n) => (n >= 1e9 ? `${(n / 1e9).toFixed(1)} billion` : n >= 1e6 ? `${(n / 1e6).toFixed(1)} million` : n.toLocaleString("en"));
function road() {
  const r = run(), p = model.parameters, size = r.shape.join(" x "), worked = [r.shape[2] * factor, r.shape[1] * factor], shown = r.size.join(" x "), ms = r.steps.reduce((a, s) => a + s.seconds, 0) / r.steps.length * 1000;
  const start = r.source ? "An encoded picture with noise" : "Noise";
  const stops = [
    p.text ? ["The text", `${r.words.length} of at most ${model.length} tokens per chunk, each a vector of ${model.width} numbers; text encoder with ${many(p.text)} parameters`] : null,
    ["The start", `${start}: ${size} numbers, standard deviation ${r.steps[0].sigma.toPrecision(3)}`],
    [`The denoiser, ${r.steps.length === 1 ? "once" : `${r.steps.length} times`}`, `U-Net with ${many(p.network)} parameters; predicts ${{ eps: "the noise", v: "the velocity v", x0: "the clean picture" }[model.predicts] || model.predicts}; ${ms < 1000 ? `${ms.toPrecision(3)} ms` : `${(ms / 1000).toPrecision(3)} s`} per step` + (r.steps[0].guided ? ", with and without the text" : "")],
    [factor > 1 ? "The decoder" : "The picture", factor > 1 ? `${many(p.space)} parameters; ${size} numbers become ${worked.join(" x ")} pixels` : `${worked.join(" x ")} pixels, as they are`],
    r.size[0] > worked[0] && r.size[1] > worked[1] ? ["The upscaler", `a second diffusion model enlarges the picture to ${shown} pixels`] : null,
  ].filter(Boolean);
  $("road").replaceChildren(...stops.flatMap(([name, text], k) => [...(k ? [make("div", { class: "arrow", "aria-hidden": true }, "\u2192")] : []), make("div", {}, make("b", {}, name), text)]));
}
// The tokens of the text that a step follows.
const follows = (r, index) => (r.then_words.length > 0 && index + 1 >= r.then_step ? r.then_words : r.words);
function words() {
  const r = run(), said = follows(r, state.step), cosines = said === r.words ? r.cosines : r.then_cosines;
  $("s-words").hidden = !r.words.length;
  $("words").replaceChildren(...said.map((w, k) => make("button", { "aria-pressed": k === state.word, onclick: () => set({ word: k === state.word ? null : k }) },
    w.piece || "\u00b7", make("small", {}, `${w.id}${w.weight === 1 ? "" : ` \u00d7${w.weight}`}`))));
  $("cut").textContent = (r.cut ? `Not seen by the model: "${r.cut}". ` : "") + (said === r.words && r.styled !== r.prompt ? `The words after "${r.prompt}" belong to the model's style.` : "");
  $("cosines").replaceChildren(make("table", {}, ...cosines.map((row, i) => make("tr", {}, make("th", {}, said[i].piece), ...row.map((v) =>
    make("td", { style: `background: rgb(234 88 12 / ${Math.max(0, v) ** 2 * 0.7})` }, v.toFixed(2)))))));
}
function marked(node) { // shows the chosen place, and lets another one be chosen
  const [, tall, wide] = run().shape, [y, x] = state.spot;
  const frame = make("div", { style: "position: relative", onclick: (event) => {
    const box = frame.getBoundingClientRect(), at = (part, whole, n) => Math.min(n - 1, Math.max(0, Math.floor((part / whole) * n)));
    set({ spot: [at(event.clientY - box.top, box.height, tall), at(event.clientX - box.left, box.width, wide)] });
  } }, node, make("div", { style: `position: absolute; pointer-events: none; border: 2px solid #fff; box-shadow: 0 0 0 2px #000; left: ${(x / wide) * 100}%; top: ${(y / tall) * 100}%; width: ${Math.max(2, 100 / wide)}%; height: ${Math.max(2, 100 / tall)}%` }));
  return frame;
}
function oneStep() {
  const r = run(), s = step(), minus = latent("negative"), last = state.step === r.steps.length - 1;
  $("how-step").textContent = minus
    ? "The network estimates the clean picture twice, without and with the text. Guidance multiplies the difference. The sampler then goes from the noisy latents toward the guided estimate."
    : "The network estimates the clean picture from the noisy latents, and the sampler goes a part of the way there.";
  const after = last ? floats(r.final) : floats(r.steps[state.step + 1].latents.x), next = last ? r.end : r.steps[state.step + 1].sigma;
  const parts = [figure(marked(seen("x", "noisy latents")), `x: noise ${s.sigma.toPrecision(3)}`)];
  if (minus) {
    const plus = latent("positive"), change = plus.map((v, k) => v - minus[k]);
    parts.push(figure(marked(seen("negative", "estimate without the text")), r.negative_prompt ? "D\u2212: estimate with the negative prompt" : "D\u2212: estimate without the text"),
      figure(marked(seen("positive", "estimate with the text")), "D+: estimate with the text"),
      figure(marked(drawn(change.map((v) => 3 * v), r.shape, "what the text changes", true)), "3 (D+ \u2212 D\u2212): what the text changes"));
  }
  parts.push(figure(marked(seen("denoised", "estimate of the clean picture")), minus ? `D = D\u2212 + ${scale().toFixed(1)} (D+ \u2212 D\u2212)` : "D: estimate of the clean picture"));
  const there = last || !r.steps[state.step + 1].pictures.x ? drawn(after, r.shape, "after the step") : picture(r.steps[state.step + 1].pictures.x, "after the step");
  parts.push(figure(marked(last ? picture(r.picture, "the finished picture") : there), last ? "the finished picture" : `x after the step: noise ${next.toPrecision(3)}`));
  $("step").replaceChildren(...parts);
  $("guide").hidden = !minus;
  $("scale").value = scale();
  $("scale-said").textContent = exact() ? `${scale()}, as recorded` : `${scale().toFixed(1)}: only this step, drawn by the linear map`;
  $("view-said").textContent = factor > 1 ? `Latents that the model did not decode are drawn by a linear map from the ${r.shape[0]} numbers of each position to its pixels, fitted to the decoder. It explains ${(100 * data.linear.share).toFixed(0)} % of the variance of the pixels.` : "";
  sum(after, next);
}
function sum(after, next) {
  const [, tall, wide] = run().shape, at = state.channel * tall * wide + state.spot[0] * wide + state.spot[1];
  const x = latent("x")[at], minus = latent("negative"), d = guided()[at], s = step().sigma;
  const line = (what, v, note = "") => `${what.padEnd(28)}${(v < 0 ? "\u2212" : " ") + Math.abs(v).toFixed(4)}   ${note}`.trimEnd();
  const lines = [`position ${state.spot[1] + 1}, ${state.spot[0] + 1}, channel ${state.channel + 1}`, line("x", x)];
  if (minus) {
    const m = minus[at], p = latent("positive")[at], mixed = m + scale() * (p - m);
    lines.push(line("D\u2212", m), line("D+", p), line(`D = D\u2212 + ${scale().toFixed(1)} (D+ \u2212 D\u2212)`, mixed));
    if (exact() && Math.abs(mixed - d) > 0.02 + 0.02 * Math.abs(d)) lines.push(line("D, as used", d, "corrected to the known part, or rescaled"));
  } else lines.push(line("D", d));
  lines.push(line(`noise n = (x \u2212 D) / ${s.toPrecision(3)}`, (x - d) / s));
  if (next > 0) lines.push(line(`D + ${next.toPrecision(3)} n`, d + (next * (x - d)) / s, "the result of an Euler step"));
  lines.push(line("x after the step", after[at], next > 0 ? `at noise ${next.toPrecision(3)}` : "no noise is left"));
  $("sum").textContent = lines.join("\n");
}
function weights(atStep, word) { // the chosen layer's and head's map of a word, or the mean of all
  const { heads } = run().attention, one = heads !== null && state.head >= 0;
  const { shape, values, top } = one ? heads : run().attention, [tokens, a, b] = shape.slice(-3), layers = shape[1], out = new Float32Array(a * b);
  const chosen = state.layer < 0 ? [...Array(layers).keys()] : [state.layer];
  for (const layer of chosen) {
    const place = one ? (atStep * layers + layer) * shape[2] + state.head : atStep * layers + layer;
    const from = (place * tokens + word) * a * b;
    for (let k = 0; k < a * b; k++) out[k] += ((values[from + k] / 255) * top) ** 2 / chosen.length;
  }
  return out;
}
const courses = new Map(); // of a run and a layer: the mean weight of each word at each step, in percent
function course(count) {
  const key = `${state.run} ${state.layer} ${state.head}`;
  if (!courses.has(key)) courses.set(key, [...Array(count).keys()].map((word) => run().steps.map((_, k) => 100 * mean([...weights(k, word)]))));
  return courses.get(key);
}
const mean = (list) => list.reduce((x, y) => x + y, 0) / list.length;
function attention() {
  const r = run();
  $("s-look").hidden = !r.attention;
  if (!r.attention) return;
  if ($("layer").length !== r.layers.length + 1) {
    $("layer").replaceChildren(make("option", { value: -1 }, "mean of all"), ...r.layers.map((name, k) => make("option", { value: k }, name)));
    $("layer").value = state.layer;
  }
  const count = r.attention.heads ? r.attention.heads.shape[2] : 0;
  $("heads").hidden = !count;
  if ($("head").length !== count + 1) {
    $("head").replaceChildren(make("option", { value: -1 }, "mean of all"), ...[...Array(count).keys()].map((k) => make("option", { value: k }, k + 1)));
    $("head").value = state.head = Math.min(state.head, count - 1);
  }
  const [, , tokens, a, b] = r.attention.shape, kept = tokens - 1, said = follows(r, state.step);
  const piece = (list, word) => (list[word] ? list[word].piece : "");
  const rest = kept < said.length ? `after token ${kept}` : "padding";
  const under = step().pictures.denoised ? picture(step().pictures.denoised, "") : drawn(guided(), r.shape, "");
  const places = [...said.slice(0, kept).keys(), kept];
  $("maps").replaceChildren(...places.map((word) => {
    const name = word < kept ? said[word].piece : rest;
    const map = weights(state.step, word), most = Math.max(...map, 1e-9), share = mean([...map]);
    const canvas = make("canvas", { width: b * 8, height: a * 8, role: "img", "aria-label": `attention to ${name}` }), context = canvas.getContext("2d");
    const veil = make("canvas", { width: b, height: a }), inks = veil.getContext("2d"), values = inks.createImageData(b, a);
    map.forEach((value, k) => values.data.set([10, 10, 30, 217 * (1 - value / most)], 4 * k));
    inks.putImageData(values, 0, 0);
    const paint = () => {
      context.drawImage(under, 0, 0, b * 8, a * 8);
      context.imageSmoothingEnabled = false;
      context.drawImage(veil, 0, 0, b * 8, a * 8);
    };
    under.complete === false ? under.addEventListener("load", paint) : paint();
    const chosen = word < kept ? { onclick: () => set({ word: word === state.word ? null : word }), class: word === state.word ? "chosen" : "" } : {};
    return figure(canvas, `${name} ${(100 * share).toFixed(1)}\u00a0%`, chosen);
  }));
  const curves = course(tokens).map((values, word) => {
    const [one, other] = [piece(r.words, word), piece(r.then_words, word)];
    const name = word === kept ? rest : other && other !== one ? `${one}/${other}` : one;
    return { name, values, chosen: word === state.word };
  });
  const shown = curves.filter((c, word) => word === state.word || (word > 0 && word < kept));
  $("course").replaceChildren(chart(shown, "mean weight in %, without <start> and padding", state.step));
}
// Names at the ends of the lines, at least 12 pixels apart; of many lines, the chosen and the highest ones are named.
function labels(svg, ends, left, lowest) {
  const most = Math.floor((lowest - 8) / 12);
  const named = ends.sort((a, b) => (b.chosen === true) - (a.chosen === true) || a.from - b.from).slice(0, most).sort((a, b) => a.from - b.from);
  named.forEach((end, k) => { end.at = k ? Math.max(end.from, named[k - 1].at + 12) : Math.max(end.from, 8); });
  named.reduceRight((limit, end) => { end.at = Math.min(end.at, limit); return end.at - 12; }, lowest);
  for (const { from, at, name } of named)
    svg.append(make("line", { class: "axis", x1: left, y1: from, x2: left + 8, y2: at }), make("text", { x: left + 10, y: at + 4 }, name));
}
// Lines over the steps; the chosen one is marked, and so is the step.
function chart(curves, title, cursor, { log = false, names = true, floor = 0, first = "step 1" } = {}) {
  const wide = 320, tall = 170, left = 44, bottom = 26, values = curves.flatMap((c) => c.values).filter((v) => !log || v > 0);
  const f = log ? Math.log : (v) => v, low = log ? f(Math.min(...values)) : Math.min(floor, ...values), high = Math.max(f(Math.max(...values)), low + 1e-6);
  const last = curves[0].values.length - 1, count = Math.max(1, last), px = (k) => left + (k / count) * (wide - left), py = (v) => tall - bottom - ((f(v) - low) / (high - low)) * (tall - bottom - 8);
  const side = names && curves.some((c) => c.name) ? 90 : 4, svg = make("svg", { width: wide + side, height: tall, viewBox: `0 0 ${wide + side} ${tall}`, role: "img", "aria-label": title });
  svg.append(make("line", { class: "axis", x1: left, x2: wide, y1: tall - bottom, y2: tall - bottom }), make("line", { class: "axis", x1: px(cursor), x2: px(cursor), y1: 8, y2: tall - bottom }));
  const ends = [];
  for (const c of curves) {
    const points = c.values.map((v, k) => (log && v <= 0 ? null : `${px(k).toFixed(1)},${py(v).toFixed(1)}`)).filter(Boolean);
    svg.append(make("path", { class: `curve${c.chosen ? " chosen" : ""}`, d: `M${points.join("L")}` }));
    if (points.length === 1) svg.append(make("circle", { class: "dot", r: 3, cx: px(0), cy: py(c.values[0]) })); // one step is no line
    if (c.chosen && cursor < c.values.length) svg.append(make("circle", { class: "dot", r: 4, cx: px(cursor), cy: py(c.values[cursor]) }));
    if (names && c.name) ends.push({ from: py(c.values[c.values.length - 1]), name: c.name, chosen: c.chosen });
  }
  labels(svg, ends, wide, tall - bottom);
  const said = (v) => (Math.abs(v) >= 1000 ? Math.round(v).toLocaleString("en") : v.toPrecision(3)), back = (v) => (log ? Math.exp(v) : v);
  svg.append(make("text", { x: left - 4, y: tall - bottom + 3, "text-anchor": "end" }, said(back(low))), make("text", { x: left - 4, y: 14, "text-anchor": "end" }, said(back(high))),
    make("text", { x: left, y: tall - 8 }, first), make("text", { x: wide, y: tall - 8, "text-anchor": "end" }, last ? String(last + (first === "step 1")) : ""));
  return make("figure", { style: "max-width: 27rem" }, svg, make("figcaption", {}, title));
}
function schedule() {
  const r = run(), line = (pick) => [{ values: r.steps.map(pick), chosen: true }];
  const parts = [chart(line((s) => s.sigma), "noise level before the step (logarithmic)", state.step, { log: true })];
  $("schedule-said").textContent = "The noise level before each step, " + (r.steps[0].guided ? "the cosine of the noise predictions with and without the text (low: the text changes the prediction much), " : "") + "and the duration of the step.";
  if (r.steps[0].guided) parts.push(chart(line((s) => s.guidance_cosine), "cosine of the noise predictions with and without the text", state.step, { floor: Math.min(...r.steps.map((s) => s.guidance_cosine)) }));
  parts.push(chart(line((s) => s.seconds * 1000), "duration in milliseconds", state.step));
  $("schedule").replaceChildren(...parts);
}
function guess() {
  const r = run();
  $("s-guess").hidden = !r.guesses.length;
  if (!r.guesses.length) return;
  const g = r.guesses[state.step], latents = { noisy: () => floats(r.final).map((v, k) => v + g.sigma * floats(r.noise)[k]), guess: () => floats(g.guess) };
  const shot = (name, label) => (g.pictures[name] ? picture(g.pictures[name], label) : drawn(latents[name](), r.shape, label));
  $("guess").replaceChildren(figure(picture(r.picture, "the finished picture"), "the finished picture"),
    figure(shot("noisy", "with noise"), `with noise of ${g.sigma.toPrecision(3)}`), figure(shot("guess", "estimate"), `estimate; error ${g.error.toFixed(3)}`));
  $("loss").replaceChildren(chart([{ values: r.guesses.map((x) => x.error), chosen: true }], "error of the predicted noise, for the noise level of each step", state.step));
}
function reconstruction() {
  const r = run();
  $("s-reconstruction").hidden = !r.reconstruction;
  if (!r.reconstruction) return;
  const [channels, tall, wide] = r.reconstruction.shape, z = floats(r.reconstruction.z), pixels = 3 * tall * wide * factor * factor;
  $("reconstruction-said").textContent = `The autoencoder encodes a picture of ${pixels.toLocaleString("en")} numbers as ${(channels * tall * wide).toLocaleString("en")} numbers, the latents, and decodes them again. The PSNR of the finished picture after both is ${r.reconstruction.psnr} dB. The channels of its latents:`;
  const shots = [...Array(channels).keys()].map((c) => {
    const part = z.slice(c * tall * wide, (c + 1) * tall * wide), low = Math.min(...part), high = Math.max(...part, low + 1e-6);
    const canvas = make("canvas", { width: wide, height: tall, role: "img", "aria-label": `channel ${c + 1}` }), context = canvas.getContext("2d"), values = context.createImageData(wide, tall);
    part.forEach((v, k) => values.data.set([...Array(3).fill(((v - low) / (high - low)) * 255), 255], 4 * k));
    context.putImageData(values, 0, 0);
    return figure(canvas, `${c + 1}: ${low.toFixed(1)} to ${high.toFixed(1)}`);
  });
  $("reconstruction").replaceChildren(figure(picture(r.picture, "the picture"), "the picture"), figure(picture(r.reconstruction.picture, "encoded and decoded"), "encoded and decoded"), ...shots);
}
function apart() {
  $("s-apart").hidden = data.runs.length < 2;
  if (data.runs.length < 2) return;
  const first = data.apart.slice(1).map((far) => far.findIndex((v) => v > 0.1));
  $("apart-said").textContent = `The noisy latents of each run, compared with those of "${data.runs[0].label}": ` +
    data.runs.slice(1).map((r, k) => `"${r.label}" ${first[k] < 0 ? "never differs by more than a tenth of the noise's standard deviation" : `differs by more than a tenth of the noise's standard deviation after step ${first[k]}`}`).join("; ") + ".";
  $("sides").replaceChildren(...data.runs.map((r) => {
    const s = r.steps[Math.min(state.step, r.steps.length - 1)];
    return figure(s.pictures.denoised ? picture(s.pictures.denoised, r.label) : drawn(floats(s.latents.denoised), r.shape, r.label), r.label);
  }));
  const far = chart(data.apart.map((values, k) => ({ values, name: data.runs[k].label.slice(0, 16), chosen: k === state.run })), "distance from the noisy latents of the first run", state.step, { first: "start" });
  $("apart").replaceChildren(far, ways());
}
function ways() { // all noisy latents on the plane of their two principal components
  const all = data.map.flat(), low = [0, 1].map((k) => Math.min(...all.map((p) => p[k]))), high = [0, 1].map((k) => Math.max(...all.map((p) => p[k])));
  const px = (p) => 10 + ((p[0] - low[0]) / (high[0] - low[0] || 1)) * 300, py = (p) => 160 - ((p[1] - low[1]) / (high[1] - low[1] || 1)) * 150;
  const svg = make("svg", { width: 430, height: 175, viewBox: "0 0 430 175", role: "img", "aria-label": "trajectories of the latents" });
  data.map.forEach((way, k) => {
    svg.append(make("path", { class: `curve${k === state.run ? " chosen" : ""}`, d: `M${way.map((p) => `${px(p).toFixed(1)},${py(p).toFixed(1)}`).join("L")}` }));
    way.forEach((p, s) => svg.append(make("circle", { class: s === state.step ? "dot" : "", fill: "currentColor", r: s === state.step ? 5 : 2.5, cx: px(p), cy: py(p), onclick: () => set({ run: k, step: Math.min(s, way.length - 2) }) }, make("title", {}, `${data.runs[k].label}, before step ${s + 1}`))));
    const end = way[way.length - 1];
    svg.append(make("text", { x: px(end) + 7, y: py(end) + 4 }, data.runs[k].label.slice(0, 16)));
  });
  return make("figure", { style: "max-width: 27rem" }, svg, make("figcaption", {}, "trajectories of the noisy latents, on their first two principal components"));
}

// ---- what the reader does
const PARTS = [ // and what of the state each shows
  [header, ["run"]], [where, ["run", "step"]], [road, ["run"]], [words, ["run", "step", "word"]], [oneStep, ["run", "step", "scale", "spot", "channel"]],
  [attention, ["run", "step", "word", "layer", "head", "scale"]], [schedule, ["run", "step"]], [guess, ["run", "step"]], [reconstruction, ["run"]], [apart, ["run", "step"]],
];
function set(change) {
  Object.assign(state, change);
  const r = run();
  if (parent !== window) parent.postMessage({ sfumato: "cursor", run: state.run, step: state.step, word: state.word, words: follows(r, state.step).map((w) => w.piece) }, "*");
  state.step = Math.max(0, Math.min(state.step, r.steps.length - 1));
  if (change.run !== undefined) { state.word = null; state.scale = null; }
  state.spot = state.spot || [Math.floor(r.shape[1] / 2), Math.floor(r.shape[2] / 2)];
  const had = document.activeElement && document.activeElement.parentElement, place = had ? [...had.children].indexOf(document.activeElement) : -1;
  for (const [part, shows] of PARTS) if (shows.some((name) => name in change)) part();
  if (had && place >= 0 && document.activeElement === document.body && had.children[place]) had.children[place].focus({ preventScroll: true });
}
let timer = null;
function play(on) {
  clearInterval(timer);
  timer = on ? setInterval(() => (state.step === run().steps.length - 1 ? play(false) : set({ step: state.step + 1 })), 600) : null;
  if (on && state.step === run().steps.length - 1) set({ step: 0 });
  $("play").setAttribute("aria-pressed", on);
  $("play").textContent = on ? "Stop" : "Play";
}
$("play").onclick = () => play(!timer);
$("back").onclick = () => set({ step: state.step - 1 });
$("forth").onclick = () => set({ step: state.step + 1 });
$("scrub").oninput = (event) => set({ step: Number(event.target.value) });
$("scale").oninput = (event) => set({ scale: Number(event.target.value) });
$("scale-reset").onclick = () => set({ scale: null });
$("layer").onchange = (event) => set({ layer: Number(event.target.value) });
$("head").onchange = (event) => set({ head: Number(event.target.value) });
$("channel").onchange = (event) => set({ channel: Number(event.target.value) });
$("channel").append(...[...Array(run().shape[0]).keys()].map((c) => make("option", { value: c }, c + 1)));
document.addEventListener("keydown", (event) => {
  if (["INPUT", "SELECT"].includes(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "ArrowLeft") set({ step: state.step - 1 });
  else if (event.key === "ArrowRight") set({ step: state.step + 1 });
  else if (event.key === " " && event.target === document.body) { event.preventDefault(); play(!timer); }
});
const input = run().source ? "an encoded picture with noise" : "noise";
$("about").lastElementChild.textContent = `The input is ${input}${model.parameters.text ? " and a text" : ""}. At each step, the network estimates the clean picture, and the sampler goes a part of the way there.`;
$("foot").textContent = `sfumato ${data.version}; ${model.name}, sha256 ${model.sha256.slice(0, 16)}. Left and right arrow: one step; space: play. The page contains all its data and needs no network.`;
const changes = run().steps.map((s) => s.change);
const most = Math.max(...changes);
set({ run: 0, step: most > 0 ? changes.indexOf(most) : 0 }); // where the text changes the estimate most; without guidance the first step
