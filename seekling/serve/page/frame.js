// The frame around the conversation: the list at the left, the settings at the right, the box below. Knows nothing of talks.
import { icon, iconButton } from "./dom.js";
import { t } from "./i18n.js";
import { showKeys } from "./keys.js";
import { prefs, save } from "./prefs.js";

export const $ = id => document.getElementById(id);
export const narrow = matchMedia("(max-width: 46rem)"); // the list lies over the conversation
export const floats = matchMedia("(max-width: 75rem)"); // so do the settings

const ICONS = { menu: "menu", compare: "compare", "open-settings": "settings", send: "send", stop: "stop", "to-end": "down", "close-settings": "close", "search-icon": "search", fresh: "plus" };

export const sideOpen = () => document.body.classList.contains("side-open");
export const panelOpen = () => document.body.classList.contains("panel-open");

/** What lies under an open panel cannot be reached. */
function cover() {
  const panel = floats.matches && panelOpen();
  $("stage").inert = panel || (narrow.matches && sideOpen());
  $("side").inert = panel || !sideOpen();
}

export function setSide(open) {
  document.body.classList.toggle("side-open", open);
  cover();
  $("menu").setAttribute("aria-expanded", String(open));
  if (!narrow.matches) save({ side: open });
}

/** `fill` draws what is in the panel. */
export function setPanel(open, fill) {
  document.body.classList.toggle("panel-open", open);
  $("panel").inert = !open;
  cover();
  $("open-settings").setAttribute("aria-expanded", String(open));
  if (!floats.matches) save({ panel: open });
  if (open) fill();
}

/** The box takes the focus, except where that would open a keyboard on the glass. */
export function focus() {
  if (!matchMedia("(pointer: coarse)").matches) $("text").focus();
}

/** The box is as high as what is in it. */
export function grow() {
  const box = $("text");
  box.style.height = "auto";
  box.style.height = `${Math.min(box.scrollHeight + 2, innerHeight * 0.4)}px`;
}

/** Icons and words of the elements that are always there. */
export function furnish() {
  for (const [id, shape] of Object.entries(ICONS)) $(id).prepend(icon(shape));
  for (const node of document.querySelectorAll("[data-t]")) node.append(t(node.dataset.t));
  for (const node of document.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", t(node.dataset.label));
    if (node.tagName === "BUTTON") node.title = t(node.dataset.label);
  }
  for (const node of document.querySelectorAll("[data-hint]")) node.placeholder = t(node.dataset.hint);
  $("side-foot").append(iconButton("keyboard", t("Keyboard"), showKeys));
  for (const width of [narrow, floats]) width.addEventListener("change", cover);
  setSide(prefs.side && !narrow.matches);
}
