"use strict";
/* Draws the passes of an answer: its tokens with their state, a legend, and the controls of the replay. */
const PassesView = (() => {
  const { el, icon } = Dom;
  const KINDS = { m: "mask", d: "draft", c: "committed", v: "verified", x: "struck" };
  const NAMES = { m: "open", d: "draft", c: "committed", v: "accepted draft", x: "struck draft" };
  const STEP_MS = { ar: 90, dlm: 420, linear_spec: 650, auto: 400 };

  /** Returns the white space before a token, which stays plain, and the rest with its line breaks marked. */
  function split(text) {
    const [, lead, rest] = text.match(/^( *)([^]*)$/);
    if (rest === "") return ["", text === "" ? "·" : text.replaceAll(" ", "␣")];
    return [lead, rest.replaceAll("\n", "↵\n").replaceAll("\t", "⇥\t")];
  }

  function cellNode([text, state, p, pass, isNew], mode) {
    const graded = state === "c" || (state === "d" && mode === "dlm");
    const grade = graded ? Passes.grade(p) : 0;
    const kind = `token ${KINDS[state]}${grade ? ` grade-${grade}` : ""}${isNew ? " new" : ""}`;
    const [lead, shown] = state === "m" ? ["", "\u2007\u2007"] : split(text);
    const parts = [NAMES[state], p === null ? "" : `confidence ${p.toFixed(3)}`, pass === null ? "" : `pass ${pass}`];
    return el("span", {}, lead, el("span", { class: kind, text: shown, title: parts.filter(Boolean).join(", ") }));
  }

  function legend(mode) {
    const item = (kind, sample, text) => el("li", {}, el("span", { class: `token ${kind}`, text: sample }), el("span", { text }));
    const grades = Passes.GRADES.slice(1).map((text, i) => item(`committed grade-${i + 1}`, "word", text));
    const scale = [el("li", { class: "lead", text: "confidence" }), ...grades];
    const drafted = [
      item("draft", "word", "draft"),
      item("verified", "word", "accepted"),
      item("struck", "word", "struck"),
      item("committed grade-5", "word", "chosen by the verify, by confidence"),
    ];
    const kinds = {
      ar: scale,
      dlm: [item("mask", "\u2007\u2007", "open"), ...scale],
      linear_spec: drafted,
      auto: drafted,
    };
    return el("ul", { class: "legend", "aria-label": "Legend" }, ...(kinds[mode] ?? scale));
  }

  /** A view of an answer's frames. `asked` is called when a person moves through them. */
  class View {
    constructor(answer, asked) {
      this.answer = answer;
      this.player = new Passes.Player(answer.frames);
      this.timer = 0;
      this.speed = 1;
      this.follows = true; // shows the newest frame while the answer is being written
      this.asked = asked;
      this.mode = answer.fields.mode;
      this.stage = el("div", { class: "passes", role: "img" });
      this.legend = el("div");
      this.controls = this.makeControls();
      this.root = el("div", { class: "passes-frame" }, this.stage, this.controls, this.legend);
    }

    makeControls() {
      this.playButton = Dom.button("play", "Replay the passes", () => this.toggle(), { kind: "play" });
      const label = `Pass shown of the ${this.answer.label} answer`;
      this.slider = el("input", { type: "range", min: "0", value: "0", step: "1", "aria-label": label });
      this.slider.addEventListener("input", () => this.moveTo(Number(this.slider.value)));
      this.slider.addEventListener("keydown", (event) => {
        if (event.key !== " ") return;
        event.preventDefault();
        this.toggle();
      });
      this.caption = el("span", { class: "caption" });
      const speeds = [0.5, 1, 2, 4].map((speed) => el("option", { value: speed, text: `${speed}×`, selected: speed === 1 }));
      const speed = el("select", { "aria-label": "Speed of the replay" }, ...speeds);
      speed.addEventListener("change", () => (this.speed = Number(speed.value)));
      return el("div", { class: "replay", role: "group", "aria-label": "Replay" }, this.playButton, this.slider, speed, this.caption);
    }

    get last() {
      return this.answer.frames.length - 1;
    }

    /** Shows the newest frame while the answer comes; afterwards keeps what is shown. */
    update() {
      if (this.last < 0) return;
      this.slider.max = String(this.last);
      if (this.answer.frames[0].m !== this.legendOf) {
        this.legendOf = this.answer.frames[0].m;
        this.mode = this.legendOf;
        this.legend.replaceChildren(legend(this.legendOf));
      }
      if (this.follows && !this.timer) this.show(this.last);
    }

    show(target) {
      const goal = Math.max(0, Math.min(target, this.last));
      const dirty = this.player.seek(goal);
      while (this.stage.childNodes.length > dirty) this.stage.lastChild.remove();
      this.stage.append(...this.player.cells.slice(dirty).map((cell) => cellNode(cell, this.mode)));
      const words = Passes.inWords(this.answer.frames[goal]);
      this.slider.value = String(goal);
      this.slider.setAttribute("aria-valuetext", `Step ${goal + 1} of ${this.last + 1}, ${words}`);
      this.caption.textContent = `${goal + 1}/${this.last + 1} · ${words}`;
      this.stage.setAttribute("aria-label", `State of the decoder: ${words}`);
    }

    moveTo(target) {
      this.pause();
      this.follows = false;
      this.asked();
      this.show(target);
    }

    toggle() {
      if (this.timer) this.pause();
      else this.play();
    }

    /** Plays to the end, from the start if it is there. Then calls `ended`, unless a person has taken over. */
    play({ stepMs = STEP_MS[this.mode] ?? 400, fromStart = false, ended = () => {} } = {}) {
      clearTimeout(this.timer);
      this.follows = false;
      this.asked();
      const from = Number(this.slider.value);
      this.show(fromStart || from >= this.last ? 0 : from);
      this.mark(true);
      this.schedule(stepMs, ended);
    }

    schedule(stepMs, ended) {
      this.timer = setTimeout(() => {
        const next = Number(this.slider.value) + 1;
        this.show(next);
        if (next < this.last && this.root.isConnected) return this.schedule(stepMs, ended);
        this.pause();
        return ended();
      }, stepMs / this.speed);
    }

    pause() {
      clearTimeout(this.timer);
      this.timer = 0;
      this.mark(false);
    }

    mark(playing) {
      const label = playing ? "Pause the replay" : "Replay the passes";
      this.playButton.replaceChildren(icon(playing ? "pause" : "play"));
      this.playButton.setAttribute("aria-label", label);
      this.playButton.title = label;
    }
  }

  return { View };
})();
