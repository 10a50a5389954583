// Shows what is decoded nearest to the pointer, cb_obj, a part of one sheet: low, high, count, side, tall, sheet and place are given.
const at = (value, k) => Math.round(((value - low[k]) / (high[k] - low[k])) * (count - 1));
const column = at(cb_obj.x, 0);
const row = count - 1 - at(cb_obj.y, 1); // the sheet begins above
const inside = column >= 0 && column < count && row >= 0 && row < count;
const style = `width: ${side}px; height: ${tall}px; image-rendering: pixelated; background: url(${sheet}) `
  + `${-column * side}px ${-row * tall}px / ${count * side}px ${count * tall}px`;
const text = inside ? `<div role="img" aria-label="decoded from under the pointer" style="${style}"></div>decoded from here` : "";
if (place.text !== text) place.text = text;
