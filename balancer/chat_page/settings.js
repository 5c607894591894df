"use strict";
/* The settings dialog. Values are kept as they are changed; they outlive a new chat and a reload. */
const Settings = (() => {
  const { el, byId } = Dom;
  const PRESETS = {
    precise: { temperature: 0, top_p: 1, top_k: 0, min_p: 0, repetition_penalty: 1 },
    balanced: { temperature: 0.6, top_p: 0.95, top_k: 0, min_p: 0, repetition_penalty: 1 },
    creative: { temperature: 1, top_p: 1, top_k: 0, min_p: 0.05, repetition_penalty: 1.05 },
  };
  const number = (name, label, low, high, step, hint = "", optional = false) => ({ name, label, kind: "number", low, high, step, hint, optional });
  const choice = (name, label, choices, hint) => ({ name, label, kind: "choice", choices, hint });
  const flag = (name, label, hint = "") => ({ name, label, kind: "flag", hint });
  const GROUPS = [
    ["Sampling", [
      number("temperature", "Temperature", 0, 100, 0.05, "0 is greedy."),
      number("top_p", "Top-p", 0.01, 1, 0.01, "1 is off."),
      number("top_k", "Top-k", 0, 100000, 1, "0 is off."),
      number("min_p", "Min-p", 0, 1, 0.01, "0 is off."),
      number("repetition_penalty", "Repetition penalty", 0.01, 100, 0.05, "1 is off."),
      number("seed", "Seed", -9007199254740991, 9007199254740991, 1, "Empty: the server’s choice.", true),
    ]],
    ["Length", [
      number("max_tokens", "Max tokens", 1, 2147483647, 1, "Empty: as much as the server allows.", true),
      { name: "stop", label: "Stop strings", kind: "lines", hint: "One per line; \\n stands for a line break." },
    ]],
    ["Modes", [
      number("dlm_block", "dlm: block length", 1, 1024, 1, "Tokens per block.", true),
      number("dlm_threshold", "dlm: threshold", 0, 1, 0.01, "Confidence that commits a position.", true),
      number("spec_block", "linear_spec: block length", 1, 1024, 1, "Tokens per draft; in auto at most.", true),
      choice("acceptance", "linear_spec: acceptance", ["rejection", "equality"], "Matters at temperature above 0."),
    ]],
    ["Conversation", [
      { name: "system", label: "System prompt", kind: "lines", hint: "Sent before every question." },
      choice("earlier_turns", "Send earlier turns", ["auto", "always", "never"], "auto: not to the demo model, which was trained on single questions."),
      flag("thinking", "Thinking", "The model thinks before it answers, if it can."),
    ]],
    ["This page", [
      flag("stream", "Stream", "Off: the answer comes in one piece, without passes."),
      flag("passes", "Record the passes", "Needed for the denoise view and the replay."),
      flag("autoplay", "Replay quick answers", "An answer of less than 1.5 seconds is replayed once, slow enough to see."),
      flag("markdown", "Format answers", "Off: plain text."),
      flag("timing", "Show numbers under answers"),
    ]],
  ];
  const controls = new Map();
  let values = Store.settings();

  function save(name, value) {
    values = { ...Store.settings(), [name]: value };
    Store.saveSettings(values);
    markPreset();
    if (name === "base") Connection.again();
  }

  function readNumber(field, input) {
    const text = input.value.trim();
    const value = Number(text);
    const empty = text === "" && !input.validity.badInput;
    const whole = field.step !== 1 || Number.isInteger(value);
    const valid = empty ? field.optional : Number.isFinite(value) && value >= field.low && value <= field.high && whole && !input.validity.badInput;
    const message = valid ? "" : `Valid: ${field.step === 1 ? "a whole number" : "a number"} from ${field.low} to ${field.high}${field.optional ? ", or empty" : ""}.`;
    input.setAttribute("aria-invalid", String(!valid));
    controls.get(field.name).hint.textContent = valid ? field.hint : message;
    controls.get(field.name).hint.classList.toggle("wrong", !valid);
    if (valid) save(field.name, empty ? "" : value);
  }

  function inputOf(field) {
    const id = `set-${field.name}`;
    const common = { id, "aria-describedby": `${id}-hint` };
    if (field.kind === "number") {
      const input = el("input", { ...common, type: "number", min: field.low, max: field.high, step: field.step === 1 ? 1 : "any", inputmode: "decimal" });
      input.addEventListener("input", () => readNumber(field, input));
      return input;
    }
    if (field.kind === "flag") {
      const input = el("input", { ...common, type: "checkbox", role: "switch" });
      input.addEventListener("change", () => save(field.name, input.checked));
      return input;
    }
    if (field.kind === "choice") {
      const input = el("select", common, ...field.choices.map((text) => el("option", { value: text, text })));
      input.addEventListener("change", () => save(field.name, input.value));
      return input;
    }
    const input = el("textarea", { ...common, rows: field.name === "system" ? 3 : 2 });
    input.addEventListener("input", () => save(field.name, input.value));
    return input;
  }

  function row(field) {
    const input = inputOf(field);
    const hint = el("small", { id: `set-${field.name}-hint`, text: field.hint });
    controls.set(field.name, { input, hint, field });
    const label = el("label", { for: input.id, text: field.label });
    return el("div", { class: `field ${field.kind}` }, label, input, hint);
  }

  function fill() {
    values = Store.settings();
    for (const { input, field, hint } of controls.values()) {
      if (field.kind === "flag") input.checked = Boolean(values[field.name]);
      else input.value = String(values[field.name]);
      input.removeAttribute("aria-invalid");
      hint.textContent = field.hint;
      hint.classList.remove("wrong");
    }
    byId("api-key").value = Store.apiKey(Api.base());
    byId("base").value = Api.base();
    markPreset();
  }

  function markPreset() {
    for (const [name, preset] of Object.entries(PRESETS)) {
      const same = Object.entries(preset).every(([key, value]) => values[key] === value);
      byId(`preset-${name}`).setAttribute("aria-pressed", String(same));
    }
  }

  function presets() {
    const make = (name) => {
      const act = () => {
        Store.saveSettings({ ...Store.settings(), ...PRESETS[name] });
        fill();
      };
      return el("button", { type: "button", id: `preset-${name}`, text: name, on: { click: act } });
    };
    return el("div", { class: "tabs", role: "group", "aria-label": "Presets of sampling" }, ...Object.keys(PRESETS).map(make));
  }

  /** Shows what the server says of its model. */
  function describe(card) {
    const facts = [
      ["model", card?.id],
      ["context", card?.max_model_len && `${card.max_model_len} tokens`],
      ["modes", Modes.variants(card).map((one) => one.label).join(", ")],
      ["default mode", card?.default_mode],
      ["number format", card?.dtype],
      ["quantisation", card?.quantization],
      ["adapter", card ? (card.lora ? "loaded" : "none") : null],
    ];
    const shown = facts.filter(([, value]) => value).map(([term, value]) => el("div", {}, el("dt", { text: term }), el("dd", { text: String(value) })));
    byId("server-facts").replaceChildren(...shown);
    if (card?.max_model_len) controls.get("max_tokens").field.high = Number(card.max_model_len);
  }

  function open(focus = null) {
    fill();
    const dialog = byId("settings");
    if (!dialog.open) dialog.showModal();
    if (focus) byId(focus).focus();
  }

  function start() {
    const groups = GROUPS.map(([title, fields]) => {
      const more = title === "Sampling" ? presets() : null;
      return el("fieldset", {}, el("legend", { text: title }), more, el("div", { class: "fields" }, ...fields.map(row)));
    });
    byId("settings-groups").replaceChildren(...groups);
    byId("base").readOnly = !Api.fromFile;
    byId("base").addEventListener("change", (event) => save("base", event.target.value.trim()));
    byId("api-key").addEventListener("change", (event) => {
      Store.saveApiKey(Api.base(), event.target.value.trim());
      Connection.again();
    });
    byId("key-form").addEventListener("submit", (event) => {
      event.preventDefault();
      byId("api-key").blur();
    });
    byId("reset").addEventListener("click", () => {
      const { variant, theme, base } = Store.settings();
      Store.saveSettings({ ...Store.DEFAULTS, variant, theme, base });
      fill();
      Dom.toast("Settings are back at their defaults.");
    });
    fill();
  }

  return { start, open, describe };
})();
