// The line below an answer: tokens, their rate, the wait, what was cached, what it cost.
import { number, t } from "./i18n.js";
import { prefs } from "./prefs.js";

/** What an answer cost by the user's prices, with its currency; null where no price was given. */
export function cost(figures) {
  const { how, input, cached, output, currency, watts, kwh } = prefs.cost;
  if (how === "price" && figures.prompt !== null) {
    const hit = figures.cached ?? 0;
    return money(((figures.prompt - hit) * input + hit * cached + figures.tokens * output) / 1e6, currency);
  }
  if (how === "power") return money((watts * figures.seconds) / 3.6e6 * kwh, currency);
  return null;
}

function money(value, currency) {
  const digits = value === 0 ? 2 : Math.min(8, Math.max(2, 2 - Math.floor(Math.log10(value))));
  return `${currency}${currency.length > 1 ? " " : ""}${number(value, digits)}`;
}

/** [text, explanation] each. */
export function figureParts(figures) {
  if (!figures) return [];
  const out = [[`${figures.about ? "≈ " : ""}${t("{n} tokens", { n: number(figures.tokens) })}`, figures.reasoning ? t("of which {n} were thinking", { n: number(figures.reasoning) }) : t("Tokens of this answer")]];
  if (figures.rate !== null) out.push([t("{n} tokens/s", { n: number(figures.rate, figures.rate < 10 ? 1 : 0) }), t("After the first token")]);
  out.push([t("first after {n} s", { n: number(figures.wait, 2) }), t("Time to first token")]);
  if (figures.prompt !== null) out.push([t("{n} of {all} cached", { n: number(figures.cached ?? 0), all: number(figures.prompt) }), t("Prompt tokens that the server had computed before")]);
  const price = cost(figures);
  if (price !== null) out.push([price, prefs.cost.how === "power" ? t("Electricity for {n} s", { n: number(figures.seconds, 1) }) : t("By your prices")]);
  return out;
}

/** Bytes for people. */
export function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  for (; bytes >= 1024 && at < units.length - 1; at++) bytes /= 1024;
  return `${number(bytes, at && bytes < 100 ? 1 : 0)} ${units[at]}`;
}
