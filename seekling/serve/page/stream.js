// Server-sent events of a fetch response, one parsed JSON value at a time.

/** Yields each event's data. Comments and blank lines are skipped; ends at [DONE].
 *  Throws an Error named "Cut" where the connection ends without it. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", data = [], ended = false;
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
        else if (line === "" && data.length) {
          const text = data.join("\n");
          data = [];
          if (text === "[DONE]") ended = true;
          else if (!ended) yield JSON.parse(text);
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
  if (!ended) throw Object.assign(new Error("cut"), { name: "Cut" });
}
