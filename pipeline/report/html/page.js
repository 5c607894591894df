// The sample browser: filters over the index, one page of rows, texts unpacked on demand. All text goes through textContent.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const index = JSON.parse($("index").textContent);
  const PAGE = 50;
  const chunks = new Map();
  const state = { shown: [], page: 0, chosen: -1 };

  function element(name, attributes = {}, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "style") node.style.cssText = value;
      else if (key === "onclick") node.addEventListener("click", value);
      else node.setAttribute(key, value);
    }
    node.append(...children.map((child) => (child instanceof Node ? child : document.createTextNode(String(child)))));
    return node;
  }

  async function unpack(number) {
    if (!chunks.has(number)) {
      const packed = Uint8Array.from(atob($("chunk" + number).textContent), (c) => c.charCodeAt(0));
      const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
      if (chunks.size > 20) chunks.clear();
      chunks.set(number, await new Response(stream).json());
    }
    return chunks.get(number);
  }

  const tpf = (n) => (index.n[n] ? index.t[n] / index.n[n] : null);
  const fixed = (value, digits) => ((value ?? null) === null ? "–" : value.toFixed(digits));
  const verdict = (n) => (index.end[n] === "error" ? "failed" : index.ok[n] ? "right" : "wrong");
  const run = (n) => index.runs[index.r[n]];
  const shapes = ["●", "■", "▲", "◆", "▼", "✚", "✖", "★"];
  const chip = (r) =>
    element("span", { class: "chip s" + r.slot }, element("i", { "aria-hidden": "true" }, shapes[r.slot]), r.name);

  const tests = {
    all: () => true,
    right: (n) => index.ok[n] === 1,
    wrong: (n) => index.ok[n] === 0,
    flip: (n) => index.f[n] === 1,
    failed: (n) => index.end[n] === "error",
    length: (n) => index.end[n] === "length",
  };

  function filter() {
    const benchmark = $("f-benchmark").value, mode = $("f-run").value, order = $("f-order").value;
    const test = tests[$("f-verdict").value];
    const text = $("f-text").value.trim().toLowerCase();
    const shown = [];
    for (let n = 0; n < index.q.length; n++) {
      if (benchmark !== "" && index.b[n] !== Number(benchmark)) continue;
      if (mode !== "" && index.r[n] !== Number(mode)) continue;
      if (!test(n)) continue;
      if (text && String(index.i[n]) !== text && !(index.p[n] + "\n" + index.e[n]).toLowerCase().includes(text)) continue;
      shown.push(n);
    }
    if (order === "tpf") shown.sort((a, b) => (tpf(a) ?? Infinity) - (tpf(b) ?? Infinity));
    else if (order) shown.sort((a, b) => (index[order][b] ?? -1) - (index[order][a] ?? -1));
    state.shown = shown;
    state.page = 0;
    draw();
  }

  function draw() {
    const pages = Math.max(1, Math.ceil(state.shown.length / PAGE));
    state.page = Math.min(Math.max(state.page, 0), pages - 1);
    const problems = new Set(state.shown.map((n) => index.q[n])).size;
    $("count").textContent = `${state.shown.length} answers to ${problems} problems (of ${index.q.length} answers)`;
    $("page").textContent = `page ${state.page + 1} of ${pages}`;
    $("prev").disabled = state.page === 0;
    $("next").disabled = state.page === pages - 1;
    $("rows").replaceChildren(...state.shown.slice(state.page * PAGE, (state.page + 1) * PAGE).map(line));
  }

  function line(n) {
    const seed = index.s[n] ? `, seed ${index.s[n]}` : "";
    const open = element("button", { type: "button" }, `${index.benchmarks[index.b[n]]} #${index.i[n]}${seed}`);
    const word = verdict(n);
    const cells = [
      open, chip(run(n)),
      element("span", { class: word === "right" ? "right" : "wrong" }, word + (index.f[n] ? " ⇄" : "")),
      index.t[n], fixed(tpf(n), 2), index.p[n], index.e[n],
    ];
    const row = element("tr", { "data-n": n, class: n === state.chosen ? "chosen" : "" });
    cells.forEach((cell, i) => row.append(element("td", { class: i === 3 || i === 4 ? "num" : "", title: i > 4 ? cell : "" }, cell)));
    row.addEventListener("click", () => choose(n, true));
    return row;
  }

  async function choose(n, scroll) {
    state.chosen = n;
    for (const row of $("rows").children) row.classList.toggle("chosen", Number(row.dataset.n) === n);
    const question = index.q[n];
    const problem = (await unpack(Math.floor(question / index.perChunk)))[question % index.perChunk];
    if (state.chosen !== n) return;
    $("detail").replaceChildren(...detail(n, problem));
    const narrow = matchMedia("(max-width: 62rem)").matches;
    if (scroll && narrow) $("detail").scrollIntoView();
  }

  const block = (title, ...content) => [element("h4", {}, title), ...content];

  function siblings(n) {
    let first = n, last = n;
    while (first > 0 && index.q[first - 1] === index.q[n]) first--;
    while (last + 1 < index.q.length && index.q[last + 1] === index.q[n]) last++;
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  }

  function detail(n, problem) {
    const family = siblings(n), answer = problem.answers[n - family[0]];
    const word = verdict(n);
    const others = element("div", { class: "others" }, ...family.map((m) =>
      element("button", { type: "button", class: "s" + run(m).slot, "aria-pressed": String(m === n), onclick: () => choose(m, false) },
        chip(run(m)), " ", element("span", { class: verdict(m) === "right" ? "right" : "wrong" }, verdict(m)))));
    const title = `${index.benchmarks[index.b[n]]} #${index.i[n]}, seed ${index.s[n]}`;
    const back = element("button", { type: "button", class: "back", onclick: () => $("filters").scrollIntoView() }, "Back to the list");
    return [
      back,
      element("h3", {}, title, " ", element("span", { class: word === "right" ? "right" : "wrong" }, word)),
      others,
      ...block("Prompt", element("pre", { tabindex: "0" }, problem.prompt)),
      ...block(...against(n, family, problem, answer)),
      element("div", { class: "pair" },
        element("div", {}, ...block("Expected", element("pre", {}, problem.expected || "–"))),
        element("div", {}, ...block("Predicted", element("pre", {}, answer.predicted || "no answer")))),
      ...(answer.scoringError ? block("The scorer failed on this row", element("pre", {}, answer.scoringError)) : []),
      ...block("Ledger", ...ledger(n, answer.ledger)),
    ];
  }

  // The answer, with what differs from the first mode's answer to the same problem marked from the first difference on.
  function against(n, family, problem, answer) {
    const first = problem.answers[0].text, text = answer.text;
    if (n === family[0] || text === first) {
      const same = n !== family[0] ? ` (same text as ${run(family[0]).name})` : "";
      return ["Answer" + same, element("pre", { tabindex: "0" }, text || "(empty)")];
    }
    let at = 0;
    while (at < text.length && at < first.length && text[at] === first[at]) at++;
    const marked = element("pre", { tabindex: "0" }, text.slice(0, at), element("mark", {}, text.slice(at) || "(ends here)"));
    return [`Answer (differs from ${run(family[0]).name} from character ${at})`, marked];
  }

  function ledger(n, record) {
    if (!record) return [element("p", { class: "empty" }, "No line in nfe_log.jsonl.")];
    const facts = [["tokens", index.t[n]], ["NFE", fixed(index.n[n], 0)], ["TPF", fixed(tpf(n), 2)], ["finish", index.end[n]],
      ...Object.entries(record.forwards).map(([kind, count]) => [kind + " forwards", count]),
      ["prompt tokens", record.prompt], ["in queue", record.queue + " s"], ["first token", record.first + " s"],
      ["in all", record.total + " s"]];
    const list = element("dl", { class: "ledger" }, ...facts.map(([name, value]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, value))));
    const parts = [list];
    if (record.error) parts.push(...block("Why there is no answer", element("pre", {}, record.error)));
    if (record.accepted.length) {
      const most = Math.max(...record.accepted);
      parts.push(...block(`Tokens emitted per verify (mean ${fixed(index.a[n], 2)})`,
        element("div", { class: "cycles s" + run(n).slot }, ...record.accepted.map((count) =>
          element("span", { style: `--fill:${Math.round((60 * count) / most)}` }, count)))));
    }
    return parts;
  }

  function step(by) {
    if (!state.shown.length) return;
    const at = state.shown.indexOf(state.chosen);
    const next = at < 0 ? state.page * PAGE : Math.min(Math.max(at + by, 0), state.shown.length - 1);
    const page = Math.floor(next / PAGE);
    if (page !== state.page) { state.page = page; draw(); }
    choose(state.shown[next], false);
    $("rows").children[next % PAGE].scrollIntoView({ block: "nearest" });
  }

  function turn(by) { state.page += by; draw(); }

  function other(by) {
    if (state.chosen < 0) return;
    const family = siblings(state.chosen);
    choose(family[(state.chosen - family[0] + by + family.length) % family.length], false);
  }

  const keys = { j: () => step(1), k: () => step(-1), n: () => turn(1), p: () => turn(-1), "[": () => other(-1), "]": () => other(1) };
  document.addEventListener("keydown", (event) => {
    const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/" && !typing) { $("f-text").focus(); event.preventDefault(); }
    else if (event.key === "Escape" && typing) event.target.blur();
    else if (keys[event.key] && !typing) { keys[event.key](); event.preventDefault(); }
  });

  const choices = (names) => [element("option", { value: "" }, "all"), ...names.map((name, i) => element("option", { value: i }, name))];
  $("f-benchmark").append(...choices(index.benchmarks));
  $("f-run").append(...choices(index.runs.map((r) => r.name)));
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("input", filter);
  $("prev").addEventListener("click", () => turn(-1));
  $("next").addEventListener("click", () => turn(1));
  filter();
  if (state.shown.length) choose(state.shown[0], false);
})();
