// The page that finds pictures and documents.

import { base64, json } from "./api.js";
import { tile } from "./gallery.js";
import { perform, say } from "./job.js";

const page = document.getElementById("search");
const form = page.querySelector("form");
const results = page.querySelector(".results");
const field = (name) => form.elements[name];

export async function open() {
  const { data } = await json("/v1/indexes");
  const chosen = field("index").value;
  field("index").replaceChildren(...data.map((index) => new Option(`${index.id}: ${index.kind}, ${index.space}`, index.id)));
  if (chosen) field("index").value = chosen;
  form.querySelector(".none").hidden = data.length > 0;
  form.querySelector("[type=submit]").disabled = data.length === 0;
}

async function body() {
  const out = { index: field("index").value };
  const file = field("file").files[0];
  if (file) out.image = await base64(file);
  else out.query = field("query").value;
  return out;
}

function shown(hit) {
  const label = hit.label && hit.label !== hit.name ? ` (${hit.label})` : "";
  const said = `${hit.similarity.toFixed(2)}  ${hit.name}${label}`;
  if (!hit.url) {
    const text = document.createElement("p");
    const head = document.createElement("b");
    head.textContent = said;
    text.append(head, document.createElement("br"), hit.text);
    return text;
  }
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  caption.textContent = said;
  figure.append(tile({ ...hit, prompt: hit.name }), caption);
  return figure;
}

// Words or a picture: the one that is given last counts.
field("file").addEventListener("change", () => { field("query").value = ""; });
field("query").addEventListener("input", () => { field("file").value = ""; });

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const done = await perform(form, "/v1/search", body);
  if (!done) return;
  const box = document.createElement("div");
  box.className = done.pictures.some((hit) => hit.url) ? "tiles" : "texts";
  box.append(...done.pictures.map(shown));
  results.replaceChildren(box);
  if (!done.pictures.length) say(form, "nothing was found");
});
