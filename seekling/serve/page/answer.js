// One answer from request to end: what is sent, what comes in, when, and how it ended. Knows nothing of how it looks.
import { standard } from "./about.js";
import { Failure, asFailure, request } from "./api.js";
import { SETTINGS } from "./prefs.js";
import { events } from "./stream.js";
import { add, messages } from "./tree.js";
import { t } from "./i18n.js";
import * as store from "./store.js";

/** Answers on their way: node id -> AbortController. */
export const running = new Map();

/** Where a server that labels puts its mark, by whose rules: China's, the EU's. */
export const MARKS = ["AIGC", "ai_generated"];

const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "max_tokens", "seed"];

/** The fields of a chat request that these settings ask for. Throws a Failure where a field's JSON is broken. */
export function fields(settings) {
  const out = { stream: true, stream_options: { include_usage: true } };
  const model = settings.model || standard();
  if (model) out.model = model;
  for (const name of NUMBERS) if (settings[name] !== null) out[name] = settings[name];
  const stop = settings.stop.split("\n").filter(Boolean);
  if (stop.length) out.stop = stop;
  if (settings.thinking !== "auto") out.thinking = { type: settings.thinking };
  if (settings.effort && settings.thinking !== "disabled") out.reasoning_effort = settings.effort;
  const tools = parsed(settings.tools, t("Tools"));
  if (tools) Object.assign(out, { tools, tool_choice: settings.tool_choice });
  const schema = parsed(settings.json, t("JSON schema of the answer"));
  if (schema) out.response_format = { type: "json_schema", json_schema: { name: "answer", schema } };
  if (settings.tokens || settings.experts) Object.assign(out, { logprobs: true, top_logprobs: settings.top });
  if (settings.experts) out.return_experts = true;
  return out;
}

function parsed(text, name) {
  if (!text.trim()) return null;
  try {
    return JSON.parse(text);
  } catch (problem) {
    throw new Failure("local", `${name}: ${problem.message}`);
  }
}

/** What differs from the server's defaults, for people: "temperature 0.2 · …". */
export function summary(settings) {
  const said = NUMBERS.filter(name => settings[name] !== null && settings[name] !== SETTINGS[name]).map(name => `${name} ${settings[name]}`);
  return [settings.model, ...said].filter(Boolean).join(" · ");
}

/** Begin an answer below a message. `changed(node)` is called whenever something came in, and a last time at the end. */
export function begin(talk, parent, settings, changed, more = {}) {
  const used = { ...settings, system: undefined };
  const node = add(talk, parent, { role: "assistant", content: "", reasoning: "", calls: [], finish: null, error: null, figures: null, settings: used, ...more });
  run(talk, node, settings, changed);
  return node;
}

/** Let an answer that was cut short go on where it ended (DeepSeek's prefix completion). */
export function goOn(talk, node, settings, changed) {
  Object.assign(node, { finish: null, error: null });
  run(talk, node, settings, changed, true);
}

export const stop = id => running.get(id)?.abort();

async function run(talk, node, settings, changed, continued = false) {
  const control = new AbortController(), clock = new Clock(continued ? node.figures : null), tokens = continued ? await store.getTokens(node.id) : [];
  running.set(node.id, control);
  changed(node);
  try {
    const sent = messages(talk, node.parent, settings.system.trim());
    if (continued) sent.push({ role: "assistant", content: node.content, prefix: true, ...(node.reasoning && { reasoning_content: node.reasoning }) });
    const body = { ...fields(settings), messages: sent };
    const response = await request("v1/chat/completions", { body, signal: control.signal });
    for await (const event of events(response)) {
      if (event.error) throw new Failure("http", event.error.message ?? String(event.error), { status: event.error.status ?? 0, code: event.error.code });
      take(node, event, clock, tokens);
      node.figures = clock.figures();
      changed(node);
    }
    node.finish ??= "stop";
  } catch (problem) {
    if (problem.name === "AbortError") node.finish = "stopped";
    else {
      node.error = asFailure(problem).record();
      node.finish = "error";
    }
  }
  node.figures = clock.figures();
  running.delete(node.id);
  if (tokens.length) {
    node.recorded = { tokens: tokens.length, experts: tokens.some(token => token.x) };
    await store.putTokens(node.id, talk.id, tokens);
  }
  talk.changed = Date.now();
  changed(node);
}

function take(node, event, clock, tokens) {
  if (event.model) node.model = event.model;
  if (event.usage) clock.usage = event.usage;
  if (event.timings) clock.rate = event.timings.predicted_per_second ?? null;
  for (const name of MARKS) if (event[name]) node.label = { [name]: event[name] };
  const choice = event.choices?.[0];
  if (!choice) return;
  const delta = choice.delta ?? {};
  const said = delta.content || delta.reasoning_content || delta.tool_calls;
  if (said) clock.tick(Boolean(delta.content || delta.tool_calls));
  if (delta.content) node.content += delta.content;
  if (delta.reasoning_content) node.reasoning += delta.reasoning_content;
  for (const part of delta.tool_calls ?? []) {
    const call = (node.calls[part.index] ??= { id: part.id, name: "", arguments: "" });
    call.name += part.function?.name ?? "";
    call.arguments += part.function?.arguments ?? "";
  }
  for (const entry of choice.logprobs?.content ?? []) tokens.push(kept(entry));
  if (choice.finish_reason) node.finish = choice.finish_reason;
}

/** A token as it is kept: t text, b bytes, p log-probability, a alternatives [text, bytes, log-probability], x experts. */
const kept = entry => ({
  t: entry.token, b: entry.bytes, p: entry.logprob,
  a: entry.top_logprobs.map(other => [other.token, other.bytes, other.logprob]),
  ...(entry.experts && { x: entry.experts.map(layer => [layer.layer, layer.experts, layer.weights]) }),
});

/**
 * Times of an answer. Seconds to the first token, of thinking, in all; the rate of what came after the first is the server's.
 * Of a server that tells none it is counted here, and null where pieces came in a few lumps: a busy browser reads late.
 */
class Clock {
  constructor(before) {
    this.before = before;
    this.asked = performance.now();
    this.first = this.last = this.answered = 0;
    this.pieces = this.lumps = 0;
    this.usage = null;
    this.rate = undefined;
  }

  tick(answering) {
    const now = performance.now();
    if (now - this.last > 1) this.lumps++;
    this.last = now;
    this.first ||= now;
    if (answering) this.answered ||= this.last;
    this.pieces++;
  }

  /** null until something came. `about` says that tokens are counted by pieces, since the server's count never arrived. */
  figures() {
    if (!this.first && !this.usage) return this.before;
    const { before, usage } = this, seconds = (this.last - this.first) / 1000, made = usage?.completion_tokens ?? this.pieces;
    const now = {
      tokens: made, about: !usage,
      prompt: usage?.prompt_tokens ?? null, cached: usage?.prompt_cache_hit_tokens ?? usage?.prompt_tokens_details?.cached_tokens ?? null,
      reasoning: usage?.completion_tokens_details?.reasoning_tokens ?? 0,
      wait: (this.first - this.asked) / 1000, seconds: (performance.now() - this.asked) / 1000,
      rate: this.rate !== undefined ? this.rate : made > 1 && seconds > 0 && this.lumps > Math.min(8, made / 4) ? (made - 1) / seconds : null,
      thought: ((this.answered || this.last) - this.first) / 1000,
    };
    return before ? { ...now, tokens: before.tokens + now.tokens, seconds: before.seconds + now.seconds, thought: before.thought, wait: before.wait, about: before.about || now.about } : now;
  }
}
