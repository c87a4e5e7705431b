// A tool call in an answer: what the model wants to run, and a place to say what came of it. The page runs nothing itself.
import { el, icon } from "./dom.js";
import { t } from "./i18n.js";

/** Arguments as indented JSON, or as they are while they are still coming in. */
function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** The calls of an answer as cards. */
export function callCards(calls, results) {
  return calls.filter(Boolean).map(call => {
    const result = results?.find(one => one.id === call.id);
    return el("section.call", { "aria-label": t("Tool call {name}", { name: call.name }) },
      el("header", {}, icon("tool"), el("strong", {}, call.name)),
      el("pre", { tabindex: 0, "aria-label": t("Arguments") }, pretty(call.arguments)),
      result && el("div.result", {}, el("span.dim", {}, t("Result")), el("pre", { tabindex: 0, "aria-label": t("Result") }, result.content)));
  });
}

/** A form that asks for the result of every call; `send` gets [{id, content}]. */
export function resultForm(calls, send) {
  const areas = calls.map(call => el("textarea", { rows: 2, spellcheck: false, required: true, "aria-label": t("Result of {name}", { name: call.name }), placeholder: t("Result of {name}", { name: call.name }) }));
  const form = el("form.results", {
    onsubmit: event => {
      event.preventDefault();
      send(calls.map((call, place) => ({ id: call.id, content: areas[place].value })));
    },
  }, areas, el("button.primary", { type: "submit" }, t("Send results")));
  return form;
}

export const EXAMPLE = JSON.stringify([{
  type: "function",
  function: {
    name: "get_weather", description: "Weather of a city now",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
}], null, 2);
