// The page that repairs photos.

import { base64, once } from "./api.js";
import { Brush, dropped } from "./brush.js";
import { perform, resume, say } from "./job.js";

const page = document.getElementById("restore");
const form = page.querySelector("form");
const brush = new Brush(page.querySelector(".brush"), () => {
  if (!brush.file) {
    form.elements.file.value = "";
    say(form, "");
  }
  quality();
});
// Only a JPEG file tells its quality; for others the form proposes one.
function quality() {
  const box = form.elements.quality;
  box.closest("label").hidden = !form.elements.dejpeg.checked;
  box.disabled = !form.elements.dejpeg.checked; // a hidden wrong value would stop the form
  const told = !brush.file || brush.file.type === "image/jpeg";
  box.placeholder = told ? "as in the file" : "50";
}
form.elements.dejpeg.addEventListener("change", quality);
form.elements.fill_scratches.addEventListener("change", () => {
  form.elements.sensitivity.closest("label").hidden = !form.elements.fill_scratches.checked;
});
const compare = page.querySelector(".compare");

const tell = (text, wrong = false) => say(form, text, wrong);

async function take(file) {
  compare.hidden = true;
  try {
    await brush.open(file);
    tell(`${brush.size.join("x")} pixels`);
  } catch {
    tell("the browser cannot show this file; choose a PNG, JPEG or WebP file", true);
  }
}

async function body() {
  const out = { image: await base64(brush.file) };
  if (form.elements.denoise.checked) out.denoise = "auto";
  if (form.elements.dejpeg.checked) {
    const { value, placeholder } = form.elements.quality;
    out.dejpeg = Number(value || placeholder) || "auto";
  }
  for (const name of ["fill_scratches", "colorize"]) if (form.elements[name].checked) out[name] = true;
  if (out.fill_scratches) out.sensitivity = Number(form.elements.sensitivity.value);
  if (form.elements.enlarge.value) out.enlarge = Number(form.elements.enlarge.value);
  const mask = await brush.white();
  if (mask) {
    out.fill = mask;
    out.engine = form.elements.engine.value;
    if (out.engine !== "network") out.seed = Number(form.elements.seed.value || 0);
  }
  if (Object.keys(out).length === 1) throw new Error("tick what to repair, or paint over what to remove");
  return out;
}

const WORDS = { sigma: "noise", quality: "JPEG quality", made_anew: "share of pixels filled",
  largest_change_elsewhere: "largest change elsewhere", engine: "holes filled by" };

// The result beside the photo that was sent; another may have been chosen meanwhile. Without `source`,
// which a reload of the page loses, the result alone.
async function show(picture, source, name) {
  const after = new Image();
  after.src = picture.url;
  after.alt = "after";
  await after.decode();
  const frame = document.createElement("div");
  frame.className = "frame";
  frame.append(after);
  const slider = source ? beside(frame, after, source) : "";
  const notes = document.createElement("p");
  notes.className = "notes";
  const measured = Object.entries(WORDS).filter(([key]) => picture.report?.[key] !== undefined)
    .map(([key, name]) => `${name} ${picture.report[key]}`);
  notes.textContent = [...measured, ...(picture.notes ?? [])].join("; ");
  const download = document.createElement("a");
  download.className = "button";
  download.href = after.src;
  download.download = `${name.replace(/\.\w+$/, "")}-restored.png`;
  download.textContent = "Download";
  const more = document.createElement("button");
  more.type = "button";
  more.textContent = "Paint again";
  more.addEventListener("click", () => { compare.hidden = true; brush.element.hidden = brush.file === null; });
  const actions = document.createElement("div");
  actions.className = "actions";
  actions.append(download, more);
  compare.replaceChildren(frame, slider, notes, actions);
  compare.hidden = false;
  brush.element.hidden = true;
}

// Put the photo that was sent below the result; returns a slider that moves the border of the two.
function beside(frame, after, source) {
  const before = document.createElement("canvas");
  before.width = after.naturalWidth;
  before.height = after.naturalHeight;
  before.getContext("2d").drawImage(source, 0, 0, before.width, before.height);
  const first = new Image();
  first.src = before.toDataURL();
  first.alt = "before";
  after.className = "after";
  frame.prepend(first);
  const slider = document.createElement("input");
  slider.type = "range";
  slider.max = 100;
  slider.value = 50;
  slider.setAttribute("aria-label", "Before and after: where the result begins");
  const cut = () => { after.style.clipPath = `inset(0 0 0 ${slider.value}%)`; };
  slider.addEventListener("input", cut);
  cut();
  return slider;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!brush.file) {
    tell("choose a photo first", true);
    return;
  }
  const { file, picture } = brush;
  await finish(await perform(form, "/v1/restore", body, () => {}, () => ({ name: file.name })), picture, file.name);
});

async function finish(done, source, name) {
  if (!done) return;
  try {
    await show(done.pictures[0], source, name);
  } catch (error) {
    tell(error.message, true);
  }
}

export const open = once(async () => {
  let name = "";
  resume(form, (about) => {
    name = about.name;
    return () => {};
  }).then((done) => finish(done, null, name));
});

form.elements.file.addEventListener("change", () => form.elements.file.files[0] && take(form.elements.file.files[0]));
dropped(page, take);
