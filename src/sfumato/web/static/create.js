// The page that makes pictures.

import { base64, json, once } from "./api.js";
import { Brush, dropped } from "./brush.js";
import { run, uses } from "./gallery.js";
import { perform, resume, say } from "./job.js";
import { refill } from "./keep.js";

const page = document.getElementById("create");
const form = page.querySelector("form");
const field = (name) => form.elements[name];
const brush = new Brush(page.querySelector(".brush"), () => {
  form.querySelector("#from summary").textContent = brush.file ? `Starts from ${brush.file.name}` : "Start from a picture";
  form.querySelector("#from .strength").hidden = brush.file === null;
  if (!brush.file) field("file").value = "";
  form.querySelector("#from .anyway").hidden = true;
});
const LONGEST = 120; // letters of a prompt's end that is told
let models = [];
let again = {}; // seed and number of candidates of the picture whose settings are used

export const open = once(async () => {
  const addresses = ["/v1/models", "/v1/loras", "/sdapi/v1/samplers"];
  const [offered, loras, samplers] = await Promise.all(addresses.map((address) => json(address)));
  models = offered.data.filter((model) => model.styles);
  field("model").replaceChildren(...models.map((model) => new Option(model.id, model.id)));
  styles();
  field("lora").append(...loras.data.map((one) => new Option(one.id, one.id)));
  form.querySelector(".lora").hidden = loras.data.length === 0;
  field("sampler").append(...samplers.map((s) => new Option(s.name, s.aliases[0])));
  refill(form);
  goOn();
});
field("model").addEventListener("change", () => styles());

function styles() {
  const model = models.find((one) => one.id === field("model").value);
  const names = Array.isArray(model?.styles) ? model.styles : Object.keys(model?.styles ?? {});
  field("fast").closest("label").hidden = !model?.fast;
  field("style").replaceChildren(new Option("model's own", ""), ...names.map((n) => new Option(n, n)));
}

// Names that the model knows and that complete the word before the cursor; where there are few,
// also names that are close to it in meaning, as "cat" is to "kitten".
const ENDING = /(?:^|[\s,(])(?:an? |the )?([\p{L}][\p{L} -]*)$/u;
const FEW = 3, PAUSE = 250; // names; milliseconds without typing
let asked = 0;
// No names are offered, and names that are on their way are dropped: they are for another text.
function forgetNames() {
  asked += 1;
  for (const each of page.querySelectorAll(".names")) each.replaceChildren();
}

async function suggest() {
  forgetNames();
  const prompt = field("prompt"), place = prompt.selectionStart, ticket = asked;
  const said = prompt.value.slice(0, place).match(ENDING)?.[1] ?? "";
  // the longest ending that begins a name: "a fire e" is of "fire engine", then "e" alone
  const endings = said.split(" ").map((_, k, all) => all.slice(k).join(" ")).filter((part) => part.length > 1);
  let names = [], word = "";
  for (word of endings) {
    const query = new URLSearchParams({ start: word, model: field("model").value });
    names = (await json(`/v1/names?${query}`).catch(() => ({ names: [] }))).names.filter((name) => name !== word);
    if (ticket !== asked) return; // more was typed meanwhile
    if (names.length) break;
  }
  offer(".known", names, place, word);
  offer(".near", [], place, word);
  if (names.length >= FEW || !endings.length) return;
  await new Promise((later) => setTimeout(later, PAUSE));
  if (ticket !== asked) return;
  const last = endings.at(-1);
  const query = new URLSearchParams({ start: last, near: true, model: field("model").value });
  const near = (await json(`/v1/names?${query}`).catch(() => ({ near: [] }))).near;
  const others = near.filter((name) => name !== last && !names.includes(name));
  if (ticket === asked) offer(".near", others, place, last);
}

// Buttons that put a name in place of the word before the cursor.
function offer(where, names, place, word) {
  const prompt = field("prompt"), box = page.querySelector(where);
  box.replaceChildren(...names.map((name) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.addEventListener("click", () => {
      const start = place - word.length;
      prompt.setRangeText(name, start, place, "end");
      forgetNames();
      prompt.focus();
    });
    return button;
  }));
}
field("prompt").addEventListener("input", suggest);

async function body() {
  const out = { prompt: field("prompt").value, previews: 1, model: field("model").value };
  for (const name of ["negative_prompt", "style", "sampler"]) {
    if (field(name).value) out[name] = field(name).value;
  }
  for (const name of ["count", "seed", "steps", "guidance_scale"]) {
    if (field(name).value !== "") out[name] = Number(field(name).value);
  }
  const sides = field("size").value.split("x").map(Number);
  if (sides[0]) out.size = [sides[0], sides.at(-1)];
  if (field("lora").value) out.loras = [field("lora").value];
  if (field("transparent").checked) out.transparent = true;
  if (field("fast").checked) out.fast = true;
  if (again.best_of && out.seed === again.seed) out.best_of = again.best_of;
  if (brush.file) {
    out.source = await base64(brush.file);
    out.strength = Number(field("strength").value);
    const mask = await brush.white();
    if (mask) out.mask = mask;
  }
  return out;
}

const tell = (text, wrong = false) => say(form, text, wrong);

const places = ({ prompt, count }) => run(page.querySelector(".results"), prompt, count ?? 1);
const showing = (shown) => (kind, data) => {
  if (kind === "preview") shown.preview(`data:image/png;base64,${data.b64_json}`);
  if (kind === "picture") shown.add(data);
};

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  let shown = null;
  const done = await perform(form, "/v1/create", async () => {
    const asked = await body();
    shown = places(asked);
    return asked;
  }, (kind, data) => showing(shown)(kind, data), ({ prompt, count }) => ({ prompt, count }));
  finish(shown, done);
});

// Follow the pictures that were being made when the page was reloaded.
async function goOn() {
  let shown = null;
  const done = await resume(form, (about) => {
    shown = places(about);
    return showing(shown);
  });
  if (shown) finish(shown, done);
}

function finish(shown, done) {
  if (!done) {
    shown?.stop(); // finished pictures stay
    return;
  }
  shown.finish(done.pictures);
  const { cut, unknown, near } = done.pictures[0];
  const unseen = cut?.length > LONGEST ? `${cut.slice(0, LONGEST)}…` : cut;
  tell(`${done.seconds.toFixed(1)} s${unseen ? `; not seen by the model: ${unseen}` : ""}`
    + (unknown ? "; the model seems to know no word of this" : "")
    + (near ? `; no training picture has this name${near.length ? `, but ${near.join(", ")}` : ""}` : ""));
}

// Start from a picture.
async function start(file) {
  try {
    await brush.open(file);
  } catch {
    tell("the browser cannot show this file; choose a PNG, JPEG or WebP file", true);
    return;
  }
  tell("");
  document.getElementById("from").open = true;
}

// A chosen picture: one with settings inside gives these back, any other is started from.
async function take(file) {
  const told = await base64(file).then((image) => json("/sdapi/v1/png-info", { image })).catch(() => null);
  if (!told?.parameters?.prompt) {
    await start(file);
    return;
  }
  brush.close();
  use(told.parameters);
  const button = form.querySelector("#from .anyway");
  button.hidden = false;
  button.onclick = () => start(file);
}

// Settings that the form cannot hold, and their usual values.
const UNSEEN = { schedule: "auto", eta: null, guidance_rescale: 0, then: null, then_guidance_scale: null };

// Choose a value; a list that lacks it gets it.
function choose(list, value, label = value) {
  if (![...list.options].some((one) => one.value === value)) list.append(new Option(label, value));
  list.value = value;
}

function useSize(settings) {
  const [wide, tall] = settings.size ?? [];
  const own = models.find((model) => model.id === field("model").value)?.size?.join("x");
  const said = `${wide}x${tall}`;
  // the size of a start picture is not a choice
  if (!wide || said === own || settings.source_sha256) field("size").value = "";
  else choose(field("size"), wide === tall ? String(wide) : said, said.replace("x", " x "));
}

// Choose the LoRA of a picture; false if the server does not offer it, or if it had several.
function useLora([lora = "", ...more]) {
  const list = field("lora"), [, name, scale = ":1"] = lora.match(/^(.*?)(:-?[\d.e+-]+)?$/);
  const offered = [...list.options].some((one) => one.value === name);
  list.value = "";
  if (offered) choose(list, Number(scale.slice(1)) === 1 ? name : lora);
  return offered && !more.length;
}

// Fill the form with the settings of a picture, and tell what is missing to make it again.
function use(settings) {
  const other = [];
  forgetNames();
  if (brush.file && !settings.source_sha256) brush.close();
  if (settings.source_sha256) other.push("the picture it started from");
  if (models.some((model) => model.id === settings.model)) {
    field("model").value = settings.model;
    styles();
  } else if (settings.model) other.push(`the model ${settings.model}`);
  for (const name of ["prompt", "negative_prompt", "seed", "steps", "guidance_scale", "style", "sampler"]) {
    field(name).value = settings[name] ?? "";
  }
  field("fast").checked = settings.fast === true;
  field("transparent").checked = settings.transparent === true;
  field("count").value = 1;
  useSize(settings);
  if (!useLora(settings.loras ?? [])) other.push("the LoRA");
  again = { seed: settings.seed, best_of: settings.best_of };
  other.push(...Object.keys(UNSEEN).filter((name) => (settings[name] ?? UNSEEN[name]) !== UNSEEN[name]));
  tell("the settings are those of that picture" + (other.length ? `, except ${other.join(", ").replaceAll("_", " ")}` : ""));
}

field("file").addEventListener("change", () => field("file").files[0] && take(field("file").files[0]));
dropped(page, take);
uses.start = start;
uses.again = async (settings) => {
  await open();
  use(settings);
};
