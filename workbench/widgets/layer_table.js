// A table whose rows can be chosen: by a click, or with the arrow keys once a row has the focus.

function element(kind, text, properties = {}) {
  const made = document.createElement(kind);
  made.textContent = text;
  return Object.assign(made, properties);
}

function render({ model, el }) {
  el.classList.add("wb-rows");
  let rows = [];

  function build() {
    const table = document.createElement("table"), head = table.createTHead(), body = table.createTBody();
    table.setAttribute("role", "grid");
    table.setAttribute("aria-label", model.get("label"));
    const groups = head.insertRow(), names = head.insertRow();
    for (const { text, span } of model.get("groups")) groups.append(element("th", text, { colSpan: span, scope: "colgroup" }));
    for (const { text, title } of model.get("heads")) names.append(element("th", text, { title, scope: "col" }));
    rows = model.get("rows").map((cells) => {
      const row = body.insertRow();
      row.dataset.name = cells[0];
      row.append(...cells.map((cell, place) => element(place ? "td" : "th", cell, place ? {} : { scope: "row", title: cell })));
      row.onclick = () => choose(row);
      return row;
    });
    el.replaceChildren(table);
    paint();
  }
  function choose(row) {
    row.focus();
    model.send({ type: "pick", data: row.dataset.name });
  }
  function paint() {
    const selected = model.get("selected"), known = rows.some((row) => row.dataset.name === selected);
    rows.forEach((row, place) => {
      const on = row.dataset.name === selected;
      row.setAttribute("aria-selected", on);
      row.tabIndex = on || (!known && place === 0) ? 0 : -1;
      if (on) show(row);
    });
  }
  function show(row) {
    // Not scrollIntoView, which would move the page as well.
    const top = row.offsetTop - el.querySelector("thead").offsetHeight;
    if (top < el.scrollTop) el.scrollTop = top;
    if (row.offsetTop + row.offsetHeight > el.scrollTop + el.clientHeight) {
      el.scrollTop = row.offsetTop + row.offsetHeight - el.clientHeight;
    }
  }
  el.addEventListener("keydown", (event) => {
    const here = rows.indexOf(document.activeElement), step = { ArrowUp: -1, ArrowDown: 1, Enter: 0, " ": 0 }[event.key];
    if (here < 0 || step === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    if (rows[here + step]) choose(rows[here + step]);
  });
  model.on("change:rows", build);
  model.on("change:selected", paint);
  build();
  return () => { model.off("change:rows", build); model.off("change:selected", paint); };
}

export default { render };
