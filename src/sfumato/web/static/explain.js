// The page that shows how a picture came about, and sets other runs beside it: other words, other
// guidance, or another way from a step on. Each run is made by the model that is loaded.

import { json, once } from "./api.js";
import { uses } from "./gallery.js";
import { leave, perform, resume, say, show } from "./job.js";
import { refill } from "./keep.js";

const page = document.getElementById("explain");
const form = page.querySelector("form");
const frame = page.querySelector("iframe");
const field = (name) => form.elements[name];
const MOST = 5; // runs beside the first
const KEPT = ["model", "seed", "steps", "guidance_scale", "guidance_rescale", "negative_prompt",
  "sampler", "schedule", "eta", "style", "size", "candidate", "loras", "fast", "then", "then_step", "then_guidance_scale"];
let base = null; // the first run: what was asked for
let changes = [];

let runs = 0; // requests so far: a later one replaces an earlier one

export const open = once(async () => {
  const samplers = await json("/sdapi/v1/samplers");
  field("sampler").append(...samplers.map((s) => new Option(s.name, s.aliases[0])));
  refill(form);
  goOn();
});

// Follow the runs that were being made when the page was reloaded.
async function goOn() {
  let begun = null;
  const done = await resume(form, (about) => {
    begun = about.base;
    begin(begun);
    changes = about.changes;
    fill();
    listed();
    return () => {};
  });
  if (done) show(frame, form, done.job);
  else if (begun && base === begun) begin(null);
}

// Set the first run, or none; without one, the page shows neither a frame nor the fields for others.
function begin(first) {
  base = first;
  changes = [];
  page.classList.toggle("empty", first === null);
}

// Explain a picture: its prompt and settings.
async function start(prompt, settings) {
  const kept = KEPT.filter((key) => (settings[key] ?? "") !== "");
  const first = { prompt, ...Object.fromEntries(kept.map((key) => [key, settings[key]])) };
  begin(first);
  try {
    await open();
  } catch (error) {
    begin(null);
    throw error;
  }
  fill();
  if (!(await run()) && base === first) begin(null); // a run that failed or was stopped is no first run
}

function fill() {
  field("prompt").value = base.prompt;
  for (const name of ["guidance_scale", "steps", "seed", "sampler"]) field(name).value = base[name] ?? "";
  field("then_step").value = "";
  words();
}

// Each word of the prompt as a switch: pressed means that it is said.
function words() {
  const box = form.querySelector(".words");
  const said = field("prompt").value.split(/\s+/).filter(Boolean);
  box.replaceChildren(...said.map((word) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = word;
    button.setAttribute("aria-pressed", "true");
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") !== "true");
      const left = [...box.children].filter((b) => b.getAttribute("aria-pressed") === "true");
      field("prompt").value = left.map((b) => b.textContent).join(" ");
    });
    return button;
  }));
}

// What the form asks for that the first run did not.
function change() {
  const out = {};
  const from = field("then_step").value;
  if (from) {
    out.then_step = Number(from);
    if (field("prompt").value !== base.prompt) out.then = field("prompt").value;
    const guidance = field("guidance_scale").value;
    if (guidance !== "" && Number(guidance) !== base.guidance_scale) out.then_guidance_scale = Number(guidance);
    const others = ["steps", "seed", "sampler"].filter((name) => String(base[name] ?? "") !== field(name).value);
    if (others.length) throw new Error(`From a step on, only the text and the guidance can change, not the ${others.join(" or the ")}.`);
  } else {
    if (field("prompt").value !== base.prompt) out.prompt = field("prompt").value;
    for (const name of ["guidance_scale", "steps", "seed"]) {
      const value = field(name).value;
      if (value !== "" && Number(value) !== base[name]) out[name] = Number(value);
    }
    if (field("sampler").value && field("sampler").value !== base.sampler) out.sampler = field("sampler").value;
  }
  return out;
}

function label(one) {
  const parts = Object.entries(one).filter(([name]) => name !== "then_step")
    .map(([name, value]) => (["prompt", "then"].includes(name) ? value : `${name.replace("then_", "").replaceAll("_", " ")} ${value}`));
  return (one.then_step ? `from step ${one.then_step}: ` : "") + parts.join(", ");
}

function listed() {
  const list = form.querySelector(".changes");
  list.replaceChildren(...changes.map((one, k) => {
    const item = document.createElement("li");
    const said = label(one);
    const remove = document.createElement("button");
    remove.type = "button";
    remove.textContent = "Remove";
    remove.setAttribute("aria-label", `Remove: ${said}`);
    remove.addEventListener("click", () => {
      changes.splice(k, 1);
      run();
    });
    item.append(said, remove);
    return item;
  }));
}

// Make all runs; false if this failed or was stopped. True if a later request replaced it, which
// has its changes, too.
async function run() {
  listed();
  const ticket = (runs += 1);
  const about = { base, changes };
  const done = await perform(form, "/v1/traces", async () => ({ ...base, changes }), () => {}, () => about);
  if (!done) return ticket !== runs;
  show(frame, form, done.job);
  return true;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (base === null) {
    const asked = {};
    for (const name of ["guidance_scale", "steps", "seed"]) {
      if (field(name).value !== "") asked[name] = Number(field(name).value);
    }
    if (field("sampler").value) asked.sampler = field("sampler").value;
    asked.seed ??= Math.floor(Math.random() * 2 ** 31);
    await start(field("prompt").value, asked);
    return;
  }
  let wanted = {};
  try {
    wanted = change();
  } catch (error) {
    say(form, error.message, true);
    return;
  }
  if (!Object.keys(wanted).some((name) => name !== "then_step")) {
    say(form, "Change the text, the guidance, the steps, the sampler or the seed first.", true);
    return;
  }
  if (changes.length === MOST) {
    say(form, `A page shows ${MOST + 1} runs; remove one first.`, true);
    return;
  }
  changes.push(wanted);
  if (!(await run())) {
    changes = changes.filter((one) => one !== wanted);
    listed();
  }
});

form.querySelector(".restart").addEventListener("click", () => {
  leave(form);
  begin(null);
  frame.contentWindow.location.replace("about:blank");
  form.querySelector(".shown").hidden = true;
  field("seed").value = "";
  form.querySelector(".alone").hidden = true;
  listed();
});
field("prompt").addEventListener("input", words); // not on change: a button may be pressed meanwhile

// The page in the frame says which step is looked at.
addEventListener("message", (event) => {
  if (event.source !== frame.contentWindow || event.data?.sfumato !== "cursor") return;
  const shown = form.querySelector(".shown");
  shown.hidden = false;
  shown.textContent = `step ${event.data.step + 1}, which is shown`;
  shown.onclick = () => { field("then_step").value = event.data.step + 1; };
});
uses.explain = start;
