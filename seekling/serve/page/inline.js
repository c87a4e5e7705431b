// The inside of a paragraph: emphasis, code, links, formulas, line breaks. Links lead to http, https and mailto only and open
// elsewhere; a picture is a link too, because the page asks nobody but its own server.
import { el } from "./dom.js";
import { formula } from "./formulas.js";

const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', nbsp: "\u00a0", "#39": "'" };
const PUNCTUATION = /[\p{P}\p{S}]/u;
const BARE = /^https?:\/\/[^\s<>"'`]+/;

/** A text as nodes. */
export function inline(text) {
  return nodes(emphasised(pieces(text)));
}

// Pieces are {node}, {text}, or {mark: "*" | "_" | "~", count, opens, closes}.
function pieces(text) {
  const out = [];
  let plain = "";
  const flush = () => {
    if (plain) out.push({ text: plain });
    plain = "";
  };
  const put = node => {
    flush();
    out.push({ node });
  };
  for (let at = 0; at < text.length;) {
    const rest = text.slice(at), char = text[at];
    const found = special(rest, char, at ? text[at - 1] : "");
    if (found) {
      const [length, node] = found;
      if (typeof node === "string") plain += node;
      else put(node);
      at += length;
    } else if (char === "*" || char === "_" || (char === "~" && rest.startsWith("~~"))) {
      const run = rest.match(/^(\*+|_+|~+)/)[0];
      flush();
      out.push(mark(run, text[at - 1] ?? " ", text[at + run.length] ?? " "));
      at += run.length;
    } else {
      plain += char;
      at++;
    }
  }
  flush();
  return out;
}

/** [length, node or text] where something other than plain text begins. */
function special(rest, char, before) {
  let found;
  if (char === "\\") {
    if (rest[1] === "(" && (found = rest.indexOf("\\)", 2)) > 0) return [found + 2, formula(rest.slice(2, found), false)];
    if (rest[1] === "[" && (found = rest.indexOf("\\]", 2)) > 0) return [found + 2, formula(rest.slice(2, found), true)];
    if (rest[1] === "\n") return [2, el("br")];
    if (/^\\[!-/:-@[-`{-~]/.test(rest)) return [2, rest[1]];
  } else if (char === "`") {
    const ticks = rest.match(/^`+/)[0];
    const end = rest.slice(ticks.length).search(new RegExp(`(?<!\`)${ticks}(?!\`)`));
    if (end < 0) return [ticks.length, ticks];
    const inner = rest.slice(ticks.length, ticks.length + end).replace(/\n/g, " ");
    return [2 * ticks.length + end, el("code", {}, /^ .* $/.test(inner) && inner.trim() ? inner.slice(1, -1) : inner)];
  } else if (char === "$") {
    if ((found = rest.match(/^\$\$([^$]+)\$\$/))) return [found[0].length, formula(found[1], true)];
    // As pandoc has it: no blank inside the dollars, no digit behind the second, so that prices stay prices.
    if ((found = rest.match(/^\$((?!\s)(?:\\.|[^$\\])+?(?<!\s))\$(?!\d)/)) && !found[1].includes("\n\n")) return [found[0].length, formula(found[1], false)];
  } else if (char === "!" || char === "[") {
    if ((found = rest.match(/^(!?)\[((?:\\.|\[[^\]]*\]|[^\][\\])*)\]\(\s*<?([^\s()<>]*(?:\([^\s()]*\)[^\s()<>]*)*)>?(?:\s+(?:"[^"]*"|'[^']*'))?\s*\)/))) {
      const [whole, picture, label, target] = found;
      return [whole.length, link(target, picture ? [`▧ ${label || target}`] : inline(label))];
    }
  } else if (char === "<") {
    if ((found = rest.match(/^<((?:https?:\/\/|mailto:)[^\s<>]+)>/))) return [found[0].length, link(found[1], [found[1]])];
    if ((found = rest.match(/^<br\s*\/?>/i))) return [found[0].length, el("br")];
  } else if (char === "h" && !/\w/.test(before) && (found = rest.match(BARE))) {
    let target = found[0].replace(/[.,;:!?*_~]+$/, "");
    while (target.endsWith(")") && target.split(")").length > target.split("(").length) target = target.slice(0, -1);
    return [target.length, link(target, [target])];
  } else if (char === "&" && (found = rest.match(/^&(#?\w+);/)) && found[1] in ENTITIES) {
    return [found[0].length, ENTITIES[found[1]]];
  } else if (char === "\n") return [1, el("br")];
  return null;
}

function link(target, label) {
  let url;
  try {
    url = new URL(target);
  } catch { /* relative, or no address at all */ }
  if (!url || !["http:", "https:", "mailto:"].includes(url.protocol)) return el("span.no-link", { title: target }, label);
  return el("a", { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow" }, label);
}

/** A run of emphasis characters, and by CommonMark's rule of flanks whether it may open or close. */
function mark(run, before, after) {
  const left = !/\s/.test(after) && (!PUNCTUATION.test(after) || /\s/.test(before) || PUNCTUATION.test(before));
  const right = !/\s/.test(before) && (!PUNCTUATION.test(before) || /\s/.test(after) || PUNCTUATION.test(after));
  const inWord = run[0] === "_";
  return {
    mark: run[0], count: run.length,
    opens: left && (!inWord || !right || PUNCTUATION.test(before)),
    closes: right && (!inWord || !left || PUNCTUATION.test(after)),
  };
}

/** Pair the marks, inner ones first. */
function emphasised(list) {
  for (let close = 0; close < list.length; close++) {
    const end = list[close];
    if (!end.closes || !end.count) continue;
    for (let open = close - 1; open >= 0 && end.count; open--) {
      const start = list[open];
      if (start.mark !== end.mark || !start.opens || !start.count) continue;
      if ((start.closes || end.opens) && (start.count + end.count) % 3 === 0 && start.count % 3 && end.count % 3) continue;
      const two = start.count > 1 && end.count > 1;
      if (end.mark === "~" && !two) continue;
      const node = el(end.mark === "~" ? "del" : two ? "strong" : "em", {}, nodes(list.slice(open + 1, close)));
      start.count -= two ? 2 : 1;
      end.count -= two ? 2 : 1;
      list.splice(open + 1, close - open - 1, { node });
      close = open + 2;
      if (start.count) open++; // the same mark may open once more
    }
  }
  return list;
}

/** What is left of the marks is text. */
function nodes(list) {
  return list.map(piece => piece.node ?? piece.text ?? piece.mark.repeat(piece.count)).filter(piece => piece !== "");
}
