"use strict";
/* Speaks with the server: requests, server-sent events, and errors in sentences that say what to do. */
const Api = (() => {
  /** An answer of the server that is no success, or none at all (status 0). */
  class ServerError extends Error {
    constructor(message, { status = 0, code = null, param = null } = {}) {
      super(message);
      Object.assign(this, { status, code, param });
    }
  }

  const fromFile = location.protocol === "file:";
  /** Address of the server, without a slash at the end. A page that a server sent speaks with that server alone. */
  const base = () => (fromFile ? (Store.settings().base || "http://127.0.0.1:8000").replace(/\/+$/, "") : location.origin);

  function headers() {
    const key = Store.apiKey(base());
    return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  }

  async function ask(path, options = {}) {
    try {
      return await fetch(base() + path, { cache: "no-store", credentials: "omit", headers: headers(), ...options });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new ServerError("The server cannot be reached.");
    }
  }

  async function errorOf(response) {
    const text = await response.text().catch(() => "");
    return errorIn(text, response.status);
  }

  function errorIn(text, status) {
    let found = {};
    try {
      found = JSON.parse(text).error ?? {};
    } catch {
      found = { message: text.slice(0, 300) };
    }
    const message = typeof found.message === "string" && found.message ? found.message : `The server answered with status ${status}.`;
    return new ServerError(message, { status: status || Number(found.code) || 500, code: found.code, param: found.param });
  }

  /** Returns two sentences for a person: what happened, and what to do. */
  function inWords(error) {
    if (!(error instanceof ServerError)) return { what: "The page failed on this answer.", advice: String(error?.message ?? error) };
    const what = error.message;
    if (error.code === "context_length_exceeded" || /context/i.test(what)) {
      return { what, advice: "Start a new chat, shorten the message, or lower “Max tokens” in the settings." };
    }
    const advice = {
      0: "The page tries to reach it again. Retry when it is back.",
      400: error.param ? `Change “${error.param}” in the settings or in the message.` : "Change the settings or the message.",
      401: "Enter the API key in the settings.",
      403: "The server does not take requests from this page’s address.",
      404: "The server may have been started anew with another model. Reload the page.",
      413: "Shorten the message.",
      429: "Too many requests are waiting. Retry in some seconds.",
      503: "No worker is ready. Retry in some seconds.",
    };
    return { what, advice: advice[error.status] ?? "Retry; if it fails again, the server’s log has the cause." };
  }

  /** Returns the served model as /v1/models describes it, or null before the workers are ready. */
  async function model() {
    const response = await ask("/v1/models");
    if (!response.ok) throw await errorOf(response);
    return (await response.json()).data?.[0] ?? null;
  }

  /** Returns "ok", "starting", "refused" (the server is there and refuses this page) or "away". */
  async function health() {
    const signal = AbortSignal.timeout(8000);
    try {
      const response = await ask("/health", { signal, headers: {} });
      return response.ok ? "ok" : "starting";
    } catch {
      if (!fromFile) return "away";
    }
    try {
      // an answer that this page may not read still shows that somebody is there
      await fetch(`${base()}/health`, { mode: "no-cors", cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(8000) });
      return "refused";
    } catch {
      return "away";
    }
  }

  /** Yields {event, data} of a stream of server-sent events. */
  async function* eventsOf(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    let event = "message";
    let data = [];
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield { event, data: data.join("\n") };
          event = "message";
          data = [];
        } else if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
        else if (line.startsWith("event:")) event = line.slice(6).trim();
      }
    }
  }

  function hand(chunk, on) {
    if (chunk.error) throw errorIn(JSON.stringify(chunk), 0);
    const choice = chunk.choices?.[0];
    if (choice?.delta?.reasoning_content) on.reasoning(choice.delta.reasoning_content);
    if (choice?.delta?.content) on.text(choice.delta.content);
    if (choice?.finish_reason) on.finish(choice.finish_reason);
    if (chunk.usage || chunk.trimode) on.numbers({ ...chunk.usage, ...chunk.trimode });
  }

  /** Asks for an answer and calls `on` (text, reasoning, pass, finish, numbers) as its parts come. */
  async function chat(body, signal, on) {
    const response = await ask("/v1/chat/completions", { method: "POST", body: JSON.stringify(body), signal });
    if (!response.ok) throw await errorOf(response);
    if (!body.stream) {
      const { choices, usage } = await response.json();
      if (choices[0].message.reasoning_content) on.reasoning(choices[0].message.reasoning_content);
      if (choices[0].message.content) on.text(choices[0].message.content);
      on.finish(choices[0].finish_reason);
      on.numbers(usage);
      return;
    }
    try {
      for await (const { event, data } of eventsOf(response.body)) {
        if (data === "[DONE]") return;
        if (event === "denoise") on.pass(JSON.parse(data));
        else if (event === "message") hand(JSON.parse(data), on);
      }
    } catch (error) {
      if (signal.aborted || error instanceof ServerError) throw error;
    }
    throw new ServerError("The connection ended in the middle of the answer.");
  }

  return { ServerError, fromFile, base, inWords, model, health, chat, eventsOf };
})();
