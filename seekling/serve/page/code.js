// Code blocks: a name, a copy button, and colours from a small lexer (comments, strings, numbers, words of the language).
import { copyFrom, el, iconButton } from "./dom.js";
import { t } from "./i18n.js";

const words = text => new Set(text.split(" "));
const C_LIKE = words("auto bool break case catch char class const constexpr continue default delete do double else enum explicit extern false final float for friend goto if inline int long namespace new nullptr operator override private protected public return short signed sizeof static struct switch template this throw true try typedef typename union unsigned using virtual void volatile while");
const SCRIPT = words("abstract as async await boolean break case catch class const continue debugger declare default delete do else enum export extends false finally for from function get if implements import in instanceof interface let new null number of package private protected public readonly return set static string super switch this throw true try type typeof undefined var void while yield");
const LANGUAGES = {
  python: { line: "#", words: words("False None True and as assert async await break case class continue def del elif else except finally for from global if import in is lambda match nonlocal not or pass raise return self try while with yield"), triple: true },
  javascript: { line: "//", words: SCRIPT, ticks: true },
  c: { line: "//", words: C_LIKE },
  java: { line: "//", words: words("abstract assert boolean break byte case catch char class continue default do double else enum extends false final finally float for if implements import instanceof int interface long new null package private protected public record return short static super switch this throw throws true try var void while") },
  rust: { line: "//", words: words("as async await bool break const continue crate dyn else enum extern false fn for i32 i64 if impl in let loop match mod move mut pub ref return self Self static str struct super trait true type u32 u64 u8 unsafe use usize where while") },
  go: { line: "//", words: words("bool break case chan const continue default defer else error fallthrough false float64 for func go goto if import int interface map nil package range return select string struct switch true type var"), ticks: true },
  shell: { line: "#", words: words("case do done echo elif else esac exit export fi for function if in local return set source then until while cd sudo pip python git curl") },
  sql: { line: "--", words: words("all and as asc between by case create cross delete desc distinct drop else end exists from full group having in index inner insert into is join key left like limit not null on or order outer primary right select set table then union update values view when where with"), folded: true },
  json: { words: words("true false null") },
  yaml: { line: "#", words: words("true false null yes no") },
  css: { words: new Set() },
  markup: { markup: true },
};
const NAMES = { py: "python", python3: "python", js: "javascript", jsx: "javascript", ts: "javascript", tsx: "javascript", typescript: "javascript", node: "javascript",
  cpp: "c", "c++": "c", h: "c", cc: "c", cs: "java", csharp: "java", kotlin: "java", swift: "rust", rs: "rust", golang: "go",
  sh: "shell", bash: "shell", zsh: "shell", console: "shell", yml: "yaml", toml: "yaml", ini: "yaml", html: "markup", xml: "markup", svg: "markup", jsonl: "json", scss: "css" };
const MOST = 20000; // characters; longer blocks stay plain

export function code(text, language) {
  const rules = LANGUAGES[NAMES[language.toLowerCase()] ?? language.toLowerCase()];
  const button = iconButton("copy", t("Copy code"), () => copyFrom(button, text));
  const inner = el("code", {}, rules && text.length < MOST ? coloured(text, rules) : text);
  return el("figure.code", {},
    el("figcaption", {}, el("span", {}, language || t("text")), button),
    el("pre", { tabindex: 0, "aria-label": t("Code") }, inner));
}

/** A text as nodes: spans of class "c" (comment), "s" (string), "n" (number), "k" (word of the language), and text. */
function coloured(text, rules) {
  const out = [];
  let last = 0;
  for (const found of text.matchAll(lexer(rules))) {
    const [whole] = found, kind = Object.keys(found.groups).find(name => found.groups[name] !== undefined);
    if (kind === "w" && !rules.words.has(rules.folded ? whole.toLowerCase() : whole)) continue;
    out.push(text.slice(last, found.index), el(`span.${kind === "w" ? "k" : kind}`, {}, whole));
    last = found.index + whole.length;
  }
  return [...out, text.slice(last)];
}

function lexer(rules) {
  if (rules.lexer) return rules.lexer;
  if (rules.markup) return (rules.lexer = /(?<c><!--[\s\S]*?(?:-->|$))|(?<k><\/?[\w:-]+|\/?>)|(?<s>"[^"\n]*"|'[^'\n]*')/g);
  const escaped = rules.line?.replace(/[/-]/g, "\\$&");
  const comments = [rules.line !== "#" && rules.line !== "--" && "\\/\\*[\\s\\S]*?(?:\\*\\/|$)", rules.line && (rules.line === "#" ? "(?<!\\S)#[^\\n]*" : `${escaped}[^\\n]*`)];
  const strings = [rules.triple && '"""[\\s\\S]*?(?:"""|$)|\'\'\'[\\s\\S]*?(?:\'\'\'|$)', rules.ticks && "`(?:\\\\.|[^`\\\\])*`?", '"(?:\\\\.|[^"\\\\\\n])*"?', "'(?:\\\\.|[^'\\\\\\n])*'?"];
  const either = list => list.filter(Boolean).join("|");
  return (rules.lexer = new RegExp(`(?<c>${either(comments)})|(?<s>${either(strings)})|(?<n>\\b(?:0[xXbB][\\da-fA-F_]+|\\d[\\d_]*(?:\\.\\d+)?(?:[eE][+-]?\\d+)?)\\b)|(?<w>[A-Za-z_]\\w*)`, "g"));
}
