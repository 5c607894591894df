"use strict";
/* Watches the server: a banner while it is away, and the model card when it is back. */
const Connection = (() => {
  const { el, byId } = Dom;
  const PAUSE_MS = { ok: 15000, starting: 1500, refused: 4000, away: 2000 };
  let state = "unknown";
  let timer = 0;
  let card = null;
  let onCard = () => {};

  function words(found, problem) {
    const base = Api.base();
    const tunnel = "For a server on another machine, keep the tunnel open: ssh -L 8000:127.0.0.1:8000 HOST";
    const named = "Start it with --allow-origin null.";
    const all = {
      away: ["The server does not answer.", `The page tries ${base} again every two seconds. ${tunnel}`],
      starting: ["The server is starting.", "No worker is ready yet. The page goes on as soon as one is."],
      refused: ["The server refuses this page.", `It runs at ${base}, but takes no requests from a page that was opened from a file. ${named}`],
      key: ["The server wants an API key.", "Enter it in the settings."],
      error: ["The server does not say which model it serves.", problem],
    };
    return all[found];
  }

  function banner(found, problem = "") {
    const place = byId("banner");
    place.hidden = found === "ok";
    byId("light").className = found === "ok" ? "light ok" : "light away";
    if (found === "ok" || place.dataset.state === found + problem) {
      if (found === "ok") place.dataset.state = "ok";
      return;
    }
    place.dataset.state = found + problem;
    const [what, advice] = words(found, problem);
    const fix = found === "key" ? el("button", { type: "button", class: "button", text: "Open settings", on: { click: () => Settings.open("api-key") } }) : "";
    place.replaceChildren(el("b", { text: what }), el("span", { text: advice }), fix);
  }

  /** Asks for the model. Returns the state that it shows. */
  async function readCard() {
    try {
      card = await Api.model();
      onCard(card);
      return [card ? "ok" : "starting", ""];
    } catch (error) {
      if (error.status === 401) return ["key", ""];
      return [error.status ? "error" : "away", error.message];
    }
  }

  async function check() {
    clearTimeout(timer);
    const before = state;
    let found = await Api.health();
    let problem = "";
    if (found === "ok" && (before !== "ok" || card === null)) [found, problem] = await readCard();
    state = found;
    banner(found, problem);
    if (found === "ok" && !["ok", "unknown"].includes(before)) Dom.toast("The server is back.");
    clearTimeout(timer);
    timer = setTimeout(check, PAUSE_MS[found] ?? 4000);
  }

  /** Looks at once: after an error, or when address or key have changed. */
  function again() {
    state = state === "ok" ? "unknown" : state;
    return check();
  }

  function start(act) {
    onCard = act;
    window.addEventListener("online", again);
    document.addEventListener("visibilitychange", () => document.hidden || check());
    return check();
  }

  return { start, again, card: () => card };
})();
