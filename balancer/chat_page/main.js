"use strict";
/* Puts the page together: views, composer, mode choice, theme, keys. */
const Main = (() => {
  const { el, byId } = Dom;
  let card = null;

  /** Puts the cursor into a field, except where that would bring up a keyboard on the screen. */
  function focusOn(id) {
    if (!matchMedia("(pointer: coarse)").matches) byId(id).focus();
  }

  /** Shows the chat or the comparison. */
  function show(view) {
    const comparing = view === "compare";
    byId("chat-view").hidden = comparing;
    byId("compare-view").hidden = !comparing;
    byId("to-chat").setAttribute("aria-pressed", String(!comparing));
    byId("to-compare").setAttribute("aria-pressed", String(comparing));
    byId("skip").href = comparing ? "#compare-prompt" : "#prompt";
    focusOn(comparing ? "compare-prompt" : "prompt");
  }

  function drawModes() {
    const now = Modes.choose(card, Store.settings().variant).key;
    const radios = Modes.variants(card).map((one) => {
      const radio = el("input", { type: "radio", name: "mode", value: one.key });
      radio.checked = one.key === now;
      radio.addEventListener("change", () => chooseMode(one.key));
      return el("label", { title: one.note }, radio, AnswerView.chip(one.key, one.label, one.shape));
    });
    byId("modes").replaceChildren(el("legend", { class: "sr", text: "Mode of the next answer" }), ...radios);
  }

  function chooseMode(key) {
    Store.saveSettings({ ...Store.settings(), variant: key });
    const focused = byId("modes").contains(document.activeElement);
    for (const radio of byId("modes").querySelectorAll("input")) {
      radio.checked = radio.value === key;
      if (radio.checked && focused) radio.focus();
    }
  }

  function nextMode() {
    const keys = Modes.variants(card).map((one) => one.key);
    const now = Modes.choose(card, Store.settings().variant);
    const next = keys[(keys.indexOf(now.key) + 1) % keys.length];
    chooseMode(next);
    Dom.say(`Mode ${next}`);
  }

  function setTheme(theme) {
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    const names = { "": "as the system", light: "light", dark: "dark" };
    const label = `Colours: ${names[theme]}. Change`;
    byId("theme").setAttribute("aria-label", label);
    byId("theme").title = label;
  }

  function nextTheme() {
    const order = ["", "light", "dark"];
    const theme = order[(order.indexOf(Store.settings().theme) + 1) % order.length];
    Store.saveSettings({ ...Store.settings(), theme });
    setTheme(theme);
    Dom.toast(theme ? `Colours: ${theme}.` : "Colours: as the system.");
  }

  function grow() {
    const area = byId("prompt");
    area.style.height = "auto";
    area.style.height = `${Math.min(area.scrollHeight + 2, 260)}px`;
  }

  function send() {
    const area = byId("prompt");
    if (!Chat.ask(area.value)) return;
    area.value = "";
    grow();
  }

  function composer() {
    const area = byId("prompt");
    area.addEventListener("input", grow);
    area.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      send();
    });
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      send();
    });
    byId("stop").addEventListener("click", Chat.stop);
  }

  function editLast() {
    const all = byId("log").querySelectorAll(".question [aria-label='Edit question']");
    all[all.length - 1]?.click();
  }

  // by the place of the key, since Alt makes another character of it on some keyboards
  const ALT = {
    KeyN: () => byId("new-chat").click(),
    KeyM: nextMode,
    KeyC: () => show(byId("compare-view").hidden ? "compare" : "chat"),
    KeyS: () => Settings.open(),
    KeyR: Chat.retry,
    KeyL: toggleSidebar,
    KeyP: playLast,
    KeyT: nextTheme,
  };

  function playLast() {
    // the play button of a replay that is shown, else the one under the newest answer
    const all = [...document.querySelectorAll(".replay .play, .foot [aria-label='Replay the passes']")];
    const last = all.filter((one) => one.offsetParent !== null).at(-1);
    last?.click();
    last?.closest(".answer").querySelector(".replay input").focus();
  }

  function toggleSidebar() {
    const narrow = matchMedia("(max-width: 56rem)").matches;
    const name = narrow ? "with-sidebar" : "without-sidebar";
    const is = document.body.classList.toggle(name);
    byId("menu").setAttribute("aria-expanded", String(narrow ? is : !is));
    if (narrow && is) byId("new-chat").focus();
  }

  function keys(event) {
    if (document.querySelector("dialog[open]")) return;
    const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) && event.target.type !== "range";
    if (event.key === "Escape") {
      if (document.body.classList.contains("with-sidebar")) toggleSidebar();
      else if (byId("compare-view").hidden ? Chat.stop() : Compare.stop()) event.preventDefault();
    } else if (event.altKey && !event.ctrlKey && !event.metaKey && ALT[event.code]) {
      event.preventDefault();
      ALT[event.code]();
    } else if (event.key === "ArrowUp" && event.target === byId("prompt") && event.target.value === "") {
      event.preventDefault();
      editLast();
    } else if (!typing && !event.ctrlKey && !event.altKey && !event.metaKey) {
      if (event.key === "/") {
        event.preventDefault();
        byId(byId("compare-view").hidden ? "prompt" : "compare-prompt").focus();
      } else if (event.key === "?") byId("help").showModal();
    }
  }

  function takeCard(found) {
    card = found;
    byId("model").textContent = found ? found.id : "no model yet";
    drawModes();
    Settings.describe(found);
    Chat.setCard(found);
    Compare.setCard(found);
  }

  function icons() {
    for (const node of document.querySelectorAll("[data-icon]")) node.prepend(Dom.icon(node.dataset.icon));
    for (const node of document.querySelectorAll("[data-close]")) node.addEventListener("click", () => node.closest("dialog").close());
  }

  function start() {
    icons();
    setTheme(Store.settings().theme);
    Settings.start();
    History.start();
    Compare.start();
    composer();
    Chat.start();
    Chat.listeners.changed = History.draw;
    Chat.listeners.compare = (question) => {
      show("compare");
      Compare.offer(question);
    };
    byId("menu").addEventListener("click", toggleSidebar);
    byId("shade").addEventListener("click", toggleSidebar);
    byId("to-chat").addEventListener("click", () => show("chat"));
    byId("to-compare").addEventListener("click", () => show("compare"));
    byId("theme").addEventListener("click", nextTheme);
    byId("open-settings").addEventListener("click", () => Settings.open());
    byId("open-help").addEventListener("click", () => byId("help").showModal());
    document.addEventListener("keydown", keys);
    drawModes();
    Compare.setCard(null);
    Chat.open(null);
    show("chat");
    Connection.start(takeCard);
  }

  return { start, show, focusOn };
})();

Main.start();
