"use strict";
/* A small Markdown: headings, lists, quotes, tables, code, emphasis, links, TeX shown as TeX. It builds nodes from
   text and never parses HTML, so the text of a model cannot become part of the page. Every step walks forward only. */
const Markdown = (() => {
  const { el } = Dom;
  const PAIRS = [
    ["**", "strong"],
    ["__", "strong"],
    ["~~", "del"],
    ["*", "em"],
    ["_", "em"],
  ];
  const MATH = [
    ["$$", "$$"],
    ["\\(", "\\)"],
    ["\\[", "\\]"],
  ];
  const MAX_DEPTH = 4;

  const isWord = (character) => character !== undefined && /[\p{L}\p{N}]/u.test(character);

  /** Returns the end of the brace group that opens at `at`, or -1. */
  function closing(text, at) {
    let depth = 0;
    for (let i = at; i < Math.min(text.length, at + 400); i++) {
      if (text[i] === "{") depth += 1;
      if (text[i] === "}" && --depth === 0) return i;
    }
    return -1;
  }

  function codeAt(text, at) {
    let ticks = 1;
    while (text[at + ticks] === "`") ticks += 1;
    const fence = "`".repeat(ticks);
    const end = text.indexOf(fence, at + ticks);
    if (end < 0) return null;
    return [el("code", { text: text.slice(at + ticks, end).trim() || fence }), end + ticks];
  }

  function boxAt(text, at) {
    const end = closing(text, at + 6);
    if (end < 0) return null;
    return [el("span", { class: "boxed", text: text.slice(at + 7, end) }), end + 1];
  }

  function mathAt(text, at) {
    for (const [open, close] of MATH) {
      if (!text.startsWith(open, at)) continue;
      const end = text.indexOf(close, at + open.length);
      if (end < 0) return null;
      const inner = text.slice(at + open.length, end);
      const node = el("span", { class: open === "\\(" ? "tex" : "tex display" });
      node.append(...boxes(inner));
      return [node, end + close.length];
    }
    return null;
  }

  function boxes(text) {
    const at = text.indexOf("\\boxed{");
    const found = at < 0 ? null : boxAt(text, at);
    if (found === null) return [text];
    return [text.slice(0, at), found[0], ...boxes(text.slice(found[1]))];
  }

  function linkAt(text, at) {
    const middle = text.indexOf("](", at);
    const end = middle < 0 ? -1 : text.indexOf(")", middle);
    const label = text.slice(at + 1, middle);
    if (end < 0 || end - at > 2000 || label.includes("[") || label.includes("\n")) return null;
    const address = text.slice(middle + 2, end).trim();
    // other schemes could run code or reach local files
    if (!/^https?:\/\/[^\s]+$/i.test(address)) return null;
    const props = { href: address, target: "_blank", rel: "noopener noreferrer nofollow", title: address };
    return [el("a", { ...props, text: label || address }), end + 1];
  }

  function pairAt(text, at, depth) {
    for (const [mark, tag] of PAIRS) {
      if (!text.startsWith(mark, at)) continue;
      const from = at + mark.length;
      if (!text[from] || /\s/.test(text[from])) continue;
      if (mark.startsWith("_") && isWord(text[at - 1])) continue;
      const end = text.indexOf(mark, from + 1);
      if (end < 0 || /\s/.test(text[end - 1]) || text.slice(from, end).includes("\n\n")) continue;
      if (mark.startsWith("_") && isWord(text[end + mark.length])) continue;
      const node = el(tag);
      node.append(...inline(text.slice(from, end), depth + 1));
      return [node, end + mark.length];
    }
    return null;
  }

  function specialAt(text, at, depth) {
    const character = text[at];
    if (character === "`") return codeAt(text, at);
    if (text.startsWith("\\boxed{", at)) return boxAt(text, at);
    if (character === "$" || character === "\\") return mathAt(text, at);
    if (depth >= MAX_DEPTH) return null;
    if (character === "[") return linkAt(text, at);
    return pairAt(text, at, depth);
  }

  /** Returns nodes and strings for the text of one paragraph. */
  function inline(text, depth = 0) {
    const found = [];
    let plain = 0;
    let at = 0;
    let tries = 0;
    const special = /[`\\$[*_~]/g;
    while (tries < 5000) {
      special.lastIndex = at;
      const next = special.exec(text);
      if (next === null) break;
      tries += 1;
      const one = specialAt(text, next.index, depth);
      if (one === null) {
        at = next.index + 1;
        while (text[at] === text[next.index] && text[at] !== "\\") at += 1;
        continue;
      }
      found.push(text.slice(plain, next.index), one[0]);
      plain = at = one[1];
    }
    found.push(text.slice(plain));
    return found.filter((one) => one !== "");
  }

  function withInline(tag, text, props = {}) {
    const node = el(tag, props);
    node.append(...inline(text));
    return node;
  }

  function codeBlock(lines, language) {
    const text = lines.join("\n");
    const copy = Dom.button("copy", "Copy code", (event) => Dom.copy(text, event.currentTarget));
    const head = el("div", { class: "code-head" }, el("span", { text: language || "code" }), copy);
    return el("figure", { class: "code" }, head, el("pre", { tabindex: "0" }, el("code", { text })));
  }

  function table(rows) {
    const cells = (row) => row.replace(/^\s*\||\|\s*$/g, "").split("|");
    const line = (row, tag) => el("tr", {}, ...cells(row).map((cell) => withInline(tag, cell.trim())));
    const head = el("thead", {}, line(rows[0], "th"));
    const body = el("tbody", {}, ...rows.slice(2).map((row) => line(row, "td")));
    return el("div", { class: "scroll", tabindex: "0" }, el("table", {}, head, body));
  }

  const FENCE = /^ {0,3}(```+|~~~+)\s*([\w+#.-]*)\s*$/;
  const HEADING = /^(#{1,6})\s+(\S.*)$/;
  const ITEM = /^\s*(?:([-*+])|(\d{1,9})[.)])\s+(.*)$/;
  const QUOTE = /^>\s?(.*)$/;
  const RULE = /^ {0,3}([-*_])( *\1){2,} *$/;

  function takeWhile(lines, from, holds) {
    let to = from;
    while (to < lines.length && holds(lines[to])) to += 1;
    return to;
  }

  function list(lines) {
    const [, , first] = lines[0].match(ITEM);
    const items = [];
    for (const line of lines) {
      const item = line.match(ITEM);
      if (item) items.push(item[3]);
      else items[items.length - 1] += `\n${line.trim()}`;
    }
    return el(first ? "ol" : "ul", first ? { start: first } : {}, ...items.map((item) => withInline("li", item)));
  }

  /** Returns [node, number of the line behind it] for the block that begins at line `at`. */
  function block(lines, at) {
    const line = lines[at];
    const fence = line.match(FENCE);
    if (fence) {
      const to = takeWhile(lines, at + 1, (one) => !one.trim().startsWith(fence[1]));
      return [codeBlock(lines.slice(at + 1, to), fence[2]), to + 1];
    }
    const heading = line.match(HEADING);
    if (heading) {
      const level = Math.min(heading[1].length + 1, 6);
      return [withInline("p", heading[2], { class: "heading", role: "heading", "aria-level": level }), at + 1];
    }
    if (RULE.test(line)) return [el("hr"), at + 1];
    if (QUOTE.test(line)) {
      const to = takeWhile(lines, at, (one) => QUOTE.test(one));
      const inner = lines.slice(at, to).map((one) => one.match(QUOTE)[1]);
      return [withInline("blockquote", inner.join("\n")), to];
    }
    if (line.includes("|") && /^\s*\|?[\s:|-]*-[\s:|-]*$/.test(lines[at + 1] ?? "") && lines[at + 1].includes("|")) {
      const to = takeWhile(lines, at, (one) => one.includes("|"));
      return [table(lines.slice(at, to)), to];
    }
    if (ITEM.test(line)) {
      const to = takeWhile(lines, at, (one) => ITEM.test(one) || /^\s+\S/.test(one));
      return [list(lines.slice(at, to)), to];
    }
    const ends = (one) => one.trim() === "" || [FENCE, HEADING, ITEM, QUOTE, RULE].some((kind) => kind.test(one));
    const to = Math.max(at + 1, takeWhile(lines, at, (one) => !ends(one)));
    return [withInline("p", lines.slice(at, to).join("\n")), to];
  }

  /** Returns nodes for a text. */
  function render(text) {
    const lines = text.split("\n");
    const nodes = [];
    let at = 0;
    while (at < lines.length) {
      if (lines[at].trim() === "") {
        at += 1;
        continue;
      }
      const [node, next] = block(lines, at);
      nodes.push(node);
      at = next;
    }
    return nodes;
  }

  return { render };
})();
