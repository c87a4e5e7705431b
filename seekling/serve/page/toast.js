// A short word at the lower edge, with at most one thing to do about it.
import { el } from "./dom.js";

let timer = 0;

/** Show it for some seconds. `action` is [label, what to do]. */
export function toast(text, action, seconds = 7) {
  const place = document.getElementById("toast");
  clearTimeout(timer);
  const close = () => place.replaceChildren();
  place.replaceChildren(el("div.toast", {}, el("span", {}, text), action && el("button", {
    type: "button",
    onclick: () => {
      close();
      action[1]();
    },
  }, action[0])));
  timer = setTimeout(close, 1000 * seconds);
}
