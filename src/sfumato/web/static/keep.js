// Keeps what the forms hold while the page is reloaded, in this tab only. Files and tokens are not kept.

const KEPT = "forms";
const forms = [...document.querySelectorAll("main form")];
const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "[]");

const holds = (field) => field.name && !["file", "password"].includes(field.type);

function values(form) {
  const fields = [...form.elements].filter(holds);
  return Object.fromEntries(fields.map((field) => [field.name, field.type === "checkbox" ? field.checked : field.value]));
}

// Fill a form with what it held before the page was reloaded. A list is filled only with what it offers.
export function refill(form) {
  for (const [name, value] of Object.entries(kept[forms.indexOf(form)] ?? {})) {
    const field = form.elements[name];
    if (!field || (field.options && ![...field.options].some((one) => one.value === value))) continue;
    if (typeof value === "boolean") field.checked = value;
    else field.value = value;
    field.dispatchEvent(new Event("change", { bubbles: true })); // other parts of the form depend on it
  }
}

addEventListener("pagehide", () => sessionStorage.setItem(KEPT, JSON.stringify(forms.map(values))));
