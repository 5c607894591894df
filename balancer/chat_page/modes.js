"use strict";
/* The ways to decode that the server offers, and the body of a request. */
const Modes = (() => {
  const NOTES = {
    ar: "Left to right, one token per pass of the model.",
    dlm: "A block of masks is filled in; a position is committed when the model is confident of it.",
    linear_spec: "A block is drafted by diffusion, and a causal pass verifies it. Same text as ar when greedy.",
    "linear_spec+lora": "linear_spec whose drafts use the adapter.",
    auto: "The text of ar. Each cycle drafts as many tokens as pay at the present load, or none.",
    "auto+lora": "auto whose drafts use the adapter.",
  };
  const SHAPES = { ar: "●", dlm: "■", linear_spec: "▲", "linear_spec+lora": "◆", auto: "✚", "auto+lora": "✛" };

  /** Returns the variants {key, mode, lora, label, note, shape} of a model card. */
  function variants(card) {
    const modes = Array.isArray(card?.modes) ? card.modes : ["ar", "dlm", "linear_spec"];
    const found = [];
    for (const mode of modes.map(String)) {
      found.push({ key: mode, mode, lora: false, label: mode });
      if (["linear_spec", "auto"].includes(mode) && card?.lora) found.push({ key: `${mode}+lora`, mode, lora: true, label: `${mode} + LoRA` });
    }
    return found.map((one) => ({ ...one, note: NOTES[one.key] ?? "", shape: SHAPES[one.key] ?? "✖" }));
  }

  /** Returns the variant with this key; without one, the server's default. */
  function choose(card, key) {
    const all = variants(card);
    return all.find((one) => one.key === key) ?? all.find((one) => one.key === card?.default_mode) ?? all[0];
  }

  function filled(pairs) {
    return Object.fromEntries(Object.entries(pairs).filter(([, value]) => value !== "" && value !== null && value !== undefined));
  }

  const unescapeStop = (text) => text.replaceAll("\\n", "\n").replaceAll("\\t", "\t");

  /** Returns the fields of a request beside its messages. What is at its neutral value is left out. */
  function fields(settings, variant) {
    const blocks = {
      dlm: { block_length: settings.dlm_block, threshold: settings.dlm_threshold },
      linear_spec: { block_length: settings.spec_block },
      auto: { block_length: settings.spec_block },
    };
    const sampled = settings.temperature > 0;
    const stops = settings.stop.split("\n").filter((line) => line !== "");
    return filled({
      mode: variant.mode,
      ...(variant.lora ? { lora: true } : {}),
      ...filled(blocks[variant.mode] ?? {}),
      temperature: settings.temperature,
      ...(settings.top_p !== 1 ? { top_p: settings.top_p } : {}),
      ...(settings.top_k > 0 ? { top_k: settings.top_k } : {}),
      ...(settings.min_p > 0 ? { min_p: settings.min_p } : {}),
      ...(settings.repetition_penalty !== 1 ? { repetition_penalty: settings.repetition_penalty } : {}),
      ...(sampled && variant.mode === "linear_spec" ? { acceptance: settings.acceptance } : {}),
      max_tokens: settings.max_tokens,
      seed: settings.seed,
      ...(stops.length ? { stop: stops.map(unescapeStop) } : {}),
      ...(settings.thinking ? { enable_thinking: true } : {}),
    });
  }

  /** Returns the whole body. */
  function body(settings, variant, messages, model) {
    const streams = settings.stream ? { stream: true, stream_options: { include_usage: true } } : {};
    const events = settings.stream && settings.passes ? { stream_events: "denoise" } : {};
    return { ...(model ? { model } : {}), messages, ...fields(settings, variant), ...streams, ...events };
  }

  return { variants, choose, fields, body };
})();
