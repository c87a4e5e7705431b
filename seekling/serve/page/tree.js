// A conversation is a tree of messages: editing or asking again adds a branch, nothing is overwritten. Pure data.
//
// talk = {id, title, created, changed, settings, compare, nodes: {id: node}}; the node "root" holds no message.
// node = {id, parent, children: [ids], pick: index of the child that is shown, role: user | assistant | tool, at, …}
//   user: content; tool: results [{id, content}]; assistant: content, reasoning, calls, finish, error, figures, settings, pair

export const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(9)), byte => byte.toString(36).padStart(2, "0")).join("");

export function newTalk(settings) {
  const now = Date.now();
  const root = { id: "root", parent: null, children: [], pick: 0, role: "root" };
  return { id: newId(), title: "", created: now, changed: now, settings: structuredClone(settings), compare: null, nodes: { root } };
}

/** Add a message below another and show it. */
export function add(talk, parent, message) {
  const node = { id: newId(), parent, children: [], pick: 0, at: Date.now(), ...message };
  talk.nodes[node.id] = node;
  const above = talk.nodes[parent];
  above.children.push(node.id);
  above.pick = above.children.length - 1;
  talk.changed = Date.now();
  return node;
}

/** The messages that are shown, first to last. */
export function path(talk) {
  const out = [];
  for (let at = talk.nodes.root; at.children.length;) {
    at = talk.nodes[at.children[Math.min(at.pick, at.children.length - 1)]];
    out.push(at);
  }
  return out;
}

/** The messages from the first one to this one. */
export function lineage(talk, id) {
  const out = [];
  for (let at = talk.nodes[id]; at && at.id !== "root"; at = talk.nodes[at.parent]) out.unshift(at);
  return out;
}

/** The alternatives of a message in groups: two answers that are compared stand together. */
export function groups(talk, node) {
  const out = [];
  for (const id of talk.nodes[node.parent].children) {
    const one = talk.nodes[id], last = out.at(-1);
    if (one.pair && last && last[0].pair === one.pair) last.push(one);
    else out.push([one]);
  }
  return out;
}

/** Show this message among its alternatives. */
export function choose(talk, node) {
  const above = talk.nodes[node.parent];
  above.pick = above.children.indexOf(node.id);
}

/** Where the next message goes: the last one shown. */
export const tip = talk => path(talk).at(-1)?.id ?? "root";

/** The messages as the API takes them, up to and including a node. */
export function messages(talk, id, system) {
  const out = system ? [{ role: "system", content: system }] : [];
  for (const node of id === "root" ? [] : lineage(talk, id)) {
    if (node.role === "tool") {
      for (const result of node.results) out.push({ role: "tool", tool_call_id: result.id, content: result.content });
    } else if (node.role === "user") out.push({ role: "user", content: node.content });
    else if (node.calls?.length) {
      const calls = node.calls.map(call => ({ id: call.id, type: "function", function: { name: call.name, arguments: call.arguments } }));
      out.push({ role: "assistant", content: node.content || null, tool_calls: calls, ...(node.reasoning && { reasoning_content: node.reasoning }) });
    } else if (node.content) out.push({ role: "assistant", content: node.content });
  }
  return out;
}

/** A title from the first words of the first message. */
export function titleFrom(text) {
  const line = text.trim().split(/\s+/).join(" ");
  return line.length > 60 ? `${[...line].slice(0, 57).join("")}…` : line;
}

/** All text of a talk, for the search. */
export function textOf(talk) {
  return [talk.title, ...Object.values(talk.nodes).map(node => node.content ?? "")].join("\n").toLowerCase();
}
