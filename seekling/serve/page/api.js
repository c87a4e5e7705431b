// Requests to the server that this page came from, and what can go wrong with them as one kind of error.
import { t } from "./i18n.js";
import { key } from "./prefs.js";

/** kind: "offline" (nobody answered), "cut" (the answer broke off), "http" (refused; `message` has the server's words). */
export class Failure extends Error {
  constructor(kind, message, { status = 0, code = null, wait = 0 } = {}) {
    super(message);
    Object.assign(this, { kind, status, code, wait });
  }

  /** As it is kept with an answer. */
  record() {
    return { kind: this.kind, message: this.message, status: this.status, code: this.code, wait: this.wait };
  }
}

/** GET, or POST where there is a body. Paths are relative, so that the page also works below a proxy's prefix. */
export async function request(path, { body, signal } = {}) {
  const headers = { Accept: "application/json, text/event-stream" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key()) headers.Authorization = `Bearer ${key()}`;
  let response;
  try {
    response = await fetch(path, { method: body === undefined ? "GET" : "POST", headers, body: body && JSON.stringify(body), signal, cache: "no-store" });
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new Failure("offline", t("The server cannot be reached."));
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch { /* a proxy's page, say */ }
  const message = typeof error === "string" ? error : error.message;
  return new Failure("http", message || `HTTP ${response.status} ${response.statusText}`, {
    status: response.status, code: error.code ?? null, wait: Number(response.headers.get("retry-after")) || 0,
  });
}

/** What a thrown value says, as a Failure. */
export function asFailure(problem) {
  if (problem instanceof Failure) return problem;
  if (problem.name === "Cut" || problem instanceof TypeError) return new Failure("cut", t("The connection broke before the answer was complete."));
  return new Failure("cut", problem.message);
}
