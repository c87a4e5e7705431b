// Keyboard shortcuts, and the list of them.
import { el } from "./dom.js";
import { t } from "./i18n.js";

const MOD = /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘" : "Ctrl";

const list = () => [
  [["Enter"], t("Send the message")], [["Shift", "Enter"], t("New line")], [["↑"], t("Edit the last message (in an empty box)")],
  [["Esc"], t("Stop the answer, or close what is open")], [["/"], t("To the message box")], [[MOD, "K"], t("Search conversations")],
  [[MOD, "Shift", "O"], t("New conversation")], [[MOD, "."], t("Settings")], [["?"], t("This list")],
];

/** Listen; `act`: {focus, search, fresh, settings, escape() → handled}. */
export function listen(act) {
  document.addEventListener("keydown", event => {
    const typing = event.target.closest?.("input, textarea, select, [contenteditable]");
    const mod = event.metaKey || event.ctrlKey, name = event.key.toLowerCase();
    const does = event.key === "Escape" ? act.escape
      : mod && !event.shiftKey && name === "k" ? act.search
        : mod && event.shiftKey && name === "o" ? act.fresh
          : mod && event.key === "." ? act.settings
            : !typing && !mod && event.key === "/" ? act.focus
              : !typing && !mod && event.key === "?" ? showKeys : null;
    if (does && does() !== false) event.preventDefault();
  });
}

export function showKeys() {
  const dialog = document.getElementById("keys");
  dialog.replaceChildren(
    el("h2", {}, t("Keyboard")),
    el("dl", {}, list().map(([keys, words]) => [el("dt", {}, keys.map(key => el("kbd", {}, key))), el("dd", {}, words)])),
    el("form", { method: "dialog" }, el("button.primary", {}, t("Close"))));
  dialog.showModal();
}
