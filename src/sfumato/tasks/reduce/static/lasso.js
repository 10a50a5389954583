// Lists the marks inside the lasso, of all labels: sources, place, most and hint are given.
const chosen = sources.flatMap((source) => source.selected.indices.map((k) => [source.data.item[k], source.data.label[k]]));
const shown = chosen.slice(0, most).map(([item, label]) => `<figure style="margin: 0">${item}<br>${label}</figure>`);
const more = chosen.length > most ? `<p>and ${chosen.length - most} more</p>` : "";
place.text = chosen.length === 0 ? hint
  : `<b>${chosen.length} chosen</b><div style="display: flex; flex-wrap: wrap; gap: .4rem; max-width: 25rem">${shown.join("")}</div>${more}`;
