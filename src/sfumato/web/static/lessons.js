// The experiments of the page Learn: each is a job, whose numbers are drawn here.

import { perform, say } from "./job.js";
import { drawn, REACH } from "./learn.js";

const SIDE = 640;
const LINES = { pca: "#c2410c", autoencoder: "#1d6fb8", squared: "#c2410c", absolute: "#2f855a", classes: "#1d6fb8" };
const DIGITS = ["#e6194b", "#3cb44b", "#bf9b00", "#4363d8", "#f58231", "#911eb4", "#008b8b", "#d619c3", "#7a5230", "#808080"];
const OF_POINTS = ["outliers", "losses"];

// ---- a plane of its own: points of -REACH to REACH, or of -1 to 1
function plane(reach = REACH) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIDE;
  const pen = canvas.getContext("2d");
  const at = ([x, y]) => [(0.5 + x / (2 * reach)) * SIDE, (0.5 - y / (2 * reach)) * SIDE];
  const dots = (points, color, size = 3) => {
    pen.fillStyle = color;
    for (const point of points) {
      pen.beginPath();
      pen.arc(...at(point), size, 0, 2 * Math.PI);
      pen.fill();
    }
  };
  const line = (points, color, dashed = false) => {
    pen.strokeStyle = color;
    pen.lineWidth = 4;
    pen.setLineDash(dashed ? [12, 10] : []);
    pen.beginPath();
    for (const point of points) pen.lineTo(...at(point));
    pen.stroke();
  };
  return { canvas, dots, line };
}
const soft = () => getComputedStyle(document.documentElement).getPropertyValue("--soft");

// A sentence whose words are marked with the color of their line.
function told(section, ...parts) {
  section.querySelector(".verdict").replaceChildren(...parts.flatMap((part) => {
    if (typeof part === "string") return [part];
    const key = document.createElement("span");
    key.className = "key";
    key.style.background = part.color;
    return [key, part.text];
  }));
}

// ---- what each experiment shows
const SHOW = {
  outliers(section, about, points) {
    const kinds = [["clean", "your points"], ["spoiled", "with outliers"]];
    const planes = kinds.map(([kind]) => {
      const { canvas, dots, line } = plane();
      dots(points, soft());
      if (kind === "spoiled") dots(about.outliers, LINES.pca, 5);
      for (const method of ["pca", "autoencoder"]) line(about[method][kind].curve, LINES[method]);
      return canvas;
    });
    const error = (method, kind) => about[method][kind].error.toPrecision(2);
    told(section, { color: LINES.pca, text: "PCA: " }, `mean squared distance of your points from the line ${error("pca", "clean")}, and ${error("pca", "spoiled")} from the line fitted with the outliers.  `,
      { color: LINES.autoencoder, text: "Autoencoder: " }, `${error("autoencoder", "clean")} from the curve, and ${error("autoencoder", "spoiled")} with the outliers. `,
      "The curve bends towards the points, and towards the outliers, too. PCA needs no training.");
    return planes;
  },
  losses(section, about, points) {
    const { canvas, dots, line } = plane();
    dots(points, soft());
    for (const name of ["squared", "absolute"]) line(about.curves[name], LINES[name]);
    dots(about.curves.classes, LINES.classes, 4);
    told(section, { color: LINES.squared, text: "squared error: the mean; " }, { color: LINES.absolute, text: "absolute error: the median; " },
      { color: LINES.classes, text: "classes: the most likely height." });
    return [canvas];
  },
  labels(section, about) {
    const planes = ["true", "drawn"].map((kind) => {
      const { canvas, dots } = plane(1.05);
      about.map.forEach((place, k) => dots([place], DIGITS[about.labels[kind][k]], 4));
      return canvas;
    });
    const percent = (kind) => `${(100 * about.accuracy[kind]).toFixed(0)} %`;
    told(section, about.equal ? "Both autoencoders gave the same codes, bit for bit: training used no label.  " : "The two differ.  ",
      `Still, the map separates the digits: the seven nearest neighbors on it classify ${percent("true")} of the test digits correctly (left), and ${percent("drawn")} with random labels (right).`);
    return planes;
  },
  denoising(section, about, points, address) {
    told(section, `PSNR on the test digits: ${about.after} dB restored, ${about.before} dB damaged. Higher is closer to the original.`);
    return [picture(address)];
  },
};

function picture(address) {
  const image = new Image();
  image.src = address;
  image.alt = "";
  return image;
}

for (const section of document.querySelectorAll("#learn .lesson")) {
  const form = section.querySelector("form");
  form.append(document.getElementById("run-lesson").content.cloneNode(true));
  const found = section.querySelector(".found");
  const name = section.dataset.lesson;
  const put = (nodes) => { found.hidden = false; found.replaceChildren(...nodes); };
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const points = OF_POINTS.includes(name) ? drawn() : [];
    if (OF_POINTS.includes(name) && points.length < 8) {
      say(form, "Draw some points first, on the plane above.", true);
      return;
    }
    const asked = { lesson: name, points };
    if (form.elements.outliers) asked.outliers = Number(form.elements.outliers.value);
    if (form.elements.corruption) asked.corruption = form.elements.corruption.value;
    const done = await perform(form, "/v1/lessons", async () => asked, (kind, data) => {
      if (kind === "preview") put([picture(`data:image/png;base64,${data.b64_json}`)]);
    });
    if (!done) return;
    const [about] = done.pictures;
    put(SHOW[name](section, about, points, about.url));
  });
}
