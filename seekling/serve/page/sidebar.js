// The list of conversations: newest first by day, searched by every word of their text, deleted with a way back.
import { el, iconButton } from "./dom.js";
import { t } from "./i18n.js";
import { textOf } from "./tree.js";

const DAY = 86400e3;

export class Sidebar {
  /** @param act {open(id), remove(talk), download(talk)} */
  constructor(list, search, act) {
    Object.assign(this, { list, search, act, talks: [], current: null });
    search.addEventListener("input", () => this.draw());
    search.addEventListener("keydown", event => {
      if (event.key === "Escape" && search.value) {
        event.stopPropagation();
        search.value = "";
        this.draw();
      }
    });
  }

  show(talks, current) {
    Object.assign(this, { talks, current });
    this.draw();
  }

  draw() {
    const wanted = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = wanted.length ? this.talks.filter(talk => {
      const text = textOf(talk);
      return wanted.every(word => text.includes(word));
    }) : this.talks;
    const rows = [];
    let period = null;
    for (const talk of found) {
      const now = periodOf(talk.changed);
      if (now !== period) rows.push(el("li.period", {}, period = now));
      rows.push(this.#row(talk));
    }
    if (!found.length) rows.push(el("li.none.dim", {}, wanted.length ? t("Nothing found") : t("Conversations will be listed here.")));
    this.list.replaceChildren(...rows);
  }

  #row(talk) {
    const here = talk.id === this.current, title = talk.title || t("New conversation");
    return el(here ? "li.talk.here" : "li.talk", {},
      el("button.title", { type: "button", title, "aria-current": here ? "page" : null, onclick: () => this.act.open(talk.id) }, title),
      iconButton("trash", t("Delete “{title}”", { title }), () => this.act.remove(talk)));
  }
}

function periodOf(time) {
  const today = new Date().setHours(0, 0, 0, 0);
  if (time >= today) return t("Today");
  if (time >= today - DAY) return t("Yesterday");
  if (time >= today - 7 * DAY) return t("Last 7 days");
  return t("Earlier");
}
