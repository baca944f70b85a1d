// The bench's first line. Copy as code copies the trait `code`, which the kernel keeps true, so that the click
// itself may use the clipboard; without one the text is shown, selected.

function render({ model, el }) {
  el.classList.add("wb-header");
  el.innerHTML = `
    <div class="wb-title"><b></b> <span></span></div>
    <div class="wb-chips" role="group" aria-label="variants"></div>
    <div class="wb-actions">
      <button class="wb-undo" title="back to the variant before" aria-label="undo">↶</button>
      <button class="wb-redo" title="forward again" aria-label="redo">↷</button>
      <button class="wb-code" title="the Python of what is on the screen">Copy as code</button>
    </div>
    <div class="wb-model-numbers" aria-live="polite"></div>
    <div class="wb-code-shown" hidden><textarea readonly rows="9" aria-label="code"></textarea><button>close</button></div>`;
  const find = (name) => el.querySelector(name);

  function paint() {
    find(".wb-title b").textContent = model.get("title");
    find(".wb-title span").textContent = model.get("detail");
    find(".wb-model-numbers").textContent = model.get("numbers");
    find(".wb-undo").disabled = !model.get("can_undo");
    find(".wb-redo").disabled = !model.get("can_redo");
    find(".wb-chips").replaceChildren(...model.get("chips").map((chip, index) => {
      const button = document.createElement("button");
      const on = index === model.get("active");
      button.className = "wb-chip";
      button.textContent = chip.label;
      button.title = chip.title;
      button.setAttribute("aria-pressed", on);
      button.onclick = () => model.send({ type: "go", value: index });
      return button;
    }));
    find('.wb-chip[aria-pressed="true"]')?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  find(".wb-undo").onclick = () => model.send({ type: "undo" });
  find(".wb-redo").onclick = () => model.send({ type: "redo" });
  find(".wb-code").onclick = async () => {
    const code = model.get("code"), button = find(".wb-code");
    el.dataset.code = code;
    try {
      await navigator.clipboard.writeText(code);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy as code"; }, 1500);
    } catch {
      find(".wb-code-shown").hidden = false;
      find("textarea").value = code;
      find("textarea").select();
    }
  };
  find(".wb-code-shown button").onclick = () => { find(".wb-code-shown").hidden = true; };
  const names = "change:title change:detail change:chips change:active change:numbers change:can_undo change:can_redo";
  function theme() {
    const dark = document.body.dataset.jpThemeLight === "false";
    if (dark !== model.get("dark")) { model.set("dark", dark); model.save_changes(); }
  }
  const watcher = new MutationObserver(theme);
  watcher.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
  model.on(names, paint);
  paint();
  theme();
  return () => { model.off(names, paint); watcher.disconnect(); };
}

export default { render };
