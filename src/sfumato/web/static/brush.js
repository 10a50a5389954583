// A picture to paint on. What is painted becomes a mask of the picture's full size, white on black.

const SHOWN = 1400; // pixels of a side, at most: the server keeps the picture itself
const STEPS = 10; // that can be undone

export class Brush {
  constructor(element, changed = () => {}) {
    this.element = element;
    this.file = null;
    this.opened = 0; // pictures so far: the one that was chosen last is shown
    this.changed = changed; // called when a picture is opened or removed
    addEventListener("keydown", (event) => {
      const typing = event.target.closest?.("textarea, input:not([type=range], [type=checkbox])");
      const undoes = event.key === "z" && (event.ctrlKey || event.metaKey) && !event.shiftKey;
      if (!undoes || typing || !this.file || !this.element.checkVisibility()) return;
      event.preventDefault();
      this.undo();
    });
  }

  close() {
    this.opened += 1;
    this.file = null;
    this.element.hidden = true;
    this.changed();
  }

  async open(file) {
    const ticket = (this.opened += 1);
    const picture = await createImageBitmap(file).catch((error) => {
      if (ticket === this.opened) this.close(); // a file that cannot be shown leaves no other picture behind
      throw error;
    });
    if (ticket !== this.opened) return;
    this.file = file;
    this.size = [picture.width, picture.height];
    this.scale = Math.min(1, SHOWN / Math.max(...this.size));
    this.element.hidden = false;
    this.element.replaceChildren();
    this.canvas = document.createElement("canvas");
    this.canvas.width = Math.max(1, Math.round(picture.width * this.scale));
    this.canvas.height = Math.max(1, Math.round(picture.height * this.scale));
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", "The picture; paint over the parts to inpaint");
    this.mask = new OffscreenCanvas(this.canvas.width, this.canvas.height);
    this.painted = false;
    this.before = []; // the paint before each of the last steps
    this.picture = picture;
    const tools = document.createElement("div");
    tools.className = "tools";
    tools.innerHTML = '<label>Brush <input type="range" min="2" max="120" value="24"></label>'
      + '<button type="button" class="undo" title="Ctrl+Z">Undo</button><button type="button" class="clear">Clear the paint</button>'
      + '<button type="button" class="remove">Remove the picture</button>'
      + '<label>Mask from a file, white on black <input type="file" class="mask" accept="image/*"></label>';
    this.width = tools.querySelector("input");
    const longest = Math.max(this.canvas.width, this.canvas.height);
    this.width.value = Math.max(2, Math.min(24, Math.round(longest / 10)));
    this.canvas.classList.toggle("small", longest < 300);
    this.last = null; // the last point of a stroke
    this.back = tools.querySelector(".undo");
    this.back.disabled = true;
    this.back.addEventListener("click", () => this.undo());
    tools.querySelector(".clear").addEventListener("click", () => this.clear());
    tools.querySelector(".remove").addEventListener("click", () => this.close());
    tools.querySelector(".mask").addEventListener("change", (event) => this.load(event.target));
    this.element.append(this.canvas, tools);
    this.canvas.addEventListener("pointerdown", (event) => event.button === 0 && this.stroke(event, true));
    this.canvas.addEventListener("pointermove", (event) => this.last && this.stroke(event, false));
    for (const kind of ["pointerup", "pointercancel"]) this.canvas.addEventListener(kind, () => { this.last = null; });
    this.draw();
    this.changed();
  }

  // Keep the paint as it is now, so that the next step can be undone.
  remember() {
    const { width, height } = this.mask;
    const paint = this.painted ? this.mask.getContext("2d").getImageData(0, 0, width, height) : null;
    this.before = [...this.before, paint].slice(-STEPS);
    this.back.disabled = false;
  }

  undo() {
    if (!this.before.length) return;
    const paint = this.before.pop(), pen = this.mask.getContext("2d");
    if (paint) pen.putImageData(paint, 0, 0);
    else pen.clearRect(0, 0, this.mask.width, this.mask.height);
    this.painted = paint !== null;
    this.back.disabled = !this.before.length;
    this.draw();
  }

  clear() {
    this.remember();
    this.mask.getContext("2d").clearRect(0, 0, this.mask.width, this.mask.height);
    this.painted = false;
    this.draw();
  }

  // Paint what is white in a file.
  async load(input) {
    const ticket = this.opened;
    const file = await createImageBitmap(input.files[0]).catch(() => null);
    input.setCustomValidity(file ? "" : "the browser cannot show this file");
    input.reportValidity();
    if (!file || ticket !== this.opened) return;
    this.remember();
    const pen = this.mask.getContext("2d");
    const { width, height } = this.mask;
    pen.clearRect(0, 0, width, height);
    pen.drawImage(file, 0, 0, width, height);
    const pixels = pen.getImageData(0, 0, width, height);
    for (let k = 0; k < pixels.data.length; k += 4) {
      const [red, green, blue, alpha] = pixels.data.subarray(k, k + 4);
      const white = alpha * (0.299 * red + 0.587 * green + 0.114 * blue) >= 255 * 128;
      pixels.data.set(white ? [255, 255, 255, 255] : [0, 0, 0, 0], k);
    }
    pen.putImageData(pixels, 0, 0);
    this.painted = pixels.data.some((value) => value > 0);
    this.draw();
  }

  stroke(event, begins) {
    const box = this.canvas.getBoundingClientRect();
    const x = ((event.clientX - box.left) * this.canvas.width) / box.width;
    const y = ((event.clientY - box.top) * this.canvas.height) / box.height;
    if (begins) this.remember();
    const pen = this.mask.getContext("2d");
    pen.lineWidth = this.width.value;
    pen.lineCap = "round";
    pen.strokeStyle = "#fff";
    pen.beginPath();
    const [fromX, fromY] = begins ? [x - 0.01, y] : this.last; // a click alone paints a dot
    pen.moveTo(fromX, fromY);
    pen.lineTo(x, y);
    pen.stroke();
    this.last = [x, y];
    this.painted = true;
    if (begins) this.canvas.setPointerCapture(event.pointerId);
    this.draw();
  }

  draw() {
    const pen = this.canvas.getContext("2d");
    pen.drawImage(this.picture, 0, 0, this.canvas.width, this.canvas.height);
    const tint = new OffscreenCanvas(this.mask.width, this.mask.height);
    const colored = tint.getContext("2d");
    colored.drawImage(this.mask, 0, 0);
    colored.globalCompositeOperation = "source-in";
    colored.fillStyle = "#d9480f";
    colored.fillRect(0, 0, tint.width, tint.height);
    pen.globalAlpha = 0.6;
    pen.drawImage(tint, 0, 0);
    pen.globalAlpha = 1;
  }

  // The mask as a data address, in the picture's full size; null if nothing is painted.
  async white() {
    if (!this.painted) return null;
    const full = document.createElement("canvas");
    [full.width, full.height] = this.size;
    const pen = full.getContext("2d");
    pen.fillRect(0, 0, full.width, full.height);
    pen.drawImage(this.mask, 0, 0, full.width, full.height);
    return full.toDataURL("image/png");
  }
}

// Whether files are dragged to another place than a file input, which takes them by itself.
export const holdsFiles = (event) => event.dataTransfer?.types.includes("Files") && !event.target.closest?.("input[type=file]");

export function dropped(element, take) {
  element.addEventListener("dragover", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    element.classList.add("over");
  });
  element.addEventListener("dragleave", () => element.classList.remove("over"));
  element.addEventListener("drop", (event) => {
    element.classList.remove("over");
    if (!holdsFiles(event)) return;
    event.preventDefault();
    const file = event.dataTransfer.files[0];
    if (file) take(file);
  });
}
