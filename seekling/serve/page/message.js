// How one message looks: the user's words, or an answer with its thinking, calls, figures and what can be done with it.
import { labelled, markWords } from "./about.js";
import { running } from "./answer.js";
import { copyFrom, el, icon, iconButton } from "./dom.js";
import { figureParts } from "./figures.js";
import { number, t } from "./i18n.js";
import { render } from "./markdown.js";
import { tokenView } from "./tokens.js";
import { callCards, resultForm } from "./tools.js";
import { groups } from "./tree.js";
import { summary } from "./answer.js";
import * as store from "./store.js";

/** {element, update()}; `act` are the page's actions (see app.js). */
export function messageView(talk, node, act) {
  return node.role === "user" ? userView(talk, node, act) : node.role === "tool" ? toolView() : answerView(talk, node, act);
}

/** Arrows between the alternatives of a message; null where it is the only one. */
function arrows(talk, node, act) {
  const all = groups(talk, node), at = all.findIndex(group => group.includes(node));
  if (all.length < 2) return null;
  const go = step => act.show(all[at + step][0], step);
  return el("span.arrows", { role: "group", "aria-label": t("Version {n} of {all}", { n: at + 1, all: all.length }) },
    iconButton("left", t("Earlier version"), () => go(-1), { disabled: at === 0 }),
    el("span.count", { "aria-hidden": "true" }, `${at + 1}/${all.length}`),
    iconButton("right", t("Later version"), () => go(1), { disabled: at === all.length - 1 }));
}

// ---- the user's ------------------------------------------------------------------------------------------------------------

function userView(talk, node, act) {
  const element = el("article.message.user", { "aria-label": t("You"), dataset: { id: node.id } });
  const update = () => {
    const copy = iconButton("copy", t("Copy"), () => copyFrom(copy, node.content));
    element.replaceChildren(
      el("div.bubble", { dir: "auto" }, node.content),
      el("div.actions", {}, arrows(talk, node, act), copy, iconButton("edit", t("Edit"), edit)));
  };
  const edit = () => {
    const area = el("textarea", { value: node.content, rows: Math.min(12, node.content.split("\n").length + 1), "aria-label": t("Edit message") });
    const leave = () => {
      update();
      element.querySelector(`[title="${t("Edit")}"]`).focus();
    };
    element.replaceChildren(el("form.edit", {
      onsubmit: event => {
        event.preventDefault();
        if (area.value.trim()) act.edit(node, area.value.trim());
      },
      onkeydown: event => {
        if (event.key === "Escape") {
          event.stopPropagation();
          leave();
        } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
          event.preventDefault();
          event.currentTarget.requestSubmit();
        }
      },
    }, area, el("div.row", {}, el("button", { type: "button", onclick: leave }, t("Cancel")), el("button.primary", { type: "submit" }, t("Send")))));
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  };
  update();
  return { element, update, edit };
}

/** Results of tools are shown with the call they answer. */
const toolView = () => ({ element: el("div", { hidden: true }), update() {} });

// ---- an answer -------------------------------------------------------------------------------------------------------------

function answerView(talk, node, act) {
  const head = el("header.who", {}, el("span.ai-mark", {}, markWords()), el("span.dim.model"));
  const thinking = el("details.thinking", { hidden: true }, el("summary"), el("div.markdown"));
  const body = el("div.markdown.body", { dir: "auto" }), wait = el("p.wait", { role: "img", "aria-label": t("Waiting for the first token") }, el("i"), el("i"), el("i"));
  const calls = el("div.calls"), problem = el("div.problem-place"), foot = el("footer"), tokens = el("div.tokens-place");
  const element = el("article.message.assistant", { "aria-label": t("Answer"), dataset: { id: node.id } }, head, thinking, body, wait, calls, problem, tokens, foot);
  let drawnAs = "";

  function update() {
    const going = running.has(node.id), settings = node.settings ?? {};
    head.lastChild.textContent = [node.model, ...(node.pair ? [summary({ ...settings, model: "" })] : [])].filter(Boolean).join(" · ");
    element.setAttribute("aria-busy", String(going));
    head.hidden = !going && !said();
    think(going);
    if (tokens.hidden || !tokens.firstChild) {
      render(body, node.content);
      body.hidden = !node.content;
    }
    wait.hidden = !going || said();
    const drawn = JSON.stringify([going, node.calls, node.error, node.finish, node.figures && going ? 0 : node.figures, node.recorded, talk.nodes[node.parent].children.length, node.children.length]);
    if (drawn === drawnAs) return; // the rest changes rarely; buttons must not lose the focus for nothing
    drawnAs = drawn;
    calls.replaceChildren(...callsOf(going));
    problem.replaceChildren(...[problemOf(going)].filter(Boolean));
    foot.replaceChildren(...(going ? [] : footOf()));
  }

  const said = () => Boolean(node.content || node.reasoning || node.calls?.length);

  function think(going) {
    thinking.hidden = !node.reasoning;
    if (!node.reasoning) return;
    const busy = going && !node.content, seconds = number(node.figures?.thought ?? 0, 1);
    thinking.firstChild.textContent = busy ? t("Thinking… {n} s", { n: seconds }) : t("Thought for {n} s", { n: seconds });
    thinking.classList.toggle("busy", busy);
    render(thinking.lastChild, node.reasoning);
  }

  function callsOf(going) {
    const asked = (node.calls ?? []).filter(Boolean), next = talk.nodes[node.children[node.pick]];
    const answered = next?.role === "tool" ? next.results : null;
    const cards = callCards(asked, answered);
    return asked.length && !answered && !going && !node.error ? [...cards, resultForm(asked, results => act.results(node, results))] : cards;
  }

  function problemOf(going) {
    const unfinished = !going && node.finish === null;
    if (node.finish === "content_filter") return el("p.notice", { role: "status" }, t("The server's content filter ended this answer."));
    if (!node.error && !unfinished) return null;
    const error = node.error ?? { kind: "cut", message: t("This answer was cut off when the page closed."), wait: 0 };
    return problemCard(error, () => act.again(node), act.askKey);
  }

  function footOf() {
    const arrow = arrows(talk, node, act);
    if (!said()) return arrow ? [el("div.actions", {}, arrow)] : [];
    const parts = figureParts(node.figures).map(([text, hint]) => el("span", { title: hint }, text));
    const why = { stopped: t("stopped"), length: t("ended by the token limit") }[node.finish];
    if (why) parts.push(el("span", {}, why));
    const copy = iconButton("copy", t("Copy answer"), () => copyFrom(copy, labelled(node.content)));
    const canGoOn = ["length", "stopped"].includes(node.finish) && node.content && !node.calls?.length && !node.children.length;
    const tokenButton = node.recorded && iconButton("tokens", t("Tokens and probabilities"), toggleTokens, { "aria-pressed": String(Boolean(tokens.firstChild)) });
    return [
      el("div.actions", {}, arrow, copy, iconButton("again", t("Answer again"), () => act.again(node)),
        canGoOn && iconButton("play", t("Go on with this answer"), () => act.goOn(node)), tokenButton),
      el("div.figures.dim", {}, parts),
    ];
  }

  async function toggleTokens(event) {
    const button = event.currentTarget;
    if (tokens.firstChild) tokens.replaceChildren();
    else tokens.replaceChildren(tokenView(await store.getTokens(node.id), act.card(node.model)));
    body.hidden = Boolean(tokens.firstChild) || !node.content;
    button.setAttribute("aria-pressed", String(Boolean(tokens.firstChild)));
    if (!tokens.firstChild) render(body, node.content);
  }

  update();
  return { element, update };
}

/** The server's words, and a way to try again; a 429 or 503 that names a time counts it down. */
function problemCard(error, again, askKey) {
  const retry = el("button", { type: "button", onclick: again }, icon("again"), el("span", {}, t("Try again")));
  const title = error.status === 429 ? t("Too many requests") : error.status === 503 ? t("The server is busy") : error.kind === "offline" ? t("No connection") : error.status ? t("Refused ({status})", { status: error.status }) : t("Something went wrong");
  const card = el("div.problem", { role: "alert" }, el("div", {}, el("strong", {}, title), el("p", {}, error.message)),
    el("div.row", {}, error.status === 401 && el("button", { type: "button", onclick: askKey }, t("Enter a key")), retry));
  if (error.wait > 0) {
    const until = Date.now() + 1000 * error.wait, words = retry.lastChild;
    const tick = () => {
      const left = Math.ceil((until - Date.now()) / 1000);
      retry.disabled = left > 0;
      words.textContent = left > 0 ? t("Try again in {n} s", { n: left }) : t("Try again");
      if (left > 0) setTimeout(tick, 250);
    };
    tick();
  }
  return card;
}
