// TeX to MathML, which browsers draw themselves. Covers what models write; at anything else the source stays, as code.
import { ACCENTS, BIG, FUNCTIONS, INTEGRALS, LETTERS, LIMITED, OPERATORS, SPACES, STRETCHED, isStyle, styled } from "./tex-symbols.js";
import { el } from "./dom.js";

const MATHML = "http://www.w3.org/1998/Math/MathML";
const DEEPEST = 60;
const PAIRS = { pmatrix: ["(", ")"], bmatrix: ["[", "]"], Bmatrix: ["{", "}"], vmatrix: ["|", "|"], Vmatrix: ["‖", "‖"], cases: ["{", ""] };
const TABLES = new Set(["matrix", "smallmatrix", "array", "aligned", "align", "align*", "split", "gather", "gathered", "gather*", "equation", "equation*", "alignedat", ...Object.keys(PAIRS)]);
const BRACKETS = new Set("lbrace rbrace langle rangle lceil rceil lfloor rfloor lvert rvert vert Vert lVert rVert lbrack rbrack".split(" "));
const SIZES = { big: 1.2, Big: 1.6, bigg: 2.1, Bigg: 2.6 };

/** A formula as an element. */
export function formula(source, display) {
  try {
    const parser = new Parser(source, display);
    const row = parser.row([]);
    if (!parser.ended) throw new Error("what closes was never opened");
    const note = m("annotation", { encoding: "application/x-tex" }, source.trim());
    return m("math", display ? { display: "block" } : {}, m("semantics", {}, row, note));
  } catch {
    return el("code.tex", { title: "TeX" }, source.trim());
  }
}

function m(name, attributes = {}, ...children) {
  const node = document.createElementNS(MATHML, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const operator = (text, attributes = {}) => m("mo", attributes, text);
const fence = (text, more = {}) => operator(text, { fence: "true", ...more });

class Parser {
  constructor(source, display) {
    this.tokens = source.match(/\\[a-zA-Z]+\*?|\\[\s\S]|%[^\n]*|\s+|[\s\S]/gu) ?? [];
    this.at = 0;
    this.display = display;
    this.style = null;
    this.depth = 0;
    if (source.length > 5000) throw new Error("too long");
  }

  get ended() {
    this.blank();
    return this.at >= this.tokens.length;
  }

  blank() {
    while (/^(\s|%)/.test(this.tokens[this.at] ?? "")) this.at++;
  }

  peek() {
    this.blank();
    return this.tokens[this.at];
  }

  next() {
    this.blank();
    if (this.at >= this.tokens.length) throw new Error("ends too early");
    return this.tokens[this.at++];
  }

  eat(token) {
    if (this.peek() !== token) return false;
    this.at++;
    return true;
  }

  /** Everything up to one of the tokens, which stays. */
  row(stops) {
    if (++this.depth > DEEPEST) throw new Error("too deep");
    const out = [], style = this.style;
    while (!this.ended && !stops.includes(this.peek()) && this.peek() !== "}" && this.peek() !== "&") {
      if (this.peek() === "\\\\" && stops.length) break;
      const part = this.scripted();
      if (part) out.push(part);
    }
    this.style = style;
    this.depth--;
    return out.length === 1 ? out[0] : m("mrow", {}, ...out);
  }

  /** An argument: a group or a single thing. */
  argument() {
    if (this.eat("{")) {
      const row = this.row([]);
      if (!this.eat("}")) throw new Error("a group stays open");
      return row;
    }
    return this.atom()?.node ?? m("mrow");
  }

  /** The raw text of a group. */
  raw() {
    if (!this.eat("{")) return this.next();
    let open = 1, text = "";
    while (open) {
      if (this.at >= this.tokens.length) throw new Error("a group stays open");
      const token = this.tokens[this.at++];
      open += token === "{" ? 1 : token === "}" ? -1 : 0;
      if (open) text += token;
    }
    return text;
  }

  scripted() {
    let base = this.peek() === "^" || this.peek() === "_" || this.peek() === "'" ? { node: m("mrow") } : this.atom();
    if (!base) return null;
    let sub = null, sup = null, primes = "", limits = base.limits && this.display;
    for (;;) {
      if (this.eat("'")) primes += "′";
      else if (this.peek() === "\\limits" || this.peek() === "\\nolimits") limits = this.next() === "\\limits";
      else if (this.peek() === "^" && !sup) {
        this.next();
        sup = this.argument();
      } else if (this.peek() === "_" && !sub) {
        this.next();
        sub = this.argument();
      } else break;
    }
    if (primes) sup = m("mrow", {}, operator(primes), ...(sup ? [sup] : []));
    if (!sub && !sup) return base.node;
    const names = limits ? ["munder", "mover", "munderover"] : ["msub", "msup", "msubsup"];
    return m(names[sub && sup ? 2 : sup ? 1 : 0], {}, base.node, ...[sub, sup].filter(Boolean));
  }

  /** {node, limits}, or null for what draws nothing. */
  atom() {
    const token = this.next();
    if (token === "{") {
      this.at--;
      return { node: this.argument() };
    }
    if (token[0] === "\\") return this.command(token.slice(1));
    if (/\d/.test(token)) {
      let digits = token;
      while (/^[\d.]$/.test(this.tokens[this.at] ?? "") && (this.tokens[this.at] !== "." || /\d/.test(this.tokens[this.at + 1] ?? ""))) digits += this.tokens[this.at++];
      return { node: m("mn", {}, [...digits].map(digit => styled(digit, this.style)).join("")) };
    }
    if (/\p{L}/u.test(token)) return { node: this.letter(token) };
    if ("^_#$}&".includes(token)) throw new Error(`${token} has no place here`);
    if (token === "~") return { node: m("mspace", { width: "0.25em" }) };
    const text = { "-": "−", "*": "∗", ":": ":" }[token] ?? token;
    return { node: operator(text, "()[]|/".includes(token) ? { stretchy: "false" } : {}) };
  }

  letter(char) {
    if (this.style === "mathrm") return m("mi", { mathvariant: "normal" }, char);
    const text = styled(char, this.style);
    return m("mi", text !== char ? { mathvariant: "normal" } : {}, text);
  }

  command(name) {
    if (name in LETTERS) return { node: this.letter(LETTERS[name]) };
    if (name in OPERATORS) return { node: operator(OPERATORS[name], BRACKETS.has(name) ? { stretchy: "false" } : {}) };
    if (name in BIG) return { node: operator(BIG[name], { largeop: "true", movablelimits: "false" }), limits: true };
    if (name in INTEGRALS) return { node: operator(INTEGRALS[name], { largeop: "true" }) };
    if (FUNCTIONS.has(name)) return { node: this.word(name) };
    if (LIMITED.has(name)) return { node: this.word(name), limits: true };
    if (name in SPACES) return { node: m("mspace", { width: `${SPACES[name]}em` }) };
    if (name in ACCENTS) return { node: m("mover", { accent: "true" }, this.argument(), operator(ACCENTS[name], { stretchy: String(STRETCHED.has(name)) })) };
    if (isStyle(name) || name === "rm" || name === "bf") return { node: this.inStyle(name) };
    if ("{}|%$&#_".includes(name)) return { node: operator(name === "|" ? "‖" : name, { stretchy: "false" }) };
    switch (name) {
      case "frac": case "dfrac": case "tfrac": case "cfrac": {
        const inner = m("mfrac", {}, this.argument(), this.argument());
        return { node: name === "dfrac" ? m("mstyle", { displaystyle: "true" }, inner) : inner };
      }
      case "binom": case "dbinom": case "tbinom":
        return { node: m("mrow", {}, fence("("), m("mfrac", { linethickness: "0" }, this.argument(), this.argument()), fence(")")) };
      case "sqrt": {
        if (!this.eat("[")) return { node: m("msqrt", {}, this.argument()) };
        const degree = this.row(["]"]);
        this.next();
        return { node: m("mroot", {}, this.argument(), degree) };
      }
      case "text": case "textrm": case "mbox": case "textbf": case "textit": case "texttt": case "textnormal": {
        const text = this.raw().replace(/\\([%&$#_{} ])/g, "$1").replace(/^\s+|\s+$/g, "\u00a0");
        return { node: m("mtext", {}, name === "textbf" ? [...text].map(char => styled(char, "mathbf")).join("") : text) };
      }
      case "operatorname": case "operatorname*": return { node: this.word(this.raw().trim()), limits: name.endsWith("*") };
      case "underline": return { node: m("munder", {}, this.argument(), operator("_", { stretchy: "true" })) };
      case "overbrace": return { node: m("mover", {}, this.argument(), operator("⏞", { stretchy: "true" })), limits: true };
      case "underbrace": return { node: m("munder", {}, this.argument(), operator("⏟", { stretchy: "true" })), limits: true };
      case "stackrel": case "overset": {
        const above = this.argument();
        return { node: m("mover", {}, this.argument(), above) };
      }
      case "underset": {
        const below = this.argument();
        return { node: m("munder", {}, this.argument(), below) };
      }
      case "xrightarrow": case "xleftarrow": return { node: m("mover", {}, operator(name === "xrightarrow" ? "⟶" : "⟵", { stretchy: "true" }), this.argument()) };
      case "not": return { node: operator(`${this.argument().textContent}\u0338`) };
      case "boxed": case "fbox": return { node: m("mrow", { class: "boxed" }, this.argument()) };
      case "pmod": return { node: m("mrow", {}, m("mspace", { width: "0.5em" }), operator("("), this.word("mod"), m("mspace", { width: "0.3em" }), this.argument(), operator(")")) };
      case "bmod": case "mod": return { node: m("mrow", {}, m("mspace", { width: "0.25em" }), this.word("mod"), m("mspace", { width: "0.25em" })) };
      case "left": return { node: this.fenced() };
      case "begin": return { node: this.environment(this.raw()) };
      case "displaystyle": case "textstyle": case "limits": case "nolimits": case "notag": case "nonumber": case "hfill": return null;
      case "tag": case "label": this.raw(); return null;
      case "phantom": return { node: m("mphantom", {}, this.argument()) };
    }
    const size = name.match(/^(big|Big|bigg|Bigg)[lrm]?$/);
    if (size) return { node: fence(this.delimiter(), { stretchy: "true", minsize: `${SIZES[size[1]]}em`, maxsize: `${SIZES[size[1]]}em` }) };
    throw new Error(`\\${name} is not known`);
  }

  inStyle(name) {
    const before = this.style;
    this.style = name === "rm" ? "mathrm" : name === "bf" ? "mathbf" : name;
    const word = this.style === "mathrm" && this.peek() === "{" && /^\{[A-Za-z]{2,}\}/.test(this.tokens.slice(this.at, this.at + 24).join(""));
    const node = word ? this.word(this.raw()) : name === "rm" || name === "bf" ? this.row([]) : this.argument();
    this.style = before;
    return node;
  }

  word(text) {
    const names = { limsup: "lim sup", liminf: "lim inf", argmax: "arg max", argmin: "arg min" };
    return m("mi", text.length === 1 ? { mathvariant: "normal" } : {}, names[text] ?? text);
  }

  delimiter() {
    const token = this.next();
    if (token === ".") return "";
    if (token === "\\|") return "‖";
    if (token[0] !== "\\") return token;
    const name = token.slice(1);
    if (!(name in OPERATORS) && !"{}".includes(name)) throw new Error(`${token} is no delimiter`);
    return OPERATORS[name] ?? name;
  }

  fenced() {
    const open = this.delimiter(), parts = [fence(open, { stretchy: "true" })];
    for (;;) {
      parts.push(this.row(["\\right", "\\middle"]));
      const end = this.next();
      if (end !== "\\right" && end !== "\\middle") throw new Error("\\left without \\right");
      parts.push(fence(this.delimiter(), { stretchy: "true" }));
      if (end === "\\right") return m("mrow", {}, ...parts);
    }
  }

  environment(name) {
    if (!TABLES.has(name)) throw new Error(`${name} is not known`);
    const align = name === "array" ? this.raw().replace(/[^lcr]/g, "") : name === "alignedat" ? (this.raw(), "") : "";
    const rows = [[]];
    for (;;) {
      rows.at(-1).push(this.row(["\\end", "\\\\"]));
      const end = this.next();
      if (end === "\\\\") {
        if (this.peek() === "[") while (this.next() !== "]");
        rows.push([]);
      } else if (end === "\\end") break;
      else if (end !== "&") throw new Error(`${end} in a table`);
    }
    if (this.raw() !== name) throw new Error("another environment ends");
    if (rows.length > 1 && rows.at(-1).every(cell => !cell.textContent)) rows.pop();
    const aligned = /^(align|split)/.test(name), side = { l: "left", r: "right" };
    const cells = row => row.map((cell, place) => {
      const where = aligned ? ["right", "left"][place % 2] : name === "cases" ? "left" : side[align[place]];
      return m("mtd", where ? { class: where } : {}, cell);
    });
    const table = m("mtable", aligned || /^(gather|equation)/.test(name) ? { displaystyle: "true", class: aligned ? "aligned" : "" } : {}, ...rows.map(row => m("mtr", {}, ...cells(row))));
    const around = PAIRS[name];
    return around ? m("mrow", {}, fence(around[0], { stretchy: "true" }), table, ...(around[1] ? [fence(around[1], { stretchy: "true" })] : [])) : table;
  }
}
