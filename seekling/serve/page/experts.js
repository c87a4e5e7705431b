// Which experts an answer used: a map of layers and experts, the more often the stronger, with the chosen token's outlined.
import { el } from "./dom.js";
import { number, t } from "./i18n.js";

const WIDEST = 18, NARROWEST = 3, MAP = 660; // CSS pixels

/** One token's experts by layer. */
export function expertRows(layers) {
  return el("table.experts", {}, el("caption", {}, t("Experts that computed this token")),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, t("Layer")), el("th", { scope: "col" }, t("Expert and weight")))),
    el("tbody", {}, layers.map(([layer, experts, weights]) => el("tr", {}, el("th", { scope: "row" }, number(layer)),
      el("td", {}, order(experts, weights).map(([expert, weight]) => el("span.expert", {}, el("b", {}, String(expert)), ` ${number(weight, 2)}`)))))));
}

const order = (experts, weights) => experts.map((expert, place) => [expert, weights[place]]).sort((a, b) => b[1] - a[1]);

/** The map of a whole answer: {node, show(place)}. */
export function expertMap(tokens, card) {
  const layers = tokens.find(token => token.x).x.map(([layer]) => layer);
  const width = card?.experts?.routed ?? 1 + Math.max(...tokens.flatMap(token => (token.x ?? []).flatMap(([, experts]) => experts)));
  const counts = layers.map(() => new Array(width).fill(0));
  for (const token of tokens) token.x?.forEach(([, experts], row) => experts.forEach(expert => counts[row][expert]++));
  const most = Math.max(1, ...counts.flat());
  const cell = Math.max(NARROWEST, Math.min(WIDEST, Math.floor(MAP / width))), ROW = Math.max(8, Math.min(cell, 16));
  const canvas = el("canvas", { role: "img", "aria-label": words() });
  const scale = window.devicePixelRatio || 1;
  Object.assign(canvas, { width: width * cell * scale, height: layers.length * ROW * scale });
  canvas.style.width = `${width * cell}px`;
  canvas.style.height = `${layers.length * ROW}px`;

  function show(place) {
    const style = getComputedStyle(canvas), pen = canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width * cell, layers.length * ROW);
    for (let row = 0; row < layers.length; row++)
      for (let expert = 0; expert < width; expert++) {
        pen.globalAlpha = 0.08 + 0.92 * (counts[row][expert] / most);
        pen.fillStyle = style.getPropertyValue("--accent");
        pen.fillRect(expert * cell, row * ROW, cell - 1, ROW - 1);
      }
    pen.globalAlpha = 1;
    pen.strokeStyle = style.getPropertyValue("--text");
    pen.lineWidth = 1.5;
    tokens[place].x?.forEach(([, experts], row) => experts.forEach(expert => pen.strokeRect(expert * cell - 0.25, row * ROW - 0.25, cell - 0.5, ROW - 0.5)));
  }

  function words() {
    const busiest = layers.map((layer, row) => t("layer {layer}: expert {expert} most often", { layer, expert: counts[row].indexOf(Math.max(...counts[row])) }));
    return `${t("Use of experts by layer")}: ${busiest.join("; ")}`;
  }

  const used = counts.map(row => row.filter(Boolean).length);
  const node = el("figure.expert-map", {},
    el("div.scroll", { tabindex: 0, role: "group", "aria-label": t("Use of experts by layer") }, canvas),
    el("figcaption", {}, t("Rows are layers {first} to {last}, columns experts 0 to {end}; stronger: used more often in this answer ({used} of {all}). Outlined: the chosen token's.", {
      first: layers[0], last: layers.at(-1), end: width - 1, used: used.reduce((a, b) => a + b, 0), all: width * layers.length,
    })));
  requestAnimationFrame(() => show(0));
  return { node, show: place => requestAnimationFrame(() => show(place)) };
}
