"use strict";
/* Draws one answer: mode, text or passes, numbers, and what can be done with it. */
const AnswerView = (() => {
  const { el, button } = Dom;
  const REDRAW_MS = 60;
  const QUICK_S = 1.5; // an answer that took less was not seen being written
  const REPLAY_MS = 3000;
  const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

  const className = (variant) => variant.replaceAll(/[^a-z_]/g, "-");

  /** The chip of a mode: its shape and colour are the same everywhere. */
  function chip(variant, label, shape) {
    const drawing = el("i", { text: shape, "aria-hidden": "true" });
    return el("span", { class: `chip ${className(variant)}` }, drawing, el("span", { text: label }));
  }

  function definition(term, value) {
    return el("div", {}, el("dt", { text: term }), el("dd", { text: value }));
  }

  /** The line of numbers under an answer, and a list with all of them behind it. */
  function statsNode(answer) {
    const found = Answer.stats(answer);
    const short = [
      ["tok/s", Answer.decimal(found.perSecond, 1)],
      ["first token", Answer.seconds(found.first)],
      ["time", Answer.seconds(found.seconds)],
      ["tokens", Answer.whole(found.tokens)],
      ["NFE", Answer.whole(found.nfe)],
      ["TPF", Answer.decimal(found.tpf)],
      ["accepted", found.accepted === null ? null : Answer.decimal(found.accepted, 1)],
    ].filter(([, value]) => value !== null && value !== "–");
    const line = short.map(([name, value]) => el("span", {}, el("b", { text: value }), ` ${name}`));
    const forwards = Object.entries(found.forwards).filter(([, count]) => count > 0);
    const long = [
      ["tokens of the prompt", Answer.whole(found.prompt)],
      ["forwards", forwards.map(([kind, count]) => `${kind} ${count}`).join(", ") || "–"],
      ["saved by the prefix cache", Answer.whole(found.saved)],
      ["accepted per verify", found.lengths.length ? found.lengths.join(" ") : "–"],
      ["waited in the queue", Answer.seconds(found.queue)],
      ["time on the server", Answer.seconds(found.server)],
      ["ended by", answer.finish ?? "–"],
      ["settings", Object.entries(answer.fields).map(([name, value]) => `${name}=${JSON.stringify(value)}`).join(" ")],
    ];
    const list = el("dl", {}, ...long.filter(([, value]) => value !== "–").map(([term, value]) => definition(term, value)));
    return el("details", { class: "stats" }, el("summary", {}, ...line), list);
  }

  /** The view of one answer. `acts` may hold retry and changed (something to keep has changed). */
  class View {
    constructor(answer, acts = {}) {
      this.answer = answer;
      this.acts = acts;
      this.due = 0;
      this.ended = answer.state !== "running";
      this.tab = answer.state === "running" ? "passes" : "text";
      this.passes = new PassesView.View(answer, () => this.choose("passes"));
      this.body = el("div", { class: "body" });
      this.note = el("div", { class: "note", hidden: true });
      this.foot = el("div", { class: "foot" });
      this.state = el("span", { class: "state" });
      this.tabs = this.makeTabs();
      const head = el("div", { class: "head" }, chip(answer.variant, answer.label, answer.shape), this.state, this.tabs);
      const props = { class: `answer ${className(answer.variant)}`, "aria-label": `Answer, ${answer.label}` };
      this.root = el("article", props, head, this.body, this.passes.root, this.note, this.foot);
      this.draw();
    }

    makeTabs() {
      const make = (key, text) => el("button", { type: "button", text, on: { click: () => this.choose(key) } });
      this.textTab = make("text", "Answer");
      this.passesTab = make("passes", "Passes");
      return el("div", { class: "tabs", role: "group", "aria-label": "What is shown of this answer" }, this.textTab, this.passesTab);
    }

    choose(key) {
      this.tab = key;
      if (key === "text") this.passes.pause();
      this.drawBody();
    }

    /** Draws soon; many calls in a row cost one drawing. */
    update() {
      if (this.due) return;
      this.due = setTimeout(() => {
        this.due = 0;
        this.draw();
      }, REDRAW_MS);
    }

    /** The last drawing, when the answer has ended. */
    finish() {
      clearTimeout(this.due);
      this.due = 0;
      const watched = this.passes.follows && this.tab === "passes";
      const frames = this.answer.frames.length;
      const quick = this.answer.state === "done" && this.answer.seconds < QUICK_S && frames > 2;
      if (!this.ended && watched && quick && this.acts.autoplay && Store.settings().autoplay && !still()) {
        const stepMs = Math.max(50, Math.min(500, REPLAY_MS / frames));
        const toText = () => this.passes.timer || this.choose("text");
        this.passes.play({ stepMs, fromStart: true, ended: () => setTimeout(toText, 900) });
      } else if (this.passes.follows) this.tab = "text";
      this.ended = true;
      this.draw();
    }

    draw() {
      this.passes.update();
      this.drawBody();
      this.drawNote();
      const running = this.answer.state === "running";
      this.root.setAttribute("aria-busy", String(running));
      this.state.textContent = running ? (this.answer.first_s === null && !this.answer.frames.length ? "waiting…" : "writing…") : "";
      this.foot.replaceChildren(...(running ? [] : this.footParts()));
    }

    drawBody() {
      const hasPasses = this.answer.frames.length > 0;
      const showsPasses = hasPasses && this.tab === "passes";
      this.tabs.hidden = !hasPasses;
      this.textTab.setAttribute("aria-pressed", String(!showsPasses));
      this.passesTab.setAttribute("aria-pressed", String(showsPasses));
      this.passes.root.hidden = !showsPasses;
      this.passes.controls.hidden = this.answer.state === "running";
      this.body.hidden = showsPasses;
      if (this.replay) this.replay.hidden = showsPasses;
      if (!showsPasses) this.drawText();
    }

    drawText() {
      const { answer } = this;
      const marked = Store.settings().markdown;
      const nodes = marked ? Markdown.render(answer.text) : [el("pre", { class: "plain", text: answer.text })];
      const thought = [el("summary", { text: "Thinking" }), el("pre", { class: "plain", text: answer.reasoning })];
      const thinking = answer.reasoning ? [el("details", { class: "thinking", open: answer.text === "" }, ...thought)] : [];
      const nothing = answer.state === "done" && answer.text === "" ? [el("p", { class: "quiet", text: "The model ended its answer without text." })] : [];
      const cursor = answer.state === "running" ? [el("span", { class: "cursor", "aria-hidden": "true" })] : [];
      this.body.replaceChildren(...thinking, ...(answer.text ? nodes : []), ...nothing, ...cursor);
    }

    drawNote() {
      const { answer } = this;
      this.note.hidden = true;
      this.note.className = "note";
      if (answer.state === "failed") {
        this.note.className = "note wrong";
        this.note.replaceChildren(el("b", { text: answer.error.what }), ` ${answer.error.advice} Not sent with later messages.`);
      } else if (answer.state === "stopped" && answer.text !== "" && this.acts.changed) {
        const box = el("input", { type: "checkbox" });
        box.checked = answer.sendAlong;
        box.addEventListener("change", () => {
          answer.sendAlong = box.checked;
          this.acts.changed();
        });
        this.note.replaceChildren(el("b", { text: "Stopped." }), " This is only the beginning of an answer.", el("label", {}, box, " Send it with later messages"));
      } else if (answer.state === "stopped") {
        this.note.replaceChildren(el("b", { text: "Stopped." }), answer.text === "" ? " No text had come." : " This is only the beginning of an answer.");
      } else if (answer.finish === "length" && answer.state === "done") {
        this.note.replaceChildren("Cut at the limit of tokens.");
      } else return;
      this.note.hidden = false;
    }

    footParts() {
      const { answer } = this;
      const copy = button("copy", "Copy answer", (event) => Dom.copy(answer.text, event.currentTarget));
      this.replay = button("play", "Replay the passes", () => this.passes.play({ fromStart: true }));
      this.replay.hidden = !this.passes.root.hidden;
      const replay = answer.frames.length > 1 ? this.replay : null;
      const retry = this.acts.retry ? button("retry", "Retry in the chosen mode", () => this.acts.retry()) : null;
      const stats = Store.settings().timing && answer.seconds !== null ? statsNode(answer) : null;
      const tools = el("div", { class: "tools" }, replay, answer.text ? copy : null, retry, this.acts.more ?? null);
      return [stats, tools].filter(Boolean);
    }
  }

  return { View, chip, className };
})();
