// Conversations in the browser's own database; what the tokens of an answer were lies beside them, since few ever look at it.
// Where there is no database (some private windows) everything lives as long as the page, and `lasting` says so.

const NAME = "seekling";
let database = null;
const memory = { talks: new Map(), tokens: new Map() };
export let lasting = true;

/** Tells other tabs that a talk was changed or deleted. */
const others = "BroadcastChannel" in window ? new BroadcastChannel(NAME) : null;

export async function open() {
  try {
    database = await new Promise((resolve, reject) => {
      const asked = indexedDB.open(NAME, 1);
      asked.onupgradeneeded = () => {
        asked.result.createObjectStore("talks", { keyPath: "id" });
        asked.result.createObjectStore("tokens", { keyPath: "id" }).createIndex("talk", "talk");
      };
      asked.onsuccess = () => resolve(asked.result);
      asked.onerror = asked.onblocked = () => reject(asked.error);
    });
  } catch {
    lasting = false;
  }
}

/** Called with a talk's id when another tab changed it. */
export const onOthers = heard => others && (others.onmessage = event => heard(event.data));

function run(name, mode, work) {
  return new Promise((resolve, reject) => {
    const deal = database.transaction(name, mode), asked = work(deal.objectStore(name));
    deal.oncomplete = () => resolve(asked?.result);
    deal.onerror = deal.onabort = () => reject(deal.error);
  });
}

/** Every talk, newest first. */
export async function all() {
  const talks = database ? await run("talks", "readonly", store => store.getAll()) : [...memory.talks.values()];
  return talks.sort((a, b) => b.changed - a.changed);
}

export const get = async id => (database ? run("talks", "readonly", store => store.get(id)) : memory.talks.get(id));

export async function put(talk) {
  if (database) await run("talks", "readwrite", store => store.put(talk));
  else memory.talks.set(talk.id, talk);
  others?.postMessage(talk.id);
}

export async function remove(id) {
  if (!database) {
    memory.talks.delete(id);
    return;
  }
  await run("talks", "readwrite", store => store.delete(id));
  await run("tokens", "readwrite", store => {
    store.index("talk").openKeyCursor(IDBKeyRange.only(id)).onsuccess = event => {
      const cursor = event.target.result;
      if (!cursor) return;
      store.delete(cursor.primaryKey);
      cursor.continue();
    };
  });
  others?.postMessage(id);
}

/** The tokens of one answer (see tokens.js). */
export async function putTokens(id, talk, tokens) {
  if (database) await run("tokens", "readwrite", store => store.put({ id, talk, tokens }));
  else memory.tokens.set(id, tokens);
}

export async function getTokens(id) {
  if (!database) return memory.tokens.get(id) ?? [];
  return (await run("tokens", "readonly", store => store.get(id)))?.tokens ?? [];
}
