// Words in two languages. The English text is the key; {name} in it is replaced by a value.
import { ZH } from "./words-zh.js";
import { prefs } from "./prefs.js";

export const language = prefs.language === "auto" ? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en") : prefs.language;
document.documentElement.lang = language === "zh" ? "zh-CN" : "en";

export function t(text, values = {}) {
  const words = (language === "zh" && ZH[text]) || text;
  return words.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? values[name] : whole));
}

export const number = (value, digits = 0) =>
  value.toLocaleString(language === "zh" ? "zh-CN" : "en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

export const day = time =>
  new Date(time).toLocaleString(language === "zh" ? "zh-CN" : "en", { dateStyle: "medium", timeStyle: "short" });
