// A source to edit and its machine code beside it: the compiler's words on their line, hover in both directions.
// The textarea lies over its own coloured text, as large as the text: one scroll bar moves lines, marks and text.

const LINE = 16; // px, the height of a line in both panes; kernel_editor.css says the same

const TOKENS = new RegExp([
  String.raw`(?<comment>//[^\n]*|/\*[\s\S]*?(?:\*/|$))`,
  String.raw`(?<string>"(?:\\.|[^"\\\n])*"|<[\w./]+>(?=\s*$))`,
  String.raw`(?<directive>^[ \t]*#[ \t]*\w+|\btemplate\b)`,
  String.raw`(?<cuda>\b(?:__\w+|threadIdx|blockIdx|blockDim|gridDim|half2?|float[24]|uint4|wmma)\b|\b(?:cp_async|mbarrier|wgmma|tma|mma|ldmatrix)_\w+)`,
  String.raw`(?<keyword>\b(?:auto|bool|char|const|constexpr|continue|break|double|else|extern|float|for|if|inline|int|long|return|short|signed|size_t|sizeof|static|static_cast|reinterpret_cast|struct|typename|unsigned|using|void|volatile|while|u?int(?:8|16|32|64)_t)\b)`,
  String.raw`(?<number>\b(?:0x[\da-fA-F]+|\d+\.?\d*(?:e[+-]?\d+)?f?)\b)`,
].join("|"), "gm");

function coloured(text) {
  const made = document.createDocumentFragment();
  let end = 0;
  for (const match of text.matchAll(TOKENS)) {
    const kind = Object.entries(match.groups).find(([, found]) => found !== undefined)[0];
    made.append(text.slice(end, match.index), element("span", `wb-${kind}`, match[0]));
    end = match.index + match[0].length;
  }
  made.append(text.slice(end) + "\n");
  return made;
}

function element(tag, kind, text = "") {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  if (text) made.textContent = text;
  return made;
}

function render({ model, el }) {
  el.classList.add("wb-kernel");
  el.innerHTML = `
    <div class="wb-kernel-head">
      <b class="wb-kernel-name"></b><span class="wb-kernel-idea"></span>
      <button class="wb-kernel-reset" title="the source as it was shipped">Reset to shipped source</button>
      <button class="wb-kernel-code" title="the Python that makes this again">Copy as code</button>
    </div>
    <textarea class="wb-kernel-copy" readonly rows="4" aria-label="code" hidden></textarea>
    <div class="wb-kernel-panes">
      <div class="wb-pane wb-source" tabindex="-1">
        <div class="wb-lines" aria-hidden="true"></div>
        <div class="wb-text">
          <div class="wb-band" hidden></div><pre aria-hidden="true"></pre><div class="wb-inline" aria-hidden="true"></div>
          <textarea spellcheck="false" autocapitalize="off" autocomplete="off" wrap="off" data-lm-suppress-shortcuts="true"
            aria-label="kernel source" aria-description="Tab indents; Escape, then Tab leaves the editor"></textarea>
        </div>
      </div>
      <div class="wb-pane wb-sass" role="listbox" tabindex="0" aria-label="machine code" data-lm-suppress-shortcuts="true"></div>
    </div>
    <div class="wb-kernel-status" role="status" aria-live="polite"></div>
    <ol class="wb-kernel-messages" aria-label="the compiler's messages"></ol>`;
  const find = (name) => el.querySelector(name);
  const text = find(".wb-text textarea"), pre = find("pre"), numbers = find(".wb-lines"), band = find(".wb-band");
  const sass = find(".wb-sass"), source = find(".wb-source"), inline = find(".wb-inline");
  let rows = [], byLine = new Map(), shown = 0, released = false, waiting = null;

  // The source

  function paint() {
    pre.replaceChildren(coloured(text.value));
    const count = text.value.split("\n").length, width = Math.max(...text.value.split("\n").map((line) => line.length));
    const messages = new Map(model.get("messages").filter((m) => m.line).map((m) => [m.line, m]).reverse());
    text.style.height = `${count * LINE}px`;
    text.style.width = pre.style.width = `max(100%, ${width + 8}ch)`;
    const stale = text.value !== model.get("compiled");
    numbers.replaceChildren(...Array.from({ length: count }, (_, i) => {
      const line = i + 1, message = stale ? undefined : messages.get(line);
      const made = element("div", message ? `wb-line wb-${message.severity}` : "wb-line");
      made.append(element("i", "", !stale && byLine.has(line) ? String(byLine.get(line).length) : ""), element("b", "", String(line)));
      made.title = message ? message.text : byLine.has(line) ? `${byLine.get(line).length} instructions` : "";
      return made;
    }));
    const letter = text.clientWidth ? letters() : 7, pane = source.clientWidth - numbers.offsetWidth - 20;
    inline.replaceChildren(...(stale ? [] : [...messages.values()]).map((message) => {
      const made = element("div", `wb-${message.severity}`, message.text);
      const end = (text.value.split("\n")[message.line - 1] ?? "").length + 2, wide = pane - end * letter;
      made.style.top = `${(message.line - 1) * LINE}px`;
      // behind the line where there is room, else below its end; the whole stands under the panes
      if (wide > 120) {
        made.style.left = `${end * letter}px`;
        made.style.maxWidth = `${wide}px`;
      } else {
        made.classList.add("wb-over-text");
        made.style.top = `${message.line * LINE}px`;
        made.style.maxWidth = `${0.6 * pane}px`;
        made.style.right = `calc(100% - ${pane}px)`;
      }
      made.title = message.text;
      return made;
    }));
  }
  function letters() {
    const one = element("span", "", "0".repeat(100));
    pre.append(one);
    const width = one.getBoundingClientRect().width / 100;
    one.remove();
    return width;
  }
  source.addEventListener("scroll", () => { inline.style.transform = `translateX(${source.scrollLeft}px)`; });
  function send() {
    clearTimeout(waiting);
    waiting = null;
    if (model.get("source") === text.value) return;
    model.set("source", text.value);
    model.save_changes();
  }
  function edited() {
    paint();
    clearTimeout(waiting);
    waiting = setTimeout(send, 350); // a compiler is not asked for every letter
  }
  function taken() {
    if (waiting === null && text.value !== model.get("source")) {
      const other = model.get("name") !== el.dataset.kernel;
      text.value = model.get("source");
      if (other) begin();
    }
    paint();
  }
  function begin() {
    el.dataset.kernel = model.get("name");
    // the header is shown as idea and resources: begin where the code does
    const at = Math.max(0, text.value.split("\n").findIndex((line) => line && !line.startsWith("//")) - 1);
    paint();
    source.scrollLeft = 0;
    source.scrollTop = at * LINE;
  }
  const lineAt = (event) => Math.floor((event.clientY - text.getBoundingClientRect().top) / LINE) + 1;
  const caretLine = () => text.value.slice(0, text.selectionStart).split("\n").length;
  function insert(what) {
    // keeps the browser's undo, which setting the value would not
    if (!document.execCommand("insertText", false, what)) text.setRangeText(what, text.selectionStart, text.selectionEnd, "end");
  }
  text.addEventListener("input", edited);
  text.addEventListener("blur", () => { send(); released = false; });
  text.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Escape") { released = true; return; }
    if (event.key === "Tab" && !released) {
      event.preventDefault();
      insert("    ");
    } else if (event.key === "Enter" && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      const before = text.value.slice(0, text.selectionStart), line = before.slice(before.lastIndexOf("\n") + 1);
      insert("\n" + line.match(/^\s*/)[0] + (/\{\s*$/.test(line) ? "    " : ""));
    } else if (event.key === "Enter") {
      event.preventDefault();
      send();
    }
    if (event.key !== "Tab" && event.key !== "Shift") released = false;
  });
  text.addEventListener("keyup", () => look(caretLine(), "caret"));
  text.addEventListener("click", () => look(caretLine(), "caret"));
  text.addEventListener("mousemove", (event) => look(lineAt(event), "hover"));
  source.addEventListener("mouseleave", () => look(document.activeElement === text ? caretLine() : 0, "hover"));

  // The machine code

  function list() {
    const kinds = model.get("colors");
    byLine = new Map();
    rows = model.get("sass").map(([address, code, line, kind, wrapper, live], index) => {
      const row = element("div", line ? "wb-row" : "wb-row wb-nowhere");
      row.setAttribute("role", "option");
      row.id = `wb-sass-${model.model_id ?? ""}-${index}`;
      row.dataset.line = line ?? 0;
      const mark = element("i");
      mark.style.background = kinds[kind] ?? "transparent";
      row.append(mark, element("u", "", address.toString(16).padStart(4, "0")), element("s", "", live ? String(live) : ""),
        element("b", "", line ? String(line) : ""), element("code", "", code));
      row.title = [kind, wrapper && `from ${wrapper}`, live && `${live} live registers`].filter(Boolean).join(" · ");
      if (line) byLine.set(line, [...(byLine.get(line) ?? []), row]);
      return row;
    });
    const head = element("div", "wb-row wb-sass-head");
    head.append(...["i", "u", "s", "b", "code"].map((tag, i) => element(tag, "", ["", "at", "live", "line", "instruction"][i])));
    head.title = "address; registers that hold something still needed; line of the source";
    sass.replaceChildren(...(rows.length ? [head, ...rows] : [element("div", "wb-empty", model.get("empty"))]));
    shown = 0;
    paint();
  }
  function look(line, why, row) {
    if (line === shown && why === "hover") return;
    for (const old of sass.querySelectorAll(".wb-on")) old.classList.remove("wb-on");
    for (const old of numbers.querySelectorAll(".wb-on")) old.classList.remove("wb-on");
    shown = line;
    const stale = text.value !== model.get("compiled"), found = stale ? [] : byLine.get(line) ?? [];
    for (const each of found) each.classList.add("wb-on");
    numbers.children[line - 1]?.classList.add("wb-on");
    band.hidden = !line || line > numbers.children.length;
    band.style.top = `${(line - 1) * LINE}px`;
    el.dataset.line = line;
    if (!row && found.length) within(sass, found[0].offsetTop, found[0].offsetTop + LINE);
    if (row) within(source, (line - 1) * LINE, line * LINE);
  }
  function within(pane, top, bottom) {
    if (top >= pane.scrollTop + LINE && bottom <= pane.scrollTop + pane.clientHeight) return;
    pane.scrollTop = Math.max(0, top - pane.clientHeight / 3);
  }
  let current = -1;
  function stand(index) {
    if (index < 0 || index >= rows.length) return;
    rows[current]?.setAttribute("aria-selected", "false");
    current = index;
    rows[current].setAttribute("aria-selected", "true");
    sass.setAttribute("aria-activedescendant", rows[current].id);
    within(sass, rows[current].offsetTop, rows[current].offsetTop + LINE);
    look(Number(rows[current].dataset.line), "caret", rows[current]);
  }
  sass.addEventListener("mousemove", (event) => {
    const row = event.target.closest(".wb-row[data-line]");
    if (row) look(Number(row.dataset.line), "hover", row);
  });
  sass.addEventListener("mouseleave", () => look(0, "hover"));
  sass.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 16, PageUp: -16 }[event.key];
    if (!step) return;
    event.preventDefault(); event.stopPropagation();
    stand(Math.min(rows.length - 1, Math.max(0, current + step)));
  });
  sass.addEventListener("click", (event) => {
    const row = event.target.closest(".wb-row[data-line]");
    if (row) stand(rows.indexOf(row));
  });

  // What was said

  function say() {
    find(".wb-kernel-name").textContent = model.get("name");
    find(".wb-kernel-idea").textContent = find(".wb-kernel-idea").title = model.get("idea");
    find(".wb-kernel-reset").disabled = !model.get("edited");
    const status = find(".wb-kernel-status");
    status.textContent = model.get("status");
    el.dataset.state = status.dataset.state = model.get("state");
    find(".wb-kernel-messages").replaceChildren(...model.get("messages").map((message) => {
      const item = element("li", `wb-${message.severity}`), button = element("button");
      const place = message.line ? `line ${message.line}${message.column ? `:${message.column}` : ""}` : "";
      button.append(element("b", "", [message.severity, place].filter(Boolean).join(", ")), ` ${message.text}`);
      button.onclick = () => {
        if (!message.line) return;
        const start = text.value.split("\n").slice(0, message.line - 1).join("\n").length + (message.line > 1 ? 1 : 0);
        text.focus({ preventScroll: true });
        text.setSelectionRange(start + (message.column ?? 1) - 1, start + (message.column ?? 1) - 1);
        within(source, (message.line - 1) * LINE, message.line * LINE);
        look(message.line, "caret");
      };
      item.append(button);
      return item;
    }));
    paint();
  }
  function told(content) {
    if (content.type !== "look") return;
    within(source, (content.line - 1) * LINE, content.line * LINE);
    look(content.line, "told");
  }
  find(".wb-kernel-reset").onclick = () => { clearTimeout(waiting); waiting = null; model.send({ type: "reset" }); };
  find(".wb-kernel-code").onclick = async () => {
    send();
    const button = find(".wb-kernel-code"), shownText = find(".wb-kernel-copy");
    try {
      await navigator.clipboard.writeText(model.get("code"));
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy as code"; }, 1500);
    } catch {
      shownText.hidden = !shownText.hidden;
      shownText.value = model.get("code");
      shownText.select();
    }
  };
  function theme() {
    const dark = document.body.dataset.jpThemeLight === "false";
    if (dark !== model.get("dark")) { model.set("dark", dark); model.save_changes(); }
  }
  const watcher = new MutationObserver(theme);
  watcher.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
  const words = "change:name change:idea change:edited change:status change:state change:messages change:compiled";
  model.on("change:source", taken);
  model.on("change:sass change:empty", list);
  model.on(words, say);
  model.on("msg:custom", told);
  text.value = model.get("source");
  list();
  say();
  theme();
  const ready = new ResizeObserver(() => { // once it is on the page and has a height
    if (!source.clientHeight) return;
    begin();
    ready.disconnect();
  });
  ready.observe(source);
  return () => {
    send();
    model.off("change:source", taken);
    model.off("change:sass change:empty", list);
    model.off(words, say);
    model.off("msg:custom", told);
    watcher.disconnect();
    ready.disconnect();
  };
}

export default { render };
