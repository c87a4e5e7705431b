// The conversation on screen: the messages of the chosen path, kept at its end while an answer grows unless the reader scrolled.
import { el } from "./dom.js";
import { t } from "./i18n.js";
import { messageView } from "./message.js";
import { choose, groups, path } from "./tree.js";

export class TalkView {
  /** @param scroller the element that scrolls; `act` the page's actions. */
  constructor(scroller, turns, down, act) {
    Object.assign(this, { scroller, turns, down, act, talk: null, views: new Map(), waiting: new Set(), stuck: true });
    scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    new ResizeObserver(() => this.#follow()).observe(turns);
    down.addEventListener("click", () => this.toEnd());
  }

  /** Show a talk, or show it anew after its path changed. */
  show(talk) {
    if (talk !== this.talk) this.views.clear();
    this.talk = talk;
    const seen = new Set(), rows = [];
    for (const node of path(talk)) {
      const group = groups(talk, node).find(one => one.includes(node));
      rows.push(group.length > 1 ? this.#pair(group, node, seen) : this.#view(node, seen).element);
    }
    for (const id of this.views.keys()) if (!seen.has(id)) this.views.delete(id);
    this.turns.replaceChildren(...rows);
  }

  /** A message changed: drawn at the next frame, however often this is called until then. */
  update(node) {
    if (!this.waiting.size) requestAnimationFrame(() => this.#draw());
    this.waiting.add(node.id);
  }

  /** Open the editor of a message. */
  edit(node) {
    this.views.get(node.id)?.edit();
  }

  toEnd() {
    this.stuck = true;
    this.#follow();
  }

  #view(node, seen) {
    seen.add(node.id);
    const view = this.views.get(node.id) ?? messageView(this.talk, node, this.act);
    this.views.set(node.id, view);
    view.update();
    return view;
  }

  /** Two answers side by side; what is asked next goes on from the chosen one. */
  #pair(group, shown, seen) {
    return el("div.pair", { role: "group", "aria-label": t("Two answers to compare") }, group.map((node, place) => {
      const chosen = node === shown, button = el("button.choose", {
        type: "button", "aria-pressed": String(chosen),
        onclick: () => {
          choose(this.talk, node);
          this.act.changed();
        },
      }, chosen ? t("Goes on from here") : t("Go on from this one"));
      return el(chosen ? "div.side.chosen" : "div.side", {}, el("div.side-head", {}, el("span.letter", {}, "AB"[place] ?? String(place + 1)), button), this.#view(node, seen).element);
    }));
  }

  #draw() {
    for (const id of this.waiting) this.views.get(id)?.update();
    this.waiting.clear();
  }

  #scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    this.stuck = scrollHeight - scrollTop - clientHeight < 60;
    this.down.hidden = this.stuck;
  }

  #follow() {
    if (this.stuck) this.scroller.scrollTop = this.scroller.scrollHeight;
    else this.#scrolled();
  }
}
