// The page that compares PCA with autoencoders.

import { base64, once } from "./api.js";
import { perform, resume, show } from "./job.js";

const page = document.getElementById("reduce");
const form = page.querySelector("form");
const field = (name) => form.elements[name];

async function body() {
  const out = { codes: field("codes").value.split(",").map(Number) };
  for (const name of ["epochs", "limit"]) {
    if (field(name).value !== "") out[name] = Number(field(name).value);
  }
  if (field("corruption").value) out.corruption = field("corruption").value;
  const file = field("file").files[0];
  if (file) {
    out.name = file.name;
    out.data = await base64(file);
  }
  return out;
}

function finish(done) {
  if (!done) return;
  page.classList.remove("empty");
  show(page.querySelector("iframe"), form, done.job);
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  finish(await perform(form, "/v1/reduce", body, () => {}, () => ({})));
});

export const open = once(async () => {
  resume(form, () => () => {}).then(finish);
});
