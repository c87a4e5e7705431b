// Elements by function call. Text becomes text nodes and never markup: nothing here, or anywhere in the page, parses HTML.

const SVG = "http://www.w3.org/2000/svg";

/** el("p.note", {id: "x", onclick: f, hidden: true}, "text", node, …); null and false children are left out. */
export function el(name, props = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const node = document.createElement(tag);
  if (classes.length) node.className = classes.join(" ");
  for (const [key, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "dataset") Object.assign(node.dataset, value);
    else if (key in node && !key.includes("-") && key !== "list" && key !== "form" && key !== "role") node[key] = value;
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter(child => child !== null && child !== undefined && child !== false));
  return node;
}

// Shapes on a grid of 24, drawn with a line of 1.75.
const SHAPES = {
  menu: "M4 7h16M4 12h16M4 17h16",
  plus: "M12 5v14M5 12h14",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  settings: "M3.5 7.5h8.5M17 7.5h3.5M3.5 16.5H7M12 16.5h8.5M14.5 5a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5zM9.5 14a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5z",
  compare: "M3.5 5h7v14h-7zM13.5 5h7v14h-7z",
  copy: "M9 9h10v11H9zM15 9V4H5v11h4",
  check: "M5 13l4.5 4.5L19 7",
  edit: "M5 19l1-4L16 5l3 3L9 18zM14 7l3 3",
  again: "M19 12a7 7 0 1 1-2.2-5.1M19 4v4h-4",
  left: "M14 6l-6 6 6 6",
  right: "M10 6l6 6-6 6",
  down: "M12 5v14M6 13l6 6 6-6",
  tokens: "M4 6h5v5H4zM11 6h9v5h-9zM4 13h9v5H4zM15 13h5v5h-5z",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  export: "M12 4v11M7 11l5 4.5 5-4.5M5 20h14",
  import: "M12 15V4M7 8.5L12 4l5 4.5M5 20h14",
  close: "M6 6l12 12M18 6L6 18",
  more: "M12 6v.01M12 12v.01M12 18v.01",
  play: "M8 5l10 7-10 7z",
  tool: "M14.5 5.5a4 4 0 0 0 4.6 5.2L11 18.8a2.3 2.3 0 0 1-3.2-3.2l8-8.1z",
  search: "M11 5a6 6 0 1 0 0 12 6 6 0 0 0 0-12zM15.5 15.5L20 20",
  keyboard: "M3 7h18v10H3zM7 11v.01M11 11v.01M15 11v.01M8 14h8",
};

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg"), path = document.createElementNS(SVG, "path");
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", width: 19, height: 19, "aria-hidden": "true" })) svg.setAttribute(key, value);
  svg.classList.add("icon");
  path.setAttribute("d", SHAPES[name]);
  svg.append(path);
  return svg;
}

/** A button that shows an icon only; its name is read out and shown as a tooltip. */
export function iconButton(shape, label, onclick, more = {}) {
  return el("button.icon-button", { type: "button", title: label, "aria-label": label, onclick, ...more }, icon(shape));
}

/** Tell people who do not look: one polite live region for the whole page. */
export function announce(text) {
  document.getElementById("status").textContent = text;
}

/** Put text on the clipboard and show on the button that it is there. */
export async function copyFrom(button, text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = el("textarea.unseen", { value: text }); // pages served without TLS have no clipboard
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const before = [...button.childNodes];
  button.replaceChildren(icon("check"));
  setTimeout(() => button.replaceChildren(...before), 1200);
}
