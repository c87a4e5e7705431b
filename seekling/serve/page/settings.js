// The panel at the right: how answers are made (of A, or of B while two are compared), what they cost, and the page itself.
import { server } from "./about.js";
import { checkbox, choice, jsonProblem, lines, numeric, oneLine } from "./controls.js";
import { el, icon } from "./dom.js";
import { size } from "./figures.js";
import { number, t } from "./i18n.js";
import { keyStays, key, prefs, save, setKey, showTheme } from "./prefs.js";
import { EXAMPLE } from "./tools.js";
import { path } from "./tree.js";

/** Fill the panel. `state`: {talk, side}; `act`: {settingsChanged, compare(side), reload, exportTalk(kind), exportAll, importFile, clear, keyChanged}. */
export function drawSettings(place, state, act) {
  const { talk } = state, { models } = server, comparing = talk.compare !== null;
  const settings = comparing && state.side === "B" ? talk.compare : talk.settings;
  const card = models.find(model => model.id === settings.model) ?? models[0] ?? null;
  const changed = () => act.settingsChanged();
  place.replaceChildren(
    comparing ? sides(state, act) : "",
    ...answerGroups(settings, models, card, changed),
    costGroup(act), pageGroup(act), dataGroup(act), serverGroup(card, talk));
}

const group = (title, open, ...children) => el("details.group", { open }, el("summary", {}, el("h3", {}, title)), ...children);
const grid = (...children) => el("div.grid", {}, ...children);

function sides(state, act) {
  return el("div.sides", { role: "group", "aria-label": t("Settings of") }, ["A", "B"].map(side =>
    el("button", { type: "button", "aria-pressed": String(state.side === side), onclick: () => act.side(side) }, t("Answer {side}", { side }))));
}

function answerGroups(s, models, card, changed) {
  const thinks = card?.thinking ?? "either";
  return [
    group(t("Answer"), true,
      models.length > 1 && choice(s, "model", t("Model"), [["", models[0].id], ...models.slice(1).map(model => [model.id, model.id])], changed),
      lines(s, "system", t("System prompt"), { rows: 4, placeholder: t("You are …") }, changed),
      numeric(s, "max_tokens", t("Most tokens"), { min: 1, step: 1, standard: t("until the context is full") }, changed),
      thinks !== "never" && grid(
        choice(s, "thinking", t("Thinking"), [["auto", t("default")], ["enabled", t("on")], ["disabled", t("off")]], changed),
        choice(s, "effort", t("Effort"), [["", t("not set")], ["low", t("low")], ["medium", t("medium")], ["high", t("high")], ["max", t("highest")]], changed))),
    group(t("Sampling"), false, grid(
      numeric(s, "temperature", t("Temperature"), { min: 0, max: 5, standard: "0.7" }, changed),
      numeric(s, "seed", t("Seed"), { min: 0, step: 1, standard: t("random") }, changed),
      numeric(s, "top_p", "Top-p", { min: 0, max: 1, standard: "1" }, changed),
      numeric(s, "top_k", "Top-k", { min: 0, step: 1, standard: t("off") }, changed),
      numeric(s, "min_p", "Min-p", { min: 0, max: 1, standard: t("off") }, changed),
      numeric(s, "repetition_penalty", t("Repetition penalty"), { min: 0.01, standard: "1" }, changed),
      numeric(s, "presence_penalty", t("Presence penalty"), { min: -2, max: 2, standard: "0" }, changed),
      numeric(s, "frequency_penalty", t("Frequency penalty"), { min: -2, max: 2, standard: "0" }, changed)),
    lines(s, "stop", t("Stop strings"), { rows: 2, hint: t("One a line; the answer ends before it."), code: true }, changed)),
    group(t("Tools and form"), false, toolFields(s, changed),
      lines(s, "json", t("JSON schema of the answer"), { rows: 3, code: true, placeholder: '{"type": "object", …}', check: jsonProblem(value => value !== null && typeof value === "object" && !Array.isArray(value), t("Give a JSON object.")) }, changed)),
    group(t("For model builders"), false,
      checkbox(s, "tokens", t("Record tokens"), { hint: t("Log-probabilities and alternatives, shown by the button below an answer.") }, changed),
      numeric(s, "top", t("Alternatives a token"), { min: 0, max: 20, step: 1 }, changed),
      checkbox(s, "experts", t("Record experts"), { disabled: !card?.experts, hint: card?.experts ? t("{k} of {n} in each of {l} layers", { k: card.experts.per_token, n: card.experts.routed, l: card.experts.layers.length }) : t("This model is dense: it has no experts.") }, changed)),
  ];
}

function toolFields(s, changed) {
  const check = jsonProblem(value => Array.isArray(value) && value.every(tool => tool?.type === "function" && tool.function?.name), t("Give a list of tools as OpenAI has them."));
  const tools = lines(s, "tools", t("Tools"), { rows: 6, code: true, check, hint: t("A JSON list. You answer the calls yourself; the page runs nothing.") }, changed);
  const example = el("button.quiet", {
    type: "button",
    onclick: () => {
      tools.area.value = EXAMPLE;
      tools.area.dispatchEvent(new Event("input"));
    },
  }, t("Put in an example"));
  return el("div", {}, tools, example, choice(s, "tool_choice", t("Calls"), [["auto", t("if the model wants to")], ["required", t("required")], ["none", t("none")]], changed));
}

function costGroup(act) {
  const cost = prefs.cost, place = el("div");
  const changed = () => {
    save();
    act.redraw();
  };
  const fill = () => place.replaceChildren(...(
    cost.how === "price" ? [grid(
      numeric(cost, "input", t("Prompt, a million"), { min: 0 }, changed), numeric(cost, "cached", t("Cached, a million"), { min: 0 }, changed),
      numeric(cost, "output", t("Answer, a million"), { min: 0 }, changed), oneLine(cost, "currency", t("Currency"), {}, changed))]
      : cost.how === "power" ? [grid(
        numeric(cost, "watts", t("Watts at work"), { min: 0 }, changed), numeric(cost, "kwh", t("Price of a kWh"), { min: 0 }, changed),
        oneLine(cost, "currency", t("Currency"), {}, changed))] : []));
  fill();
  return group(t("Cost"), false, choice(cost, "how", t("Reckoned by"), [["none", t("not at all")], ["price", t("price of a million tokens")], ["power", t("electricity")]], () => {
    fill();
    changed();
  }), place);
}

function pageGroup(act) {
  const kept = { key: key(), stay: keyStays() };
  const input = el("input", { type: "password", id: "key", autocomplete: "off", value: kept.key, placeholder: "sk-…" });
  const stay = el("input", { type: "checkbox", checked: kept.stay });
  const take = () => {
    setKey(input.value.trim(), stay.checked);
    act.keyChanged();
  };
  input.addEventListener("change", take);
  stay.addEventListener("change", take);
  return group(t("This page"), false,
    grid(
      choice(prefs, "theme", t("Colours"), [["auto", t("system")], ["light", t("light")], ["dark", t("dark")]], () => {
        save();
        showTheme();
      }),
      choice(prefs, "language", t("Language"), [["auto", t("browser")], ["en", "English"], ["zh", "中文"]], () => {
        save();
        location.reload();
      })),
    el("form", { onsubmit: event => event.preventDefault() },
      el("div.field", {}, el("label", { htmlFor: "key" }, t("API key, where the server asks for one")), input),
      el("label.check", {}, stay, el("span", {}, t("Keep the key in this browser")))));
}

function dataGroup(act) {
  const file = el("input", { type: "file", accept: ".json,application/json", hidden: true, "aria-label": t("File to import"), onchange: () => file.files[0] && act.importFile(file.files[0]) });
  const button = (shape, words, onclick, more = "") => el(`button${more}`, { type: "button", onclick }, icon(shape), el("span", {}, words));
  return group(t("Conversations"), false,
    el("p.hint", {}, t("They are kept in this browser and nowhere else.")),
    el("div.buttons", {},
      button("export", t("This one as Markdown"), () => act.exportTalk("md")), button("export", t("This one as JSON"), () => act.exportTalk("json")),
      button("export", t("All as JSON"), act.exportAll), button("import", t("Import"), () => file.click()), file,
      button("trash", t("Delete all"), act.clear, ".danger")));
}

function serverGroup(card, talk) {
  if (!card) return "";
  const rows = [[t("Model"), card.id], [t("Context"), t("{n} tokens", { n: number(card.max_model_len) })]];
  if (card.cache) {
    rows.push([t("Cache a token"), size(card.cache.bytes_per_token)]);
    rows.push([t("Cache in all"), `${size(card.cache.bytes_per_token * card.cache.tokens)} (${t("{n} tokens", { n: number(card.cache.tokens) })})`]);
  }
  const last = path(talk).findLast(node => node.figures?.prompt);
  if (card.cache && last) rows.push([t("Cache of this conversation"), size(card.cache.bytes_per_token * (last.figures.prompt + last.figures.tokens))]);
  if (card.experts) rows.push([t("Experts"), t("{k} of {n} in each of {l} layers", { k: card.experts.per_token, n: card.experts.routed, l: card.experts.layers.length })]);
  const { label, moderation, watermark, audit } = server.about;
  rows.push([t("Label"), label.mode === "none" ? t("off") : label.mode.toUpperCase()], [t("Moderation"), moderation ?? t("off")], [t("Watermark"), watermark ?? t("off")]);
  rows.push([t("Log"), audit === null ? t("off") : t(audit.texts ? "Texts, for {n} days" : "Hashes of texts, for {n} days", { n: audit.days })]);
  return group(t("Server"), false, el("dl.facts", {}, rows.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])));
}
