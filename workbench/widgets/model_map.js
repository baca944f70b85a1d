// Layers as cells (blocks down, roles across) or as bars; the selected one is ringed, not recoloured.

const number = (x) => (x === null || x === undefined ? "no value" : x >= 1000 ? Math.round(x).toLocaleString("en") :
  Number(x.toPrecision(3)).toString());

function mixed(palette, share) {
  const stops = palette.map((c) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16)));
  const place = Math.min(1, Math.max(0, share)) * (stops.length - 1), low = Math.min(stops.length - 2, Math.floor(place));
  return `rgb(${stops[low].map((a, i) => Math.round(a + (stops[low + 1][i] - a) * (place - low))).join(",")})`;
}

function render({ model, el }) {
  el.classList.add("wb-layers");
  let boxes = new Map();

  function build() {
    el.textContent = "";
    boxes = new Map();
    const cells = model.get("cells"), columns = model.get("columns"), grid = model.get("grid");
    const frame = document.createElement("div");
    frame.className = grid ? "wb-layers-grid" : "wb-layers-bars";
    frame.setAttribute("role", "listbox");
    frame.setAttribute("aria-label", "layers of the model");
    if (grid) {
      frame.style.gridTemplateColumns = `auto repeat(${columns.length}, minmax(0, 1fr))`;
      frame.append(document.createElement("span"), ...columns.map((name) => text(name, "wb-layers-role")));
      const rows = Math.max(...cells.map((cell) => cell.row)) + 1;
      for (let row = 0; row < rows; row++) {
        frame.append(text(row, "wb-layers-block"));
        for (let column = 0; column < columns.length; column++) {
          const cell = cells.find((c) => c.row === row && c.column === column);
          frame.append(cell ? box(cell, "") : document.createElement("span"));
        }
      }
    } else {
      const largest = Math.max(...cells.map((cell) => cell.size));
      for (const cell of cells) {
        const bar = box(cell, cell.label);
        bar.style.setProperty("--share", `${Math.max(4, 100 * Math.sqrt(cell.size / largest))}%`);
        frame.append(bar);
      }
    }
    el.append(frame);
    const outside = grid ? cells.filter((cell) => cell.row < 0) : [];
    if (outside.length) {
      const row = document.createElement("div");
      row.className = "wb-layers-outside";
      row.append(...outside.flatMap((cell) => [text(cell.label, "wb-layers-block"), box(cell, "")]));
      el.append(row);
    }
    const key = document.createElement("div");
    key.className = "wb-layers-key";
    key.innerHTML = "<span></span><i></i><span></span>";
    const caption = document.createElement("div");
    caption.className = "wb-layers-caption";
    el.append(key, caption);
    paint();
  }
  function text(content, kind) {
    const span = document.createElement("span");
    span.className = kind;
    span.textContent = content;
    return span;
  }
  function box(cell, label) {
    const button = document.createElement("button");
    button.className = "wb-layer";
    button.dataset.layer = cell.name;
    button.setAttribute("role", "option");
    if (label) button.append(text(label, "wb-layer-name"));
    button.onclick = () => choose(cell.name);
    boxes.set(cell.name, { button, cell });
    return button;
  }
  function choose(name) {
    model.set("selected", name);
    model.save_changes();
  }
  function paint() {
    const values = model.get("values");
    // Embedding and head stand apart: their values shall not set the colours of all others.
    const counted = model.get("cells").filter((cell) => cell.row >= 0).map((cell) => values[cell.name]);
    const known = counted.filter((v) => v !== null && v !== undefined);
    const low = Math.min(...known), high = Math.max(...known), palette = model.get("palette");
    for (const [name, { button }] of boxes) {
      const value = values[name], none = value === null || value === undefined;
      button.classList.toggle("wb-layer-none", none);
      // Named, so that bars can colour a part of themselves.
      button.style.setProperty("--colour", none ? "transparent" : mixed(palette, high > low ? (value - low) / (high - low) : 0.5));
      button.title = `${name}\n${number(value)}`;
      button.setAttribute("aria-label", `${name}: ${number(value)}`);
      const on = name === model.get("selected");
      button.setAttribute("aria-selected", on);
      button.tabIndex = on ? 0 : -1;
    }
    const [least, ramp, most] = el.querySelector(".wb-layers-key").children;
    ramp.style.background = `linear-gradient(to right, ${palette.join(",")})`;
    least.textContent = known.length ? number(low) : "";
    most.textContent = known.length ? number(high) : "";
    el.querySelector(".wb-layers-caption").textContent = model.get("caption");
  }
  el.addEventListener("keydown", (event) => {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (!steps[event.key]) return;
    event.preventDefault(); event.stopPropagation();
    const here = boxes.get(model.get("selected"))?.cell, [dy, dx] = steps[event.key];
    const next = model.get("cells").find((c) => here && c.row === here.row + dy && c.column === here.column + dx);
    if (next) { choose(next.name); boxes.get(next.name).button.focus(); }
  });
  const shown = () => {
    paint();
    boxes.get(model.get("selected"))?.button.scrollIntoView({ block: "nearest" });
  };
  model.on("change:cells", build);
  model.on("change:values change:caption", paint);
  model.on("change:selected", shown);
  build();
  return () => { model.off("change:cells", build); model.off("change:values change:caption", paint); model.off("change:selected", shown); };
}

export default { render };
