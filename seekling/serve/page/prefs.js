// What the browser remembers beside the conversations: theme, language, prices, the settings new talks begin with, the key.
// Storage may be switched off; then all of it lasts as long as the page.

const KEPT = "seekling.prefs", KEY = "seekling.key";

/** Settings of an answer. A value equal to the one here is not sent, so that the server's own default holds. */
export const SETTINGS = {
  model: "", system: "", thinking: "auto", effort: "",
  temperature: null, top_p: null, top_k: null, min_p: null,
  repetition_penalty: null, presence_penalty: null, frequency_penalty: null,
  max_tokens: 1024, seed: null, stop: "",
  tools: "", tool_choice: "auto", json: "",
  tokens: false, top: 5, experts: false,
};

const DEFAULTS = {
  theme: "auto", language: "auto", side: true, panel: false,
  cost: { how: "none", input: 0, cached: 0, output: 0, currency: "$", watts: 0, kwh: 0 },
  settings: SETTINGS,
};

export const prefs = read();

function read() {
  let kept = {};
  try {
    kept = JSON.parse(localStorage.getItem(KEPT)) ?? {};
  } catch { /* storage is off, or was written by somebody else */ }
  return {
    ...DEFAULTS, ...kept,
    cost: { ...DEFAULTS.cost, ...kept.cost },
    settings: { ...SETTINGS, ...kept.settings },
  };
}

export function save(changes = {}) {
  Object.assign(prefs, changes);
  try {
    localStorage.setItem(KEPT, JSON.stringify(prefs));
  } catch { /* storage is off */ }
}

let secret = "";
try {
  secret = sessionStorage.getItem(KEY) || localStorage.getItem(KEY) || "";
} catch { /* storage is off */ }

/** The API key, empty where none was given. */
export const key = () => secret;

/** Keep a key for this tab, or until it is taken away. */
export function setKey(value, stay) {
  secret = value;
  try {
    sessionStorage.removeItem(KEY);
    localStorage.removeItem(KEY);
    if (value) (stay ? localStorage : sessionStorage).setItem(KEY, value);
  } catch { /* storage is off */ }
}

export const keyStays = () => {
  try {
    return localStorage.getItem(KEY) !== null;
  } catch {
    return false;
  }
};

/** Put the chosen theme on the page; "auto" follows the system. */
export function showTheme() {
  document.documentElement.dataset.theme = prefs.theme;
}
