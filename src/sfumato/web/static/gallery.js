// Pictures in a grid, and the viewer that shows one with its settings. What the viewer's buttons do with
// the picture, other pages add to `uses`.

import { say } from "./job.js";

const viewer = document.getElementById("viewer");
const TOLD = {
  seed: "Seed", style: "Style", steps: "Steps", guidance_scale: "Guidance", sampler: "Sampler",
  negative_prompt: "Not shown", size: "Size", model: "Model",
};

export function tile(picture) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "tile";
  const img = document.createElement("img");
  img.alt = picture.prompt ?? "a picture";
  img.src = picture.url;
  img.addEventListener("load", () => button.classList.toggle("small", img.naturalWidth < 200), { once: true });
  button.append(img);
  button.addEventListener("click", () => view(picture, img.src));
  return button;
}

// A run of several pictures: places for them, filled when they come. `under` is a line below the title.
export function run(element, title, count, under = "") {
  const box = document.createElement("div");
  box.className = "run";
  const head = document.createElement("h2");
  head.textContent = title;
  const tiles = document.createElement("div");
  tiles.className = "tiles";
  for (let k = 0; k < count; k += 1) {
    const empty = document.createElement("div");
    empty.className = "tile small";
    tiles.append(empty);
  }
  box.append(head, under, tiles);
  element.prepend(box);
  return {
    preview(source) {
      const empty = tiles.querySelector("div.tile"); // the next place
      if (!empty) return;
      let img = empty.querySelector("img");
      if (!img) {
        img = document.createElement("img");
        img.alt = "the picture so far";
        empty.append(img);
      }
      img.src = source;
    },
    add(picture) {
      tiles.querySelector("div.tile")?.replaceWith(tile(picture));
    },
    finish(pictures) {
      const shown = [...tiles.querySelectorAll("button.tile img")].map((img) => img.getAttribute("src"));
      // tiles that are there keep the keyboard's focus
      if (shown.join() !== pictures.map((one) => one.url).join()) tiles.replaceChildren(...pictures.map(tile));
      this.stop();
    },
    // No more pictures come: the empty places go.
    stop() {
      for (const empty of tiles.querySelectorAll("div.tile")) empty.remove();
      if (!tiles.children.length) box.remove();
    },
  };
}

export function view(picture, source) {
  const settings = picture.settings ?? {};
  // a repaired photo and a found picture have no settings; a start picture is not kept
  viewer.querySelector(".again").hidden = !picture.settings;
  viewer.querySelector(".explain").hidden = !picture.settings || Boolean(settings.source_sha256);
  viewer.querySelector("img").src = source;
  viewer.querySelector("img").classList.toggle("photo", !picture.settings);
  viewer.querySelector("img").alt = picture.prompt ?? "the picture";
  viewer.querySelector("h2").textContent = picture.prompt ?? "";
  const rows = Object.entries(TOLD).filter(([key]) => settings[key] !== undefined && settings[key] !== "");
  viewer.querySelector("dl").replaceChildren(...rows.flatMap(([key, name]) => {
    const [term, value] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name;
    value.textContent = Array.isArray(settings[key]) ? settings[key].join("x") : settings[key] ?? "none";
    return [term, value];
  }));
  const download = viewer.querySelector(".download");
  download.hidden = picture.similarity !== undefined; // a found picture is shown shrunk
  download.href = source;
  const name = (picture.prompt ?? "picture").replace(/\.\w+$/, "").replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40);
  download.download = `${name}${picture.seed === undefined ? "" : `-${picture.seed}`}.png`;
  viewer.querySelector(".status").textContent = "";
  viewer.current = { picture, source };
  viewer.showModal();
}

const on = (name, act) => viewer.querySelector(name).addEventListener("click", async () => {
  try {
    await act();
  } catch (error) {
    say(viewer, error.message, true);
    if (!viewer.open) viewer.showModal();
  }
});
on(".close", () => viewer.close());
viewer.addEventListener("click", (event) => event.target === viewer && viewer.close());
export const uses = {};
on(".again", async () => {
  await uses.again(viewer.current.picture.settings);
  viewer.close();
  location.hash = "#create";
});
on(".start", async () => {
  const blob = await (await fetch(viewer.current.source)).blob();
  await uses.start(new File([blob], "picture.png", { type: "image/png" }));
  viewer.close();
  location.hash = "#create";
});
on(".explain", async () => {
  const { prompt, settings } = viewer.current.picture;
  viewer.close();
  location.hash = "#explain";
  await uses.explain(prompt, settings);
});
