// Diffusion of points on a plane: draw them, let the server learn them, watch new ones come about.

import { json, once } from "./api.js";
import { perform, say } from "./job.js";

const page = document.getElementById("learn");
const form = page.querySelector("form");
const canvas = page.querySelector("canvas");
const pen = canvas.getContext("2d");
const slider = page.querySelector("[name=step]");
const arrows = page.querySelector("[name=arrows]");
const player = page.querySelector(".play");
const field = (name) => form.elements[name];
export const REACH = 2.4; // half the side of the plane
const MOST = 4000;
const COLORS = { 1: "#c2410c", 2: "#1d6fb8" };
const still = matchMedia("(prefers-reduced-motion: reduce)");
let points = [];
let sampled = null;
export const drawn = () => points.map(([x, y, kind]) => [Number(x.toFixed(3)), Number(y.toFixed(3)), kind]);
let timer = null;

export const open = once(async () => {
  const samplers = await json("/sdapi/v1/samplers");
  field("sampler").append(...samplers.map((s) => new Option(s.name, s.aliases[0])));
  field("sampler").value = "dpmpp_2m";
  preset("moons");
});

// ---- points
function normal() {
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}
const SHAPES = {
  moons: (t, kind) => (kind === 1 ? [1.2 * Math.cos(Math.PI * t) - 0.5, 1.2 * Math.sin(Math.PI * t) - 0.3]
    : [0.6 - 1.2 * Math.cos(Math.PI * t), 0.3 - 1.2 * Math.sin(Math.PI * t)]),
  rings: (t, kind) => [Math.cos(2 * Math.PI * t), Math.sin(2 * Math.PI * t)].map((v) => v * (kind === 1 ? 0.7 : 1.7)),
  spiral: (t, kind) => [Math.cos(5 * t + kind * Math.PI), Math.sin(5 * t + kind * Math.PI)].map((v) => v * (0.3 + 1.5 * t)),
};
function preset(name) {
  points = [];
  if (SHAPES[name]) {
    for (let k = 0; k < 600; k += 1) {
      const kind = 1 + (k % 2);
      const [x, y] = SHAPES[name](Math.random(), kind);
      points.push([x + 0.06 * normal(), y + 0.06 * normal(), kind]);
    }
  }
  forget();
}
function forget() {
  play(false);
  sampled = null;
  slider.disabled = player.disabled = true;
  draw();
}
for (const button of form.querySelectorAll("[data-preset]")) {
  button.addEventListener("click", () => preset(button.dataset.preset));
}

// A brush of points: several near the pointer at each move.
function place(event) {
  const box = canvas.getBoundingClientRect();
  const x = ((event.clientX - box.left) / box.width - 0.5) * 2 * REACH;
  const y = (0.5 - (event.clientY - box.top) / box.height) * 2 * REACH;
  for (let k = 0; k < 4 && points.length < MOST; k += 1) {
    points.push([x + 0.05 * normal(), y + 0.05 * normal(), Number(field("kind").value)]);
  }
}
canvas.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  canvas.setPointerCapture(event.pointerId);
  place(event);
  forget();
});
canvas.addEventListener("pointermove", (event) => {
  if (event.buttons !== 1) return;
  place(event);
  draw();
});

// ---- drawing
const side = canvas.width;
const at = ([x, y]) => [(0.5 + x / (2 * REACH)) * side, (0.5 - y / (2 * REACH)) * side];
function dot(point, size, color, seen) {
  const [x, y] = at(point);
  pen.globalAlpha = seen;
  pen.fillStyle = color;
  pen.beginPath();
  pen.arc(x, y, size, 0, 2 * Math.PI);
  pen.fill();
}
function draw() {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ink");
  pen.clearRect(0, 0, side, side);
  for (const [x, y, kind] of points) dot([x, y], 4, COLORS[kind], sampled ? 0.25 : 0.8);
  if (sampled) {
    const step = Number(slider.value);
    if (arrows.checked && step < sampled.guesses.length) field_of(step, ink);
    tails(step, ink);
    for (const point of sampled.paths[step]) dot(point, 5, ink, 0.9);
    page.querySelector("output").textContent = step < sampled.guesses.length
      ? `step ${step + 1} of ${sampled.guesses.length}, noise ${sampled.sigmas[step]}` : "the generated points";
  } else {
    page.querySelector("output").textContent = `${points.length} points`;
  }
  pen.globalAlpha = 1;
}
function field_of(step, ink) {
  pen.globalAlpha = 0.35;
  pen.strokeStyle = ink;
  pen.lineWidth = 2;
  sampled.grid[0].forEach((from, k) => {
    const to = sampled.guesses[step][k];
    const [a, b] = [at(from), at([from[0] + 0.18 * (to[0] - from[0]), from[1] + 0.18 * (to[1] - from[1])])];
    pen.beginPath();
    pen.moveTo(...a);
    pen.lineTo(...b);
    pen.stroke();
    pen.beginPath();
    pen.arc(...b, 3, 0, 2 * Math.PI);
    pen.stroke();
  });
}
function tails(step, ink) {
  pen.globalAlpha = 0.15;
  pen.strokeStyle = ink;
  pen.lineWidth = 2;
  const first = Math.max(0, step - 4);
  sampled.paths[step].forEach((_, k) => {
    pen.beginPath();
    for (let s = first; s <= step; s += 1) pen.lineTo(...at(sampled.paths[s][k]));
    pen.stroke();
  });
}

// ---- sampling
function play(on) {
  clearInterval(timer);
  timer = null;
  player.textContent = on ? "Stop" : "Play";
  if (!on) return;
  if (Number(slider.value) === Number(slider.max)) slider.value = 0;
  timer = setInterval(() => {
    slider.value = Number(slider.value) + 1;
    draw();
    if (Number(slider.value) === Number(slider.max)) play(false);
  }, Math.max(40, 3000 / Number(slider.max)));
}
player.addEventListener("click", () => play(timer === null));
slider.addEventListener("input", () => { play(false); draw(); });
arrows.addEventListener("change", draw);

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (points.length < 2) {
    say(form, "Draw some points first.", true);
    return;
  }
  play(false);
  const asked = { points: drawn() };
  for (const name of ["steps", "follow", "guidance_scale"]) asked[name] = Number(field(name).value);
  asked.sampler = field("sampler").value;
  const done = await perform(form, "/v1/points", async () => asked);
  if (!done) return;
  if (JSON.stringify(drawn()) !== JSON.stringify(asked.points)) {
    say(form, "The points have changed since: train again.");
    return;
  }
  sampled = done.pictures[0];
  slider.max = sampled.guesses.length;
  slider.disabled = player.disabled = false;
  slider.value = still.matches ? slider.max : 0;
  draw();
  play(!still.matches);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
