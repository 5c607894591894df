"use strict";
/* The list of chats: open, delete, and export as JSON or Markdown. */
const History = (() => {
  const { el, button, byId } = Dom;

  const dayOf = (time) => new Date(time).toLocaleDateString(undefined, { year: "numeric", month: "short", day: "numeric" });

  function item(chat, currentId) {
    const open = el("button", { type: "button", class: "open", "aria-current": chat.id === currentId ? "page" : null, on: { click: () => choose(chat.id) } });
    open.append(el("span", { class: "title", text: chat.title || "Chat" }), el("span", { class: "date", text: dayOf(chat.changed) }));
    const remove = button("trash", `Delete chat ${chat.title}`, () => removeChat(chat));
    return el("li", {}, open, remove);
  }

  function draw() {
    const current = Chat.current();
    const chats = Store.chats();
    const items = chats.map((chat) => item(chat, current?.id));
    byId("chats").replaceChildren(...(items.length ? items : [el("li", { class: "quiet", text: "No chats yet. They stay in this browser." })]));
    byId("delete-all").hidden = chats.length === 0;
    byId("export").hidden = !current?.turns.length;
  }

  function choose(id) {
    document.body.classList.remove("with-sidebar");
    Main.show("chat");
    Chat.open(id);
    Main.focusOn("prompt");
  }

  function removeChat(chat) {
    if (chat.id === Chat.current().id) Chat.stop();
    Store.deleteChat(chat.id);
    if (chat.id === Chat.current().id) Chat.open(null);
    else draw();
    byId("new-chat").focus();
    Dom.toast("Chat deleted.", () => {
      Store.restoreChat(chat);
      draw();
    });
  }

  function removeAll() {
    const all = Store.chats();
    Chat.stop();
    for (const chat of all) Store.deleteChat(chat.id);
    Chat.open(null);
    byId("new-chat").focus();
    Dom.toast(`${all.length} ${all.length === 1 ? "chat" : "chats"} deleted.`, () => {
      for (const chat of all) Store.restoreChat(chat);
      draw();
    });
  }

  const safeName = (title) => title.toLowerCase().replaceAll(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40).replaceAll(/^-|-$/g, "") || "chat";

  /** Returns a chat as a Markdown document. */
  function asMarkdown(chat) {
    const parts = [`# ${chat.title}`];
    for (const turn of chat.turns) {
      parts.push("## Question", turn.question);
      for (const answer of turn.answers) {
        const found = Answer.stats(answer);
        const numbers = [
          found.tokens === null ? "" : `${found.tokens} tokens`,
          found.perSecond === null ? "" : `${Answer.decimal(found.perSecond, 1)} tokens/s`,
          found.first === null ? "" : `first token ${Answer.seconds(found.first)}`,
          found.nfe === null ? "" : `NFE ${found.nfe}`,
          found.tpf === null ? "" : `TPF ${Answer.decimal(found.tpf)}`,
          found.accepted === null ? "" : `accepted per verify ${Answer.decimal(found.accepted, 1)}`,
          answer.state === "done" ? "" : `**${answer.state}**`,
        ].filter(Boolean);
        parts.push(`## Answer, ${answer.label}`, answer.text || (answer.error ? answer.error.what : "(no text)"));
        if (numbers.length) parts.push(`*${numbers.join(" · ")}*`);
      }
    }
    return `${parts.join("\n\n")}\n`;
  }

  function save(kind) {
    const chat = Chat.current();
    const name = `${safeName(chat.title)}.${kind}`;
    if (kind === "md") Dom.download(name, "text/markdown", asMarkdown(chat));
    else Dom.download(name, "application/json", `${JSON.stringify(chat, null, 1)}\n`);
  }

  function start() {
    byId("new-chat").addEventListener("click", () => choose(null));
    byId("export-json").addEventListener("click", () => save("json"));
    byId("export-md").addEventListener("click", () => save("md"));
    byId("delete-all").addEventListener("click", removeAll);
    Store.onOtherTab(draw);
  }

  return { start, draw, asMarkdown };
})();
