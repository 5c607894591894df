"use strict";
/* What the browser keeps: chats and settings in localStorage, one key per chat so that two tabs do not overwrite each
   other; the API key in sessionStorage, where it ends with the tab. Without storage the page works and keeps nothing. */
const Store = (() => {
  const CHAT = "trimode.chat.";
  const SETTINGS = "trimode.settings";
  const KEY = "trimode.key.";
  const REPLAY_CHARACTERS = 200000; // of one answer's passes; longer ones are not kept
  const DEFAULTS = {
    variant: "",
    system: "",
    temperature: 0,
    top_p: 1,
    top_k: 0,
    min_p: 0,
    repetition_penalty: 1,
    max_tokens: "",
    seed: "",
    stop: "",
    dlm_block: 32,
    dlm_threshold: 0.9,
    spec_block: 32,
    acceptance: "rejection",
    thinking: false,
    earlier_turns: "auto",
    stream: true,
    passes: true,
    autoplay: true,
    markdown: true,
    timing: true,
    theme: "",
    base: "",
  };
  const failed = { said: false };
  const deleted = new Set(); // ids; an answer that ends later must not bring its chat back

  function complain() {
    if (failed.said) return;
    failed.said = true;
    Dom.toast("The browser keeps no more: its storage is full or switched off. Export or delete chats.");
  }

  function read(storage, key) {
    try {
      return window[storage].getItem(key);
    } catch {
      return null;
    }
  }

  function write(storage, key, value) {
    try {
      if (value === null) window[storage].removeItem(key);
      else window[storage].setItem(key, value);
      return true;
    } catch {
      return false;
    }
  }

  function parse(text) {
    try {
      return JSON.parse(text);
    } catch {
      return null;
    }
  }

  /** Returns the settings: what was saved, and defaults for the rest. */
  function settings() {
    const saved = parse(read("localStorage", SETTINGS)) ?? {};
    const known = Object.entries(saved).filter(([name, value]) => name in DEFAULTS && ["string", "number", "boolean"].includes(typeof value));
    return { ...DEFAULTS, ...Object.fromEntries(known) };
  }

  function saveSettings(values) {
    if (!write("localStorage", SETTINGS, JSON.stringify(values))) complain();
  }

  function isChat(value) {
    const turn = (one) => typeof one?.question === "string" && Array.isArray(one.answers);
    return typeof value?.id === "string" && Array.isArray(value.turns) && value.turns.every(turn);
  }

  /** Returns all chats, newest first. A chat that cannot be read is left out. */
  function chats() {
    let keys = [];
    try {
      keys = Object.keys(window.localStorage).filter((key) => key.startsWith(CHAT));
    } catch {
      return [];
    }
    const found = keys.map((key) => parse(read("localStorage", key))).filter(isChat);
    return found.sort((one, other) => other.changed - one.changed);
  }

  function chat(id) {
    const found = parse(read("localStorage", CHAT + id));
    return isChat(found) ? found : null;
  }

  function withoutLongReplays(value, limit) {
    const answer = (one) => (JSON.stringify(one.frames ?? []).length > limit ? { ...one, frames: [] } : one);
    return { ...value, turns: value.turns.map((turn) => ({ ...turn, answers: turn.answers.map(answer) })) };
  }

  /** Keeps a chat. If there is no room, without its replays. */
  function saveChat(value, changed = Date.now()) {
    if (deleted.has(value.id)) return;
    value.changed = changed;
    for (const limit of [REPLAY_CHARACTERS, 0]) {
      if (write("localStorage", CHAT + value.id, JSON.stringify(withoutLongReplays(value, limit)))) return;
    }
    complain();
  }

  function deleteChat(id) {
    deleted.add(id);
    write("localStorage", CHAT + id, null);
  }

  function restoreChat(value) {
    deleted.delete(value.id);
    saveChat(value, value.changed);
  }

  const apiKey = (base) => read("sessionStorage", KEY + base) ?? "";
  const saveApiKey = (base, key) => write("sessionStorage", KEY + base, key === "" ? null : key);

  /** Calls `act` when another tab has changed a chat. */
  function onOtherTab(act) {
    window.addEventListener("storage", (event) => {
      if (event.key === null || event.key.startsWith(CHAT)) act();
    });
  }

  return { DEFAULTS, settings, saveSettings, chats, chat, saveChat, deleteChat, restoreChat, apiKey, saveApiKey, onOtherTab };
})();
