// What the server says of itself: the models it serves, and how it marks, reads and logs what is said (/about).
import { request } from "./api.js";
import { language, t } from "./i18n.js";

/** `models`: rows of /v1/models. `about`: of /about, null before it was asked. */
export const server = { models: [], about: null };

/** Ask it. Throws a Failure. */
export async function learn() {
  const [about, models] = await Promise.all([request("about"), request("v1/models")]);
  server.about = await about.json();
  server.models = (await models.json()).data;
}

/** The model a request is for when its settings name none; "" where there is only one, and no need to name it. */
export const standard = () => (server.models.some(model => model.root !== server.models[0].root) ? server.models[0].id : "");

/** The words that tell people a machine wrote it: the server's own where it labels. China's rules ask for them in Chinese in any language. */
export function markWords() {
  const { mode, visible } = server.about?.label ?? {};
  if (!visible) return t("AI-generated");
  return mode === "cn" && language !== "zh" ? `${visible.zh} · ${visible.en}` : visible[language];
}

/** A text as it leaves the page by the clipboard: China's rules want the words on it too. */
export const labelled = text => (server.about?.label.mode === "cn" ? `${text}\n\n（${markWords()}）` : text);
