"use strict";
/* The state of the decoder after each of its passes, from the denoise events of an answer. No drawing here. */
const Passes = (() => {
  /** Plays frames forward. `cells` are [text, state, p, pass, isNew] in the order in which they are shown. */
  class Player {
    constructor(frames) {
      this.frames = frames;
      this.rewind();
    }

    rewind() {
      this.at = -1;
      this.cells = [];
      this.marked = 0; // start of the cells that are marked as new
    }

    /** Goes to the state after frame `target`. Returns the first cell that may differ from before. */
    seek(target) {
      let dirty = this.cells.length;
      if (target < this.at) {
        this.rewind();
        dirty = 0;
      }
      while (this.at < target) dirty = Math.min(dirty, this.step());
      return dirty;
    }

    step() {
      this.at += 1;
      const frame = this.frames[this.at];
      const dirty = Math.min(this.marked, frame.s);
      const before = this.cells.slice(frame.s);
      for (const cell of this.cells) cell[4] = false;
      // what stood behind the start was drafted or struck, or belongs to the same block
      this.cells.length = Math.min(this.cells.length, frame.s);
      frame.t.forEach(([text, state, p, pass], i) => {
        const isNew = state !== "m" && (before[i] === undefined || before[i][1] !== state || before[i][0] !== text);
        this.cells.push([text, state, p, pass, isNew]);
      });
      this.marked = frame.s;
      return dirty;
    }
  }

  const count = (frame, ...states) => frame.t.filter(([, state]) => states.includes(state)).length;

  /** Returns a sentence on one frame. */
  function inWords(frame) {
    if (frame.m === "ar") return `token ${frame.s + 1}`;
    if (frame.m === "auto" && frame.p === 1 && count(frame, "c") === 1) return `cycle ${frame.b + 1}: token ${frame.s + 1}, without a draft`;
    if (frame.m === "linear_spec" || frame.m === "auto") {
      if (count(frame, "d", "m") > 0) return `cycle ${frame.b + 1}, draft pass ${frame.p}: ${count(frame, "d")} tokens drafted`;
      if (frame.p === 0) return "first token, from the prompt’s pass";
      const struck = count(frame, "x");
      const verdict = struck ? `, ${struck} struck` : "";
      return `cycle ${frame.b + 1}, verify: ${count(frame, "v")} of ${count(frame, "v", "x")} drafts accepted${verdict}`;
    }
    const when = frame.p === 0 ? "before the first pass" : `pass ${frame.p}`;
    return `block ${frame.b + 1}, ${when}: ${count(frame, "c")} of ${frame.t.length} committed`;
  }

  /** Returns the grade of a confidence, 1 to 5; 0 if there is none. */
  function grade(p) {
    if (p === null || p === undefined) return 0;
    return 1 + [0.5, 0.7, 0.9, 0.99].filter((limit) => p >= limit).length;
  }

  const GRADES = ["", "< 0.5", "≥ 0.5", "≥ 0.7", "≥ 0.9", "≥ 0.99"];

  return { Player, inWords, grade, GRADES };
})();
