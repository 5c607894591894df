"use strict";
/* One conversation: turns of a question and its answers; asking, stopping, retrying, editing. */
const Chat = (() => {
  const { el, button, byId } = Dom;
  let chat = null;
  let running = null; // {controller, view}
  let card = null;
  const listeners = { changed: () => {}, compare: () => {} };

  const fresh = () => ({ id: `${Date.now().toString(36)}${Math.random().toString(36).slice(2, 8)}`, begun: Date.now(), title: "", turns: [] });
  const titleOf = (question) => question.trim().split("\n").filter(Boolean).slice(0, 2).join(" ").slice(0, 80) || "Chat";
  const shownOf = (turn) => turn.answers[turn.shown] ?? null;

  /** Returns the messages for the next request: usable turns before `turn`, then its question. */
  function messagesFor(turn, settings) {
    const messages = settings.system.trim() ? [{ role: "system", content: settings.system }] : [];
    const alone = settings.earlier_turns === "never" || (settings.earlier_turns === "auto" && Suggestions.isDemo(card));
    for (const earlier of alone ? [] : chat.turns) {
      if (earlier === turn) break;
      const answer = shownOf(earlier);
      if (!Answer.counts(answer)) continue;
      messages.push({ role: "user", content: earlier.question }, { role: "assistant", content: answer.text });
    }
    return [...messages, { role: "user", content: turn.question }];
  }

  function keep() {
    if (chat.turns.length) Store.saveChat(chat);
    listeners.changed();
  }

  /** Writes a new answer to a turn in the mode that is chosen now. */
  async function answer(turn) {
    const settings = Store.settings();
    const variant = Modes.choose(card, settings.variant);
    const body = Modes.body(settings, variant, messagesFor(turn, settings), card?.id);
    const one = Answer.create(variant, body);
    turn.answers.push(one);
    turn.shown = turn.answers.length - 1;
    const controller = new AbortController();
    const asked = chat;
    running = { controller, turn };
    draw();
    const view = turn.view;
    toEnd();
    showRunning(true);
    Dom.say("The answer is being written.");
    keep();
    await Answer.run(one, body, controller.signal, () => view.update());
    running = null;
    Store.saveChat(asked);
    showRunning(false);
    if (asked === chat) draw();
    if (sticks) toEnd();
    announce(one);
    if (one.state === "failed") Connection.again();
    listeners.changed();
  }

  function announce(one) {
    const found = Answer.stats(one);
    const numbers = found.tokens === null ? "" : ` ${found.tokens} tokens in ${Answer.seconds(found.seconds)}.`;
    const ends = { done: `Answer complete.${numbers} ${one.text.slice(0, 1500)}`, stopped: "The answer was stopped.", failed: `The answer failed. ${one.error?.what}` };
    Dom.say(ends[one.state] ?? "");
  }

  /** Asks the next question. False if an answer is still being written. */
  function ask(question) {
    if (running) {
      Dom.toast("An answer is being written. Esc stops it.");
      return false;
    }
    if (question.trim() === "") return false;
    if (!chat.turns.length) chat.title = titleOf(question);
    chat.turns.push({ question, answers: [], shown: 0 });
    answer(chat.turns.at(-1));
    return true;
  }

  function stop() {
    running?.controller.abort();
    return running !== null;
  }

  function retry() {
    const turn = chat.turns.at(-1);
    if (turn && !running) answer(turn);
  }

  /** Asks a question again in other words. The turns after it go. */
  function edit(turn, question) {
    const at = chat.turns.indexOf(turn);
    chat.turns.splice(at);
    if (at === 0) chat.title = titleOf(question);
    ask(question);
  }

  function open(id) {
    stop();
    chat = (id && Store.chat(id)) || fresh();
    for (const one of chat.turns.flatMap((turn) => turn.answers)) {
      if (one.state === "running") one.state = "stopped"; // the page was closed meanwhile
    }
    draw();
    toEnd();
    listeners.changed();
  }

  function questionNode(turn) {
    const text = el("div", { class: "text", text: turn.question });
    const tools = el(
      "div",
      { class: "tools" },
      button("copy", "Copy question", (event) => Dom.copy(turn.question, event.currentTarget)),
      button("columns", "Compare modes on this question", () => listeners.compare(turn.question)),
      button("edit", "Edit question", () => editNode(turn, text, tools)),
    );
    return el("article", { class: "question", "aria-label": "Question" }, text, tools);
  }

  function editNode(turn, text, tools) {
    if (running) return Dom.toast("An answer is being written. Esc stops it.");
    const area = el("textarea", { "aria-label": "Edited question", rows: Math.min(12, turn.question.split("\n").length + 1) });
    area.value = turn.question;
    const cancel = () => draw();
    const send = () => area.value.trim() && edit(turn, area.value);
    const later = chat.turns.length - 1 - chat.turns.indexOf(turn);
    const hint = later ? el("span", { class: "quiet", text: `${later} later ${later === 1 ? "turn" : "turns"} will be removed.` }) : null;
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") cancel();
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        send();
      }
    });
    const make = (text, kind, act) => el("button", { type: "button", class: kind, text, on: { click: act } });
    const both = [make("Cancel", "button", cancel), make("Ask again", "button main", send)];
    const buttons = el("div", { class: "edit-buttons" }, hint, ...both);
    text.replaceWith(area);
    tools.replaceWith(buttons);
    area.focus();
    return undefined;
  }

  function pagerNode(turn) {
    if (turn.answers.length < 2) return null;
    const go = (by) => {
      turn.shown = Math.max(0, Math.min(turn.answers.length - 1, turn.shown + by));
      keep();
      draw();
    };
    const count = el("span", { text: `${turn.shown + 1} / ${turn.answers.length}` });
    const back = button("left", "Earlier answer", () => go(-1), { disabled: turn.shown === 0 });
    const on = button("right", "Later answer", () => go(1), { disabled: turn.shown === turn.answers.length - 1 });
    return el("span", { class: "pager", role: "group", "aria-label": "Answers to this question" }, back, count, on);
  }

  function turnNode(turn) {
    const one = shownOf(turn);
    const isLast = turn === chat.turns.at(-1);
    if (one === null) return [questionNode(turn)];
    // the view of an answer that has just ended is kept: its drawing goes on where it was
    const kept = turn.view?.answer === one ? turn.view : null;
    const view = kept ?? new AnswerView.View(one);
    view.acts = { autoplay: true, retry: isLast ? retry : null, changed: keep, more: pagerNode(turn) };
    Object.defineProperty(turn, "view", { value: view, enumerable: false, configurable: true });
    if (one.state === "running") view.draw();
    else view.finish();
    return [questionNode(turn), view.root];
  }

  function welcome() {
    const cards = Suggestions.of(card).map(([title, prompt]) => {
      const shown = [el("b", { text: title }), el("span", { text: prompt.replaceAll(/\s+/g, " ") })];
      return el("button", { type: "button", class: "suggestion", on: { click: () => ask(prompt) } }, ...shown);
    });
    const modes = Modes.variants(card).map((one) => el("li", {}, AnswerView.chip(one.key, one.label, one.shape), el("span", { text: one.note })));
    const demo = Suggestions.isDemo(card) ? " This small demo model knows four kinds of questions; these are examples." : "";
    const parts = [
      el("h2", { text: card ? `Ask ${card.id}` : "Ask the model" }),
      el("p", { class: "lead", text: `One model, several ways to write. Choose a mode, ask, and watch it work.${demo}` }),
      el("div", { class: "suggestions" }, ...cards),
      el("ul", { class: "modes" }, ...modes),
    ];
    return el("section", { class: "welcome", "aria-label": "Start" }, ...parts);
  }

  function draw() {
    byId("log").replaceChildren(...(chat.turns.length ? chat.turns.flatMap(turnNode) : [welcome()]));
    document.title = chat.title ? `${chat.title} · trimode chat` : "trimode chat";
  }

  function showRunning(is) {
    byId("send").hidden = is;
    byId("stop").hidden = !is;
    const lost = document.activeElement === document.body;
    if (lost) byId(is ? "stop" : "prompt").focus();
  }

  let sticks = true; // the person has not scrolled away from the end

  function toEnd() {
    const place = byId("scroller");
    place.scrollTo({ top: place.scrollHeight });
    sticks = true;
  }

  /** Keeps the end in view, whatever grows. */
  function start() {
    const place = byId("scroller");
    place.addEventListener("scroll", () => {
      sticks = place.scrollHeight - place.scrollTop - place.clientHeight < 60;
    });
    new ResizeObserver(() => sticks && running && toEnd()).observe(byId("log"));
  }

  function setCard(found) {
    card = found;
    if (chat && !chat.turns.length) draw();
  }

  return { start, open, ask, stop, retry, setCard, listeners, messagesFor, current: () => chat, isRunning: () => running !== null };
})();
