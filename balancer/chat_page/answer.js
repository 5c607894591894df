"use strict";
/* One answer: its data while it comes from the server, and its numbers. */
const Answer = (() => {
  const CODES = { mask: "m", draft: "d", committed: "c", verified: "v", struck: "x" };

  function create(variant, body) {
    const { messages, model, stream, stream_options, stream_events, ...fields } = body;
    return {
      variant: variant.key,
      label: variant.label,
      shape: variant.shape,
      model: model ?? "",
      fields,
      begun: Date.now(),
      state: "running",
      text: "",
      reasoning: "",
      error: null,
      finish: null,
      first_s: null,
      seconds: null,
      numbers: null,
      frames: [],
      sendAlong: false,
    };
  }

  /** Returns a denoise event in the short form that is kept. */
  function frameOf(event) {
    const tokens = event.tokens.map((one) => [String(one.text), CODES[one.state] ?? "c", one.p, one.pass]);
    return { m: event.mode, b: event.block, p: event.pass, s: event.start, t: tokens };
  }

  /** Returns how a block stood before its first pass: what was there already, and masks. */
  function blank(frame) {
    const tokens = frame.t.map((one) => (one[1] === "c" && one[3] === 0 ? one : ["", "m", null, null]));
    return { ...frame, p: 0, t: tokens };
  }

  /** Fills the answer in from the server. Calls `changed` after each part. Never throws: the answer holds the error. */
  async function run(answer, body, signal, changed) {
    const begun = performance.now();
    const since = () => (performance.now() - begun) / 1000;
    const came = () => (answer.first_s ??= since());
    try {
      await Api.chat(body, signal, {
        text: (text) => {
          came();
          answer.text += text;
          changed();
        },
        reasoning: (text) => {
          came();
          answer.reasoning += text;
          changed();
        },
        pass: (event) => {
          const frame = frameOf(event);
          if (frame.m === "dlm" && frame.p === 1) answer.frames.push(blank(frame));
          answer.frames.push(frame);
          changed();
        },
        finish: (reason) => (answer.finish = String(reason)),
        numbers: (numbers) => (answer.numbers = numbers),
      });
      answer.state = "done";
    } catch (error) {
      answer.state = signal.aborted ? "stopped" : "failed";
      if (!signal.aborted) answer.error = Api.inWords(error);
    }
    if (!body.stream) answer.first_s = null;
    answer.seconds = since();
    changed();
  }

  const sum = (values) => values.reduce((total, value) => total + value, 0);

  /** Returns the numbers of an answer; null where one is not known. */
  function stats(answer) {
    const numbers = answer.numbers ?? {};
    const lengths = Array.isArray(numbers.acceptance_lengths) ? numbers.acceptance_lengths : [];
    const tokens = numbers.completion_tokens ?? null;
    return {
      tokens,
      seconds: answer.seconds,
      perSecond: tokens !== null && answer.seconds > 0 ? tokens / answer.seconds : null,
      first: answer.first_s,
      nfe: numbers.nfe ?? null,
      tpf: numbers.tpf ?? null,
      accepted: lengths.length ? sum(lengths) / lengths.length : null,
      lengths,
      prompt: numbers.prompt_tokens ?? null,
      forwards: numbers.forwards ?? {},
      saved: numbers.forwards_saved ?? null,
      queue: numbers.queue_s ?? null,
      server: numbers.total_s ?? null,
    };
  }

  /** True if later messages carry this answer. */
  function counts(answer) {
    if (!answer || answer.text === "") return false;
    return answer.state === "done" || (answer.state === "stopped" && answer.sendAlong);
  }

  function seconds(value) {
    if (value === null) return "–";
    if (value < 0.1) return `${Math.round(value * 1000)} ms`;
    return `${value.toFixed(value < 10 ? 2 : 1)} s`;
  }

  const decimal = (value, digits = 2) => (value === null ? "–" : value >= 100 ? value.toFixed(0) : value.toFixed(digits));
  const whole = (value) => (value === null ? "–" : String(value));

  return { create, run, stats, counts, frameOf, seconds, decimal, whole };
})();
