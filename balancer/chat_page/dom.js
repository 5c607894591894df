"use strict";
/* Builds nodes. Whatever comes from a server or a person enters the page as text: nothing here parses HTML. */
const Dom = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const PATHS = {
    menu: "M4 6h16M4 12h16M4 18h16",
    plus: "M12 5v14M5 12h14",
    sliders: "M4 7h10M18 7h2M4 17h2M10 17h10M16 4.5v5M8 14.5v5",
    contrast: "M12 3a9 9 0 1 0 0 18zM12 3a9 9 0 0 1 0 18",
    up: "M12 19V5M6 11l6-6 6 6",
    stop: "M7 7h10v10H7z",
    copy: "M9 9h11v11H9zM5 15H4V4h11v1",
    check: "M5 12.5l4.5 4.5L19 7.5",
    retry: "M20 11a8 8 0 1 0-2.3 6M20 4v7h-7",
    edit: "M4 20h4L19 9l-4-4L4 16zM13 7l4 4",
    trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13M10.5 11v5M13.5 11v5",
    save: "M12 4v11M7 11l5 5 5-5M5 20h14",
    play: "M8 5l11 7-11 7z",
    pause: "M7 5h3v14H7zM14 5h3v14h-3z",
    columns: "M4 5h16v14H4zM12 5v14",
    help: "M9 9.2a3 3 0 1 1 4.4 2.6c-1 .6-1.4 1.1-1.4 2.2M12 17.5v.2",
    close: "M6 6l12 12M18 6L6 18",
    left: "M15 5l-7 7 7 7",
    right: "M9 5l7 7-7 7",
    chat: "M4 5h16v11H9l-5 4z",
  };
  const FILLED = new Set(["stop", "play", "pause"]);

  /** Returns an element. `props`: text, class, on ({event: handler}), and attributes. Empty children are left out. */
  function el(tag, props = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(props)) {
      if (value === undefined || value === null || value === false) continue;
      if (name === "text") node.textContent = value;
      else if (name === "class") node.className = value;
      else if (name === "on") for (const [event, act] of Object.entries(value)) node.addEventListener(event, act);
      else node.setAttribute(name, value === true ? "" : String(value));
    }
    node.append(...children.filter(Boolean));
    return node;
  }

  /** Returns a drawing that screen readers pass over. */
  function icon(name) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", "0 0 24 24");
    svg.setAttribute("aria-hidden", "true");
    svg.setAttribute("class", FILLED.has(name) ? "icon filled" : "icon");
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", PATHS[name]);
    svg.append(path);
    return svg;
  }

  /** Returns a button with a drawing; with `shown` its label is visible too. */
  function button(name, label, act, { shown = false, kind = "", ...more } = {}) {
    const text = shown ? el("span", { text: label }) : null;
    const props = { type: "button", class: `button ${shown ? "" : "bare"} ${kind}`.trim(), on: { click: act } };
    return el("button", { ...props, "aria-label": shown ? null : label, title: shown ? null : label, ...more }, icon(name), text);
  }

  const byId = (id) => document.getElementById(id);

  /** Has a sentence read out once by screen readers. */
  function say(sentence) {
    byId("status").textContent = sentence;
  }

  let fading = 0;
  /** Shows a sentence for some seconds and has it read out. `undo` adds a button. */
  function toast(sentence, undo = null) {
    const place = byId("toast");
    const act = () => {
      undo();
      place.hidden = true;
    };
    place.replaceChildren(el("span", { text: sentence }), undo ? el("button", { class: "link", text: "Undo", type: "button", on: { click: act } }) : "");
    place.hidden = false;
    clearTimeout(fading);
    fading = setTimeout(() => (place.hidden = true), undo ? 9000 : 4000);
  }

  /** Copies text; says so on the button that asked. */
  async function copy(text, asked) {
    let done = false;
    try {
      await navigator.clipboard.writeText(text);
      done = true;
    } catch {
      // without a secure context or permission: the old way, through a selection
      const area = el("textarea", { class: "sr" });
      area.value = text;
      document.body.append(area);
      area.select();
      done = document.execCommand("copy");
      area.remove();
      asked.focus();
    }
    toast(done ? "Copied." : "The browser did not allow copying.");
    const drawing = asked.querySelector("svg");
    if (done && drawing) {
      const tick = icon("check");
      drawing.replaceWith(tick);
      setTimeout(() => tick.replaceWith(drawing), 1500);
    }
  }

  /** Offers text as a file to save. */
  function download(name, type, text) {
    const url = URL.createObjectURL(new Blob([text], { type }));
    const link = el("a", { href: url, download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }

  return { el, icon, button, byId, say, toast, copy, download };
})();
