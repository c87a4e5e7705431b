// The page: what is open, and what happens on every action. The parts that draw are in the other files.
import { announce, el } from "./dom.js";
import { learn, markWords, server } from "./about.js";
import { begin, goOn, running, stop } from "./answer.js";
import { asJson, asMarkdown, download, fileName, takeIn } from "./export.js";
import { $, floats, focus, furnish, grow, narrow, panelOpen, setPanel, setSide, sideOpen } from "./frame.js";
import { t } from "./i18n.js";
import { listen } from "./keys.js";
import { prefs, save, showTheme } from "./prefs.js";
import { drawSettings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { TalkView } from "./talk.js";
import { toast } from "./toast.js";
import { add, choose, newId, newTalk, path, tip, titleFrom } from "./tree.js";
import * as store from "./store.js";

const live = new Map(); // talks with answers on their way, also such as are not shown
const deleted = new Set(); // their last answers must not bring them back
const state = { talk: newTalk(prefs.settings), side: "A" };

// ---- talks -----------------------------------------------------------------------------------------------------------------

async function list() {
  sidebar.show(await store.all(), state.talk.id);
}

async function keep() {
  if (state.talk.nodes.root.children.length) await store.put(state.talk);
  await list();
}

function show(talk) {
  state.talk = talk;
  state.side = "A";
  history.replaceState(null, "", talk.nodes.root.children.length ? `#${talk.id}` : location.pathname + location.search);
  redraw();
  talkView.toEnd();
  list();
}

function redraw() {
  const { talk } = state, empty = !talk.nodes.root.children.length;
  talkView.show(talk);
  $("welcome").hidden = !empty;
  $("title").value = talk.title;
  $("title").hidden = empty;
  document.title = talk.title ? `${talk.title} · Seekling` : "Seekling";
  $("compare").setAttribute("aria-pressed", String(talk.compare !== null));
  drawModel();
  drawBusy();
}

const named = settings => settings.model || (server.models[0]?.id ?? "");

function drawModel() {
  const { settings, compare } = state.talk;
  $("model").textContent = [...new Set([settings, ...(compare ? [compare] : [])].map(named))].join(" · ");
}

function fresh() {
  show(newTalk(prefs.settings));
  if (narrow.matches) setSide(false);
  focus();
}

async function open(id) {
  const talk = live.get(id) ?? await store.get(id);
  if (talk) show(talk);
  if (narrow.matches) setSide(false);
}

/** Delete a talk; returns what brings it back. */
async function take(talk) {
  deleted.add(talk.id);
  for (const id of Object.keys(talk.nodes)) stop(id);
  const tokens = await Promise.all(Object.values(talk.nodes).filter(node => node.recorded).map(async node => [node.id, await store.getTokens(node.id)]));
  await store.remove(talk.id);
  return async () => {
    deleted.delete(talk.id);
    await store.put(talk);
    for (const [id, of] of tokens) await store.putTokens(id, talk.id, of);
  };
}

async function remove(talk) {
  const back = await take(live.get(talk.id) ?? talk);
  if (talk.id === state.talk.id) fresh();
  else await list();
  toast(t("Conversation deleted"), [t("Undo"), async () => {
    await back();
    await open(talk.id);
  }]);
}

// ---- answers ---------------------------------------------------------------------------------------------------------------

function changed(talk, node) {
  if (talk === state.talk) talkView.update(node);
  if (running.has(node.id)) {
    live.set(talk.id, talk);
    return;
  }
  if (!Object.keys(talk.nodes).some(id => running.has(id))) live.delete(talk.id);
  if (!deleted.has(talk.id)) store.put(talk).then(list);
  if (talk === state.talk) {
    drawBusy();
    const bad = node.error;
    announce(bad ? bad.message : t("The answer is complete."));
    if (bad?.status === 401) askKey();
    if (bad?.kind === "offline" || (!bad && !$("banner").hidden)) connect();
  }
}

/** One answer below a message, or two while comparing. */
function answer(parent) {
  const { talk } = state, told = node => changed(talk, node);
  if (talk.compare) {
    const pair = newId(), first = begin(talk, parent, talk.settings, told, { pair });
    begin(talk, parent, talk.compare, told, { pair });
    choose(talk, first);
  } else begin(talk, parent, talk.settings, told);
  afterChange();
}

function afterChange() {
  redraw();
  history.replaceState(null, "", `#${state.talk.id}`);
  talkView.toEnd();
  focus();
  keep();
}

function send(text) {
  const { talk } = state;
  if (!talk.title) talk.title = titleFrom(text);
  answer(add(talk, tip(talk), { role: "user", content: text }).id);
}

const busy = () => path(state.talk).flatMap(node => state.talk.nodes[node.parent].children).filter(id => running.has(id));

function stopAll() {
  const all = busy();
  all.forEach(stop);
  return all.length > 0;
}

const act = {
  show(node, step) {
    choose(state.talk, node);
    act.changed();
    const [before, after] = document.querySelectorAll(`[data-id="${node.id}"] .arrows button`);
    (step > 0 ? (after.disabled ? before : after) : before.disabled ? after : before).focus();
  },
  changed() {
    redraw();
    keep();
  },
  edit(node, text) {
    answer(add(state.talk, node.parent, { role: "user", content: text }).id);
  },
  again(node) {
    const { talk } = state, again = { ...talk.settings, ...(node.pair && node.settings), system: talk.settings.system };
    begin(talk, node.parent, again, one => changed(talk, one));
    afterChange();
  },
  goOn(node) {
    const { talk } = state;
    goOn(talk, node, { ...talk.settings, ...node.settings, system: talk.settings.system }, one => changed(talk, one));
    drawBusy();
  },
  results: (node, results) => answer(add(state.talk, node.id, { role: "tool", results }).id),
  card: name => server.models.find(model => model.id === name) ?? server.models[0],
  askKey,
};

// ---- the frame -------------------------------------------------------------------------------------------------------------

function drawBusy() {
  const going = busy().length > 0;
  $("send").hidden = going;
  $("stop").hidden = !going;
}

function panel() {
  drawSettings($("settings"), state, {
    settingsChanged() {
      if (state.side === "A") save({ settings: structuredClone(state.talk.settings) });
      drawModel();
      keep();
    },
    side(side) {
      state.side = side;
      panel();
    },
    redraw: () => {
      talkView.views.clear();
      redraw();
    },
    keyChanged: connect,
    exportTalk: async kind => (kind === "md" ? download(fileName(state.talk.title, "md"), "text/markdown", asMarkdown(state.talk)) : download(fileName(state.talk.title, "json"), "application/json", await asJson([state.talk]))),
    exportAll: async () => download("seekling.json", "application/json", await asJson(await store.all())),
    async importFile(file) {
      try {
        const talks = await takeIn(await file.text());
        toast(t("{n} conversations imported", { n: talks.length }));
        if (talks[0]) show(talks[0]);
        else await list();
      } catch (problem) {
        toast(problem.message);
      }
    },
    async clear() {
      const back = [];
      for (const talk of await store.all()) back.push(await take(live.get(talk.id) ?? talk));
      fresh();
      toast(t("{n} conversations deleted", { n: back.length }), [t("Undo"), async () => {
        for (const put of back) await put();
        await list();
      }]);
    },
  });
}

function compare() {
  const { talk } = state;
  const other = server.models.find(model => model.root !== act.card(named(talk.settings)).root);
  talk.compare = talk.compare ? null : { ...structuredClone(talk.settings), ...(other && { model: other.id }) };
  state.side = talk.compare ? "B" : "A";
  redraw();
  if (talk.compare) {
    setPanel(true, panel);
    toast(t("The next message gets two answers. Set what differs in B."));
  } else if (panelOpen()) panel();
  keep();
}

function askKey() {
  setPanel(true, panel);
  const field = $("key");
  field.closest("details").open = true;
  field.focus();
}

function escape() {
  if (document.querySelector("dialog[open]")) return false;
  if (stopAll()) return true;
  if (panelOpen()) {
    setPanel(false);
    $("open-settings").focus();
  } else if (narrow.matches && sideOpen()) {
    setSide(false);
    $("menu").focus();
  } else return false;
  return true;
}

// ---- the server ------------------------------------------------------------------------------------------------------------

let retry = 0;

/** Learn what is served; while that fails a line says why, and it is tried again. */
async function connect() {
  clearTimeout(retry);
  try {
    const before = markWords();
    await learn();
    $("banner").hidden = true;
    drawModel();
    if (markWords() !== before) {
      $("mark").textContent = `${markWords()} · ${t("Answers are AI-generated and may be wrong.")}`;
      talkView.views.clear(); // what was drawn bears other words
      redraw();
    }
    if (panelOpen()) panel();
  } catch (problem) {
    $("banner").replaceChildren(el("span", {}, problem.message), el("button", { type: "button", onclick: problem.status === 401 ? askKey : connect }, problem.status === 401 ? t("Enter a key") : t("Try again")));
    $("banner").hidden = false;
    if (problem.kind === "offline") retry = setTimeout(connect, 4000);
  }
}

// ---- begin -----------------------------------------------------------------------------------------------------------------

function wire() {
  furnish();
  for (const words of ["Explain what a mixture of experts is, to a child.", "Write a haiku about a small seed.", "What can I cook from rice and two eggs?"]) {
    $("ideas").append(el("button", { type: "button", onclick: () => send(t(words)) }, t(words)));
  }
  const box = $("text");
  $("ask").addEventListener("submit", event => {
    event.preventDefault();
    const text = box.value.trim();
    if (!text || busy().length) return;
    box.value = "";
    grow();
    send(text);
  });
  box.addEventListener("input", grow);
  box.addEventListener("keydown", event => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      $("ask").requestSubmit();
    } else if (event.key === "ArrowUp" && !box.value) {
      const last = path(state.talk).findLast(node => node.role === "user");
      if (!last || busy().length) return;
      event.preventDefault();
      talkView.edit(last);
    }
  });
  $("stop").addEventListener("click", () => {
    stopAll();
    focus();
  });
  $("fresh").addEventListener("click", fresh);
  $("menu").addEventListener("click", () => setSide(!sideOpen()));
  $("open-settings").addEventListener("click", () => {
    setPanel(!panelOpen(), panel);
    if (panelOpen() && floats.matches) $("close-settings").focus();
  });
  $("close-settings").addEventListener("click", () => {
    setPanel(false);
    $("open-settings").focus();
  });
  $("compare").addEventListener("click", compare);
  $("shade").addEventListener("click", () => {
    setPanel(false);
    if (narrow.matches) setSide(false);
  });
  $("title").addEventListener("change", () => {
    state.talk.title = $("title").value.trim();
    redraw();
    keep();
  });
  listen({
    focus: () => $("text").focus(), fresh, escape,
    settings: () => setPanel(!panelOpen(), panel),
    search() {
      setSide(true);
      $("search").focus();
      $("search").select();
    },
  });
  addEventListener("hashchange", () => open(location.hash.slice(1)));
  addEventListener("pagehide", () => live.forEach(talk => store.put(talk)));
  store.onOthers(async id => {
    if (id === state.talk.id && !busy().length) {
      const talk = await store.get(id);
      if (talk) {
        state.talk = talk;
        redraw();
      } else fresh();
    }
    list();
  });
}

showTheme();
const talkView = new TalkView($("talk"), $("turns"), $("to-end"), act);
const sidebar = new Sidebar($("talks"), $("search"), { open, remove });
wire();
setPanel(prefs.panel && !floats.matches, panel);
await store.open();
if (!store.lasting) toast(t("This browser window keeps no history: conversations last as long as the page."));
const asked = location.hash.slice(1) && await store.get(location.hash.slice(1));
show(asked || state.talk);
focus();
await connect();
