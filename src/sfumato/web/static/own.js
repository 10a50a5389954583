// A picture of one's own: what the model's autoencoder keeps of it, how the model denoises it under
// noise, and the same idea with another corruption.

import { base64 } from "./api.js";
import { dropped } from "./brush.js";
import { perform, say } from "./job.js";

const page = document.getElementById("explain");
const form = page.querySelector("form.own");
const results = page.querySelector(".results.own");
const field = (name) => form.elements[name];
let file = null;
let sent = null; // the picture that is shown, in base64
let factors = [];
let editing = false;

function node(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}
function figure(source, caption, alt = caption) {
  const picture = node("img", { alt });
  const made = node("figure", {}, picture, node("figcaption", {}, caption));
  picture.onload = () => made.classList.toggle("small", picture.naturalWidth < 200);
  picture.src = source;
  return made;
}

// ---- noise, and what the model expects under it
function line(values, chosen) {
  const [wide, tall] = [320, 90];
  const top = Math.max(...values, 1e-6);
  const at = (k) => `${8 + (k / Math.max(1, values.length - 1)) * (wide - 16)},${tall - 8 - (values[k] / top) * (tall - 20)}`;
  const svg = (tag, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };
  const chart = svg("svg", { viewBox: `0 0 ${wide} ${tall}`, class: "chart", role: "img", "aria-label": "The loss at each noise level" });
  chart.append(svg("polyline", { points: values.map((_, k) => at(k)).join(" "), fill: "none", stroke: "currentColor", "stroke-width": 2 }));
  const [x, y] = at(chosen).split(",");
  chart.append(svg("circle", { cx: x, cy: y, r: 5, fill: "var(--accent)" }));
  return chart;
}
function noised(pictures) {
  const noisy = pictures.filter((p) => p.what === "noisy").reverse(); // little noise first
  const guesses = pictures.filter((p) => p.what === "guess").reverse();
  if (!noisy.length) return [];
  const shown = node("div", { class: "row" });
  const slider = node("input", { type: "range", min: 0, max: noisy.length - 1, value: Math.floor(noisy.length / 2) });
  const said = node("output");
  const draw = () => {
    const k = Number(slider.value);
    shown.replaceChildren(figure(noisy[k].url, `with noise ${noisy[k].sigma.toPrecision(3)}`, "your picture with noise"),
      figure(guesses[k].url, "the model's estimate"), line(noisy.map((p) => p.error), k));
    said.textContent = `The loss at this level is ${noisy[k].error.toPrecision(2)}: the squared error of the predicted noise. Predicting zero would cost 1.`;
  };
  slider.oninput = draw;
  draw();
  return [node("h3", {}, "Predict the noise"), node("label", {}, "Noise", slider), shown, node("p", { class: "hint" }, said)];
}

// ---- the autoencoder, with channels that can be changed
function coded(pictures) {
  const channels = pictures.filter((p) => p.what === "channel");
  const again = pictures.find((p) => p.what === "decoded");
  if (!again) return [];
  factors = channels.map(() => 1);
  const changed = figure(again.url, "with your changes");
  const sliders = channels.map((p) => {
    const slider = node("input", { type: "range", min: -1, max: 3, step: 0.25, value: 1, "aria-label": `Factor of channel ${p.channel + 1}` });
    slider.onchange = () => {
      factors[p.channel] = Number(slider.value);
      edit(changed.querySelector("img"));
    };
    return node("div", {}, figure(p.url, `channel ${p.channel + 1}, size ${p.size.toPrecision(2)}`, `what channel ${p.channel + 1} adds`), slider);
  });
  return [node("h3", {}, "Through the autoencoder"),
    node("p", { class: "hint" }, `The picture becomes ${again.shape.join(" x ")} numbers, and a picture again: PSNR ${again.psnr ?? "infinite"} dB. `
      + "Below, what each channel adds to it. Move a slider to weaken, strengthen or invert a channel."),
    node("div", { class: "row" }, figure(pictures.find((p) => p.what === "picture").url, "your picture, as the model sees it"),
      figure(again.url, "through the autoencoder and back"), changed),
    node("div", { class: "channels" }, ...sliders)];
}
// One edit at a time; what changed meanwhile is taken by the next.
async function edit(picture) {
  if (editing) return;
  editing = true;
  for (let tried = ""; tried !== factors.join();) {
    tried = factors.join();
    const asked = { image: sent, levels: 0, channels: [...factors] };
    const done = await perform(form, "/v1/probes", async () => asked);
    const made = done?.pictures.find((p) => p.what === "changed");
    if (!made) break;
    picture.src = made.url;
  }
  editing = false;
}

// ---- another corruption
const near = (p) => (p.psnr === null ? "equal to x" : `${p.psnr} dB`);
const SAID = {
  picture: () => "x: your picture",
  measured: (p) => `y = A x: damaged, ${near(p)}`,
  restored: (p) => `D(y): restored, ${near(p)}`,
  difference: (p, damage) => (damage === "noise" ? `y - D(y): the removed noise, deviation ${p.rms}`
    : `y - A D(y): difference between the result and the input, ${p.rms} of 255`),
};
function spoiled(pictures, damage) {
  return [node("h3", {}, "Damaged and restored"),
    node("p", { class: "hint" }, "A is the damage. The network sees only y. Differences are shown four times as large, around gray."),
    node("div", { class: "row" }, ...pictures.map((p) => figure(p.url, SAID[p.what](p, damage))))];
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (editing) return;
  if (!file) {
    say(form, "Choose a picture first.", true);
    return;
  }
  const damage = field("damage").value;
  let asked = null;
  for (const slider of results.querySelectorAll("input")) slider.disabled = true; // of the picture before
  const done = await perform(form, "/v1/probes", async () => {
    asked = { image: await base64(file), prompt: field("prompt").value, ...(damage && { damage }) };
    return asked;
  });
  if (!done) {
    for (const slider of results.querySelectorAll("input")) slider.disabled = false;
    return;
  }
  sent = asked.image;
  results.replaceChildren(...(damage ? spoiled(done.pictures, damage) : [...coded(done.pictures), ...noised(done.pictures)]));
});
field("file").addEventListener("change", () => { file = field("file").files[0] ?? null; });
dropped(form, (given) => {
  const held = new DataTransfer();
  held.items.add(given);
  field("file").files = held.files; // the form shows the name
  file = given;
  say(form, given.name);
});
