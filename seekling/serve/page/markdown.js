// Markdown to elements, block by block. Whatever the model writes becomes text nodes: HTML in it is shown, not parsed.
// While an answer streams, blocks whose source has not changed keep their elements, so that selections survive.
import { el } from "./dom.js";
import { code } from "./code.js";
import { formula } from "./formulas.js";
import { inline } from "./inline.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:\s+(.*?))?(?:\s+#+)?\s*$/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])(?:\s+|$)/;
const QUOTE = /^ {0,3}> ?/;
const DIVIDER = /^ {0,3}\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;
const DISPLAY = [["$$", "$$"], ["\\[", "\\]"]];
const ENVIRONMENT = /^\s*\\begin\{(equation|align|aligned|gather|gathered|cases|[pbvBV]?matrix)\*?\}/;

/** Show a text in a container, reusing what is there already. */
export function render(container, text) {
  const blocks = split(text.replace(/\r\n?/g, "\n").split("\n"));
  const kept = container.blocks ?? [];
  let same = 0;
  while (same < kept.length && same < blocks.length && kept[same].source === blocks[same].source) same++;
  for (const block of kept.slice(same)) block.node.remove();
  const fresh = blocks.slice(same).map(block => ({ source: block.source, node: draw(block) }));
  container.append(...fresh.map(block => block.node));
  container.blocks = [...kept.slice(0, same), ...fresh];
}

/** Lines to blocks {kind, lines, source, …}. */
export function split(lines) {
  const blocks = [];
  for (let at = 0; at < lines.length;) {
    if (!lines[at].trim()) {
      at++;
      continue;
    }
    const [end, block] = take(lines, at);
    blocks.push({ ...block, source: `${block.kind}\n${lines.slice(at, end).join("\n")}` });
    at = end;
  }
  return blocks;
}

function take(lines, at) {
  const line = lines[at], fence = line.match(FENCE);
  if (fence) {
    const close = new RegExp(`^ {0,3}${fence[1][0]}{${fence[1].length},}\\s*$`);
    let end = at + 1;
    while (end < lines.length && !close.test(lines[end])) end++;
    return [Math.min(end + 1, lines.length), { kind: "code", lines: lines.slice(at + 1, end), language: fence[2].trim().split(/\s/)[0] }];
  }
  const math = display(lines, at);
  if (math) return math;
  const heading = line.match(HEADING);
  if (heading) return [at + 1, { kind: "heading", level: heading[1].length, text: heading[2] ?? "" }];
  if (RULE.test(line)) return [at + 1, { kind: "rule" }];
  if (QUOTE.test(line)) {
    let end = at;
    while (end < lines.length && lines[end].trim() && (QUOTE.test(lines[end]) || !starts(lines, end))) end++;
    return [end, { kind: "quote", lines: lines.slice(at, end).map(one => one.replace(QUOTE, "")) }];
  }
  if (ITEM.test(line)) return list(lines, at);
  if (line.includes("|") && at + 1 < lines.length && lines[at + 1].includes("-") && DIVIDER.test(lines[at + 1])) {
    const head = cells(line), divider = cells(lines[at + 1]);
    if (head.length === divider.length) {
      let end = at + 2;
      while (end < lines.length && lines[end].includes("|") && lines[end].trim()) end++;
      return [end, { kind: "table", head, align: divider.map(alignment), rows: lines.slice(at + 2, end).map(cells) }];
    }
  }
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !starts(lines, end)) end++;
  return [end, { kind: "text", lines: lines.slice(at, end) }];
}

/** Whether something other than text begins here. */
function starts(lines, at) {
  const line = lines[at];
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line) || display(lines, at) !== null;
}

/** A formula of its own: $$…$$, \[…\] or an environment, only once it is closed. */
function display(lines, at) {
  const start = lines[at].trimStart();
  for (const [open, close] of DISPLAY) {
    if (!start.startsWith(open)) continue;
    let text = start.slice(open.length);
    for (let end = at + 1; ; end++) {
      const found = text.indexOf(close);
      if (found >= 0) return text.slice(found + close.length).trim() ? null : [end, { kind: "formula", text: text.slice(0, found) }];
      if (end >= lines.length || !lines[end - 1].trim()) return null;
      text += `\n${lines[end]}`;
    }
  }
  const environment = start.match(ENVIRONMENT);
  if (!environment) return null;
  for (let end = at + 1; end <= lines.length; end++) {
    const text = lines.slice(at, end).join("\n").trim();
    if (text.endsWith(`\\end{${environment[1]}}`) || text.endsWith(`\\end{${environment[1]}*}`)) return [end, { kind: "formula", text }];
  }
  return null;
}

function list(lines, at) {
  const first = lines[at].match(ITEM), ordered = /\d/.test(first[2]);
  const items = [];
  let end = at, width = 0, loose = false;
  while (end < lines.length) {
    const line = lines[end], found = line.match(ITEM), indent = line.match(/^\s*/)[0].length;
    if (!line.trim()) {
      let next = end + 1;
      while (next < lines.length && !lines[next].trim()) next++;
      const goes = next < lines.length && (lines[next].match(/^\s*/)[0].length >= width || sameList(lines[next]));
      if (!goes) break;
      loose = loose || !(lines[next].match(/^\s*/)[0].length >= width);
      for (; end < next; end++) items.at(-1).push("");
    } else if (found && indent < first[1].length + 2 && sameList(line) && !RULE.test(line)) {
      width = Math.min(found[0].length || 2, indent + found[2].length + 1);
      items.push([line.slice(found[0].length)]);
      end++;
    } else if (indent >= width || !starts(lines, end)) {
      items.at(-1).push(line.slice(Math.min(indent, width)));
      end++;
    } else break;
  }
  return [end, { kind: "list", ordered, start: ordered ? parseInt(first[2], 10) : 1, items, loose }];

  function sameList(line) {
    const one = line.match(ITEM);
    return one !== null && /\d/.test(one[2]) === ordered;
  }
}

const cells = line => line.trim().replace(/^\||(?<!\\)\|$/g, "").split(/(?<!\\)\|/).map(cell => cell.trim().replace(/\\\|/g, "|"));
const alignment = cell => (cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : null);

function draw(block) {
  switch (block.kind) {
    case "code": return code(block.lines.join("\n"), block.language);
    case "formula": return el("div.formula", {}, formula(block.text, true));
    case "heading": return el(`h${Math.min(6, block.level + 2)}`, {}, inline(block.text)); // below the page's own headings
    case "rule": return el("hr");
    case "quote": return el("blockquote", {}, split(block.lines).map(draw));
    case "table": return table(block);
    case "list": return el(block.ordered ? "ol" : "ul", block.ordered && block.start !== 1 ? { start: block.start } : {}, block.items.map(lines => item(lines, block.loose)));
    default: return el("p", {}, inline(block.lines.join("\n")));
  }
}

function item(lines, loose) {
  const task = lines[0].match(/^\[([ xX])\]\s+/);
  const blocks = split(task ? [lines[0].slice(task[0].length), ...lines.slice(1)] : lines);
  const box = task && el("input", { type: "checkbox", checked: task[1] !== " ", disabled: true, "aria-hidden": "true" });
  const tight = !loose && blocks.filter(block => block.kind === "text").length < 2;
  const inner = blocks.map(block => (block.kind === "text" && tight ? inline(block.lines.join("\n")) : draw(block)));
  return el(task ? "li.task" : "li", {}, box, inner);
}

function table({ head, align, rows }) {
  const cell = (kind, text, place) => el(align[place] ? `${kind}.${align[place]}` : kind, {}, inline(text));
  return el("div.table", { tabindex: 0, role: "group" },
    el("table", {},
      el("thead", {}, el("tr", {}, head.map((text, place) => cell("th", text, place)))),
      el("tbody", {}, rows.map(row => el("tr", {}, head.map((_, place) => cell("td", row[place] ?? "", place)))))));
}
