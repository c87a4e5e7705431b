// Form fields that are tied to one value of an object. Each calls `changed` when the value is a valid new one.
import { el } from "./dom.js";
import { t } from "./i18n.js";

let count = 0;

/** A field with its label, and a hint or a problem below it. */
function labelled(label, control, hint) {
  control.id = `field-${++count}`;
  const below = el("span.hint", { id: `${control.id}-hint` }, hint ?? "");
  control.setAttribute("aria-describedby", below.id);
  const box = el("div.field", {}, el("label", { htmlFor: control.id }, label), control, below);
  box.tell = problem => {
    below.textContent = problem || hint || "";
    box.classList.toggle("wrong", Boolean(problem));
    control.setAttribute("aria-invalid", String(Boolean(problem)));
  };
  return box;
}

/** A number, or null where it is empty. */
export function numeric(object, name, label, { min, max, step = "any", standard = "", hint } = {}, changed) {
  const input = el("input", { type: "number", min, max, step, value: object[name] ?? "", placeholder: standard, inputMode: "decimal" });
  const box = labelled(label, input, hint);
  input.addEventListener("input", () => {
    box.tell(input.validity.valid ? "" : input.validationMessage);
    if (!input.validity.valid) return;
    object[name] = input.value === "" ? null : input.valueAsNumber;
    changed();
  });
  return box;
}

/** Lines of text; `check` returns what is wrong with them, or "". */
export function lines(object, name, label, { rows = 3, placeholder = "", hint, check, code = false } = {}, changed) {
  const area = el(code ? "textarea.code" : "textarea", { rows, value: object[name], placeholder, spellcheck: !code });
  const box = labelled(label, area, hint);
  const look = () => box.tell(check ? check(area.value) : "");
  area.addEventListener("input", () => {
    object[name] = area.value;
    look();
    changed();
  });
  look();
  box.area = area;
  return box;
}

export function oneLine(object, name, label, { placeholder = "", hint } = {}, changed) {
  const input = el("input", { type: "text", value: object[name], placeholder });
  input.addEventListener("input", () => {
    object[name] = input.value;
    changed();
  });
  return labelled(label, input, hint);
}

/** One of [[value, words], …]. */
export function choice(object, name, label, options, changed, hint) {
  const select = el("select", {}, options.map(([value, words]) => el("option", { value }, words)));
  if (!options.some(([value]) => value === object[name])) select.append(el("option", { value: object[name] }, t("{name} (not served now)", { name: object[name] })));
  select.value = object[name];
  select.addEventListener("change", () => {
    object[name] = select.value;
    changed();
  });
  return labelled(label, select, hint);
}

export function checkbox(object, name, label, { hint, disabled } = {}, changed) {
  const box = el("input", { type: "checkbox", checked: object[name], disabled });
  box.addEventListener("change", () => {
    object[name] = box.checked;
    changed();
  });
  return el("label.check", {}, box, el("span", {}, label, hint && el("span.hint", {}, hint)));
}

/** Something wrong with a JSON text, or "". */
export const jsonProblem = (want, words) => text => {
  if (!text.trim()) return "";
  try {
    return want(JSON.parse(text)) ? "" : words;
  } catch (problem) {
    return problem.message;
  }
};
