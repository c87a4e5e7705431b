// For model builders: an answer token by token, coloured by probability; for the chosen token its alternatives and experts.
import { el } from "./dom.js";
import { expertMap, expertRows } from "./experts.js";
import { number, t } from "./i18n.js";

const LEVELS = [[0.9, "p0"], [0.6, "p1"], [0.3, "p2"], [0.1, "p3"], [0, "p4"]];
const level = p => LEVELS.find(([least]) => p >= least)[1];
const decoder = new TextDecoder("utf-8", { fatal: true });

/** A token's text with blanks made visible; bytes that are no character of their own as <e4>. */
export function shown(text, bytes, gaps = true) {
  if (bytes?.length) {
    try {
      text = decoder.decode(new Uint8Array(bytes));
    } catch {
      return bytes.map(byte => `‹${byte.toString(16).padStart(2, "0")}›`).join("");
    }
  }
  if (text === "") return "∅";
  return gaps ? text.replace(/ /g, "·").replace(/\n/g, "↵").replace(/\t/g, "⇥") : text;
}

/** The view. `card` is the model's entry of /v1/models, for the number of its experts. */
export function tokenView(tokens, card) {
  const detail = el("div.token-detail", { "aria-live": "polite" });
  const map = tokens.some(token => token.x) ? expertMap(tokens, card) : null;
  const buttons = tokens.map((token, place) => el(`button.token.${level(Math.exp(token.p))}`, {
    type: "button", tabIndex: place ? -1 : 0, title: `${percent(token.p)} %`, "aria-pressed": "false",
    onclick: () => choose(place),
  }, shown(token.t, token.b)));
  const line = el("div.token-line", { role: "group", "aria-label": t("Tokens; arrow keys move"), onkeydown: move });
  buttons.forEach((button, place) => {
    line.append(button);
    if (tokens[place].t.endsWith("\n")) line.append(el("br"));
  });

  function choose(place) {
    for (const button of buttons) {
      button.setAttribute("aria-pressed", "false");
      button.tabIndex = -1;
    }
    buttons[place].setAttribute("aria-pressed", "true");
    buttons[place].tabIndex = 0;
    detail.replaceChildren(...details(tokens[place]));
    map?.show(place);
  }

  function move(event) {
    const at = buttons.indexOf(event.target), step = { ArrowRight: 1, ArrowLeft: -1, Home: -at, End: buttons.length - 1 - at }[event.key];
    if (step === undefined || at < 0) return;
    event.preventDefault();
    const next = Math.max(0, Math.min(buttons.length - 1, at + step));
    buttons[next].focus();
    choose(next);
  }

  const mean = Math.exp(-tokens.reduce((sum, token) => sum + token.p, 0) / tokens.length);
  const view = el("div.token-view", {},
    el("div.legend", {}, LEVELS.map(([least, name], place) => el(`span.token.${name}`, {}, place === 4 ? "< 10 %" : `≥ ${least * 100} %`)),
      el("span.dim", {}, t("{n} tokens, perplexity {p}", { n: number(tokens.length), p: number(mean, 2) }))),
    line, detail, map?.node);
  choose(0);
  return view;
}

const percent = logprob => number(100 * Math.exp(logprob), 1);

function details(token) {
  const others = token.a.length ? token.a : [[token.t, token.b, token.p]];
  const isThis = other => other[0] === token.t && String(other[1]) === String(token.b);
  const rows = others.some(isThis) ? others : [...others, [token.t, token.b, token.p]];
  return [
    el("p.token-head", {}, el("code", {}, shown(token.t, token.b)), ` ${percent(token.p)} % · log p ${number(token.p, 3)}`),
    el("ol.alternatives", { "aria-label": t("Likeliest tokens") }, rows.map(other => {
      const bar = el("span.bar", { "aria-hidden": "true" });
      bar.style.setProperty("--part", Math.exp(other[2]));
      return el(isThis(other) ? "li.drawn" : "li", {}, el("code", {}, shown(other[0], other[1])), bar, el("span.number", {}, `${percent(other[2])} %`));
    })),
    token.x && expertRows(token.x),
  ].filter(Boolean);
}
