"use strict";
/* One prompt to several modes, side by side, and a table of what each cost. */
const Compare = (() => {
  const { el, byId } = Dom;
  let card = null;
  let running = null; // AbortController
  let answers = [];
  let views = [];

  function setCard(found) {
    card = found;
    if (running) return;
    const boxes = Modes.variants(card).filter((one) => one.key !== "auto").map((one) => {
      const box = el("input", { type: "checkbox", value: one.key });
      box.checked = true;
      return el("label", { title: one.note }, box, AnswerView.chip(one.key, one.label, one.shape));
    });
    byId("compare-modes").replaceChildren(el("legend", { text: "Modes" }), ...boxes);
  }

  function chosen() {
    const keys = [...byId("compare-modes").querySelectorAll("input:checked")].map((box) => box.value);
    return Modes.variants(card).filter((one) => keys.includes(one.key));
  }

  /** Sends the prompt to each chosen mode: one after another, so that none slows another, or all at once. */
  async function run() {
    const prompt = byId("compare-prompt").value;
    const variants = chosen();
    if (running || prompt.trim() === "") return;
    if (variants.length === 0) {
      Dom.toast("Choose at least one mode.");
      return;
    }
    const settings = Store.settings();
    const controller = new AbortController();
    running = controller;
    showRunning(true);
    Dom.say("The comparison is running.");
    const system = settings.system.trim() ? [{ role: "system", content: settings.system }] : [];
    const jobs = variants.map((variant) => {
      const body = Modes.body(settings, variant, [...system, { role: "user", content: prompt }], card?.id);
      const answer = { ...Answer.create(variant, body), state: "running" };
      return { answer, body, view: new AnswerView.View(answer) };
    });
    answers = jobs.map((job) => job.answer);
    views = jobs.map((job) => job.view);
    byId("compare-answers").replaceChildren(...jobs.map((job) => job.view.root));
    drawTable();
    const one = async ({ answer, body, view }) => {
      if (controller.signal.aborted) answer.state = "stopped";
      else await Answer.run(answer, body, controller.signal, () => view.update());
      view.finish();
      drawTable();
    };
    if (byId("compare-parallel").checked) await Promise.all(jobs.map(one));
    else for (const job of jobs) await one(job);
    running = null;
    showRunning(false);
    Dom.say(controller.signal.aborted ? "The comparison was stopped." : `The comparison is complete. ${inWords()}`);
    if (answers.some((answer) => answer.state === "failed")) Connection.again();
  }

  function inWords() {
    const parts = answers.filter((answer) => answer.state === "done").map((answer) => {
      const found = Answer.stats(answer);
      return `${answer.label}: ${Answer.seconds(found.seconds)}, NFE ${Answer.whole(found.nfe)}`;
    });
    return parts.join(". ");
  }

  function bar(value, most) {
    const node = el("span", { class: "bar", "aria-hidden": "true" });
    node.style.setProperty("--share", String(value === null || most <= 0 ? 0 : value / most));
    return node;
  }

  /** Says how a text differs from the first answer's. */
  function sameness(answer) {
    const first = answers[0];
    if (answer.state !== "done" || first.state !== "done") return "–";
    if (answer === first) return "(first)";
    return answer.text === first.text ? "same" : "differs";
  }

  /** Returns the table as Markdown. */
  function asMarkdown() {
    const rows = [...byId("compare-table").querySelectorAll("tr")].map((row) => {
      const cells = [...row.cells].map((cell) => (cell.querySelector("span:not([aria-hidden], .chip)") ?? cell).textContent);
      return `| ${cells.map((text) => text.replaceAll("|", "\\|")).join(" | ")} |`;
    });
    rows.splice(1, 0, `|${"---|".repeat(byId("compare-table").querySelectorAll("thead th").length)}`);
    return `${rows.join("\n")}\n`;
  }

  function drawTable() {
    const all = answers.map(Answer.stats);
    const most = (name) => Math.max(0, ...all.map((found) => found[name] ?? 0));
    const columns = ["mode", "time", "tokens/s", "first token", "tokens", "NFE", "TPF", "accepted", "text"];
    const head = el("tr", {}, ...columns.map((text) => el("th", { text, scope: "col" })));
    const rows = answers.map((answer, i) => {
      const found = all[i];
      const name = el("th", { scope: "row" }, AnswerView.chip(answer.variant, answer.label, answer.shape));
      const cells = [
        el("td", {}, el("span", { text: Answer.seconds(found.seconds) }), bar(found.seconds, most("seconds"))),
        el("td", {}, el("span", { text: Answer.decimal(found.perSecond, 1) }), bar(found.perSecond, most("perSecond"))),
        el("td", { text: Answer.seconds(found.first) }),
        el("td", { text: Answer.whole(found.tokens) }),
        el("td", {}, el("span", { text: Answer.whole(found.nfe) }), bar(found.nfe, most("nfe"))),
        el("td", { text: Answer.decimal(found.tpf) }),
        el("td", { text: Answer.decimal(found.accepted, 1) }),
        el("td", { text: answer.state === "done" || answer.state === "running" ? sameness(answer) : answer.state }),
      ];
      return el("tr", { class: AnswerView.className(answer.variant) }, name, ...cells);
    });
    const caption = el("caption", { class: "sr", text: "Cost of each answer" });
    byId("compare-table").replaceChildren(el("table", {}, caption, el("thead", {}, head), el("tbody", {}, ...rows)));
    byId("compare-table").hidden = answers.length === 0;
  }

  /** Replays all answers side by side, each pass of the model as long as any other. */
  function replayAll() {
    const most = Math.max(...answers.map((answer) => answer.frames.length));
    const stepMs = Math.max(60, Math.min(400, 6000 / most));
    for (const view of views) if (view.answer.frames.length > 1) view.passes.play({ stepMs, fromStart: true });
  }

  function showRunning(is) {
    byId("compare-run").hidden = is;
    byId("compare-tools").hidden = is || answers.length === 0;
    byId("compare-replay").hidden = !answers.some((answer) => answer.frames.length > 1);
    byId("compare-stop").hidden = !is;
    if (document.activeElement === document.body) byId(is ? "compare-stop" : "compare-run").focus();
  }

  function stop() {
    running?.abort();
    return running !== null;
  }

  /** Takes a question over. */
  function offer(question) {
    byId("compare-prompt").value = question;
    byId("compare-prompt").focus();
  }

  function start() {
    byId("compare-form").addEventListener("submit", (event) => {
      event.preventDefault();
      run();
    });
    byId("compare-copy").addEventListener("click", (event) => Dom.copy(asMarkdown(), event.currentTarget));
    byId("compare-replay").addEventListener("click", replayAll);
    byId("compare-stop").addEventListener("click", stop);
    byId("compare-prompt").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      run();
    });
  }

  return { start, setCard, offer, stop };
})();
