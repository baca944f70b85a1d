// A matrix on a canvas. Tiles arrive as float16 cells; a table of 65,536 colours turns bit patterns into pixels,
// so that other colours or limits cost no traffic. While a sharper tile is under way the last one is stretched.

const LEFT = 46, BOTTOM = 18, TOP = 4, RIGHT = 4;
const format = (x) => (x === null || x === undefined ? "–" : x === 0 ? "0" :
  Math.abs(x) >= 1e-3 && Math.abs(x) < 1e4 ? Number(x.toPrecision(4)).toString() : x.toExponential(2));

function half(bits) {
  const sign = bits >> 15 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}
const HALVES = Float32Array.from({ length: 65536 }, (_, bits) => half(bits));

// Errors are told apart over three decades: share = log(1 + 255 x) / log 256; the other views are linear.
const share = (x, log) => (log ? Math.log1p(255 * x) / Math.log(256) : x);
const middle = (log) => (log ? 15 / 255 : 0.5); // the x whose share is one half

function colours(palette, most, log) {
  const stops = palette.map((c) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16)));
  const table = new Uint32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const place = share(Math.min(1, Math.max(0, HALVES[bits] / most)), log) * (stops.length - 1);
    const low = Math.min(stops.length - 2, Math.floor(place) || 0), part = (place || 0) - low;
    const [r, g, b] = [0, 1, 2].map((i) => Math.round(stops[low][i] + (stops[low + 1][i] - stops[low][i]) * part));
    table[bits] = (255 << 24) | (b << 16) | (g << 8) | r;
  }
  return table;
}

function ticks(from, to, room) {
  const span = to - from, least = span / Math.max(1, room);
  const step = Math.max(1, [1, 2, 5, 10].map((m) => m * 10 ** Math.floor(Math.log10(least || 1)))
    .find((s) => s >= least) ?? 1);
  const found = [];
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) found.push(at);
  return found;
}

function render({ model, el }) {
  el.classList.add("wb-map");
  el.innerHTML = `
    <div class="wb-map-bar">
      <div class="wb-map-views" role="radiogroup" aria-label="what the map shows"></div>
      <select aria-label="what a cell of the map shows" title="what a cell of several weights shows">
        <option value="max">max</option><option value="mean">mean</option></select>
      <button class="wb-map-whole" title="show the whole matrix (0 or double click)">whole</button>
      <button class="wb-map-fit" title="fit the colours to what is shown now">fit</button>
    </div>
    <div class="wb-map-stage"><canvas tabindex="0" role="img"></canvas>
      <div class="wb-map-scale"><span class="wb-map-high"></span><div><i></i><span class="wb-map-middle"></span></div><span>0</span></div></div>
    <div class="wb-map-line" aria-live="polite"></div>`;
  const canvas = el.querySelector("canvas"), stage = el.querySelector(".wb-map-stage");
  const line = el.querySelector(".wb-map-line"), high = el.querySelector(".wb-map-high");
  const brush = canvas.getContext("2d");
  const picture = document.createElement("canvas");
  let view = [0, 0, 1, 1], tile = null, table = null, seq = 0, busy = 0, again = false, whole = true;

  const limit = () => model.get("limits")[model.get("view")] || 1;
  const log = () => model.get("logarithmic").includes(model.get("view"));
  const size = () => [canvas.width - (LEFT + RIGHT) * ratio(), canvas.height - (TOP + BOTTOM) * ratio()];
  const ratio = () => window.devicePixelRatio || 1;

  function clamp() {
    const rows = model.get("rows"), columns = model.get("columns");
    const h = Math.min(rows, Math.max(4, view[2] - view[0])), w = Math.min(columns, Math.max(4, view[3] - view[1]));
    view[0] = Math.min(Math.max(0, view[0]), rows - h);
    view[1] = Math.min(Math.max(0, view[1]), columns - w);
    view = [view[0], view[1], view[0] + h, view[1] + w];
    whole = h === rows && w === columns;
  }

  function ask() {
    // One request under way, the newest waiting: older ones are never sent. An answer that never came (a kernel
    // that was restarted) is given up after three seconds.
    if (busy && performance.now() - busy < 3000) { again = true; return; }
    busy = performance.now();
    const [w, h] = size();
    model.send({ type: "tile", seq: ++seq, view: model.get("view"), reduction: model.get("reduction"),
                 window: [Math.floor(view[0]), Math.floor(view[1]), Math.ceil(view[2]), Math.ceil(view[3])],
                 // A level has a quarter of the cells of the one before: twice the pixels keeps it finer than those.
                 most: Math.max(4096, Math.round(2 * w * h)) });
  }

  function paint() {
    if (!tile) return;
    table ??= colours(model.get("palette"), limit() / tile.unit, log());
    const [rows, columns] = tile.shape;
    picture.width = columns; picture.height = rows;
    const image = picture.getContext("2d").createImageData(columns, rows);
    const pixels = new Uint32Array(image.data.buffer);
    for (let i = 0; i < pixels.length; i++) pixels[i] = table[tile.bits[i]];
    picture.getContext("2d").putImageData(image, 0, 0);
    draw();
  }

  function draw() {
    const dpr = ratio(), [w, h] = size(), style = getComputedStyle(el);
    brush.setTransform(1, 0, 0, 1, 0, 0);
    brush.clearRect(0, 0, canvas.width, canvas.height);
    const x = (column) => LEFT * dpr + ((column - view[1]) / (view[3] - view[1])) * w;
    const y = (row) => TOP * dpr + ((row - view[0]) / (view[2] - view[0])) * h;
    if (tile) {
      const [top, left, bottom, right] = tile.window;
      brush.save();
      brush.beginPath();
      brush.rect(LEFT * dpr, TOP * dpr, w, h);
      brush.clip();
      brush.imageSmoothingEnabled = false;
      brush.drawImage(picture, x(left), y(top), x(right) - x(left), y(bottom) - y(top));
      brush.restore();
    }
    brush.fillStyle = brush.strokeStyle = style.color;
    brush.font = `${10 * dpr}px ${style.fontFamily}`;
    brush.lineWidth = dpr;
    brush.globalAlpha = 0.75;
    brush.textAlign = "center"; brush.textBaseline = "top";
    for (const at of ticks(view[1], view[3], w / (70 * dpr))) {
      brush.fillRect(x(at), TOP * dpr + h, dpr, 3 * dpr);
      const half = brush.measureText(at).width / 2;
      brush.fillText(at, Math.min(Math.max(x(at), LEFT * dpr + half), canvas.width - half), TOP * dpr + h + 5 * dpr);
    }
    brush.textAlign = "right"; brush.textBaseline = "middle";
    for (const at of ticks(view[0], view[2], h / (34 * dpr))) {
      brush.fillRect((LEFT - 3) * dpr, y(at), 3 * dpr, dpr);
      brush.fillText(at, (LEFT - 5) * dpr, Math.min(Math.max(y(at), 8 * dpr), TOP * dpr + h - 4 * dpr));
    }
    brush.globalAlpha = 1;
  }

  function legend() {
    const short = (x) => format(Number(x.toPrecision(2)));
    high.textContent = short(limit());
    el.querySelector(".wb-map-middle").textContent = short(limit() * middle(log()));
    el.querySelector(".wb-map-scale i").style.background =
      `linear-gradient(to top, ${model.get("palette").join(",")})`;
    for (const button of el.querySelectorAll(".wb-map-views button")) {
      const on = button.dataset.view === model.get("view");
      button.setAttribute("aria-checked", on);
      button.tabIndex = on ? 0 : -1;
    }
    el.querySelector("select").value = model.get("reduction");
    canvas.setAttribute("aria-label", `${model.get("views")[model.get("view")]} of ${model.get("name")}, ` +
      `${model.get("rows")} rows by ${model.get("columns")} columns, colours 0 to ${format(limit())}`);
  }

  function settle() {
    const dpr = ratio(), box = stage.getBoundingClientRect();
    const width = Math.max(120, Math.round((box.width - 56) * dpr)), height = Math.round(model.get("height") * dpr);
    if (canvas.width === width && canvas.height === height) return;
    canvas.width = width; canvas.height = height;
    canvas.style.width = `${width / dpr}px`; canvas.style.height = `${height / dpr}px`;
    clamp(); draw(); ask();
  }

  function heard(message, buffers) {
    if (message.type === "at") return hovered(message);
    if (message.type === "error") { line.textContent = message.text; busy = 0; return; }
    if (message.type !== "tile") return;
    if (message.seq !== null) {
      busy = 0;
      if (again) { again = false; ask(); }
    }
    // A tile of another view was asked for before the view was changed.
    if (message.view !== model.get("view")) return;
    const raw = buffers[0];
    const bytes = raw.buffer ? raw.buffer.slice(raw.byteOffset, raw.byteOffset + raw.byteLength) : raw;
    if (!tile || tile.unit !== message.unit) table = null;
    tile = { ...message, bits: new Uint16Array(bytes) };
    paint();
    el.dataset.exact = message.exact;
    el.dataset.bytes = bytes.byteLength;
    el.dataset.cell = message.cell;
    el.dataset.drawn = Number(el.dataset.drawn ?? 0) + 1;
    el.dispatchEvent(new CustomEvent("workbench-drawn", { detail: { exact: message.exact, at: performance.now() } }));
  }

  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    const u = (event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT);
    const v = (event.clientY - box.top - TOP) / (box.height - TOP - BOTTOM);
    return [view[0] + v * (view[2] - view[0]), view[1] + u * (view[3] - view[1]), u, v];
  };
  function zoom(factor, row, column) {
    view = [row + (view[0] - row) * factor, column + (view[1] - column) * factor,
            row + (view[2] - row) * factor, column + (view[3] - column) * factor];
    clamp(); draw(); ask();
  }
  function pan(rows, columns) {
    view = [view[0] + rows, view[1] + columns, view[2] + rows, view[3] + columns];
    clamp(); draw(); ask();
  }
  function reset() { view = [0, 0, model.get("rows"), model.get("columns")]; clamp(); draw(); ask(); }

  let drag = null, timer = null, asked = 0;
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const [row, column] = place(event);
    zoom(Math.exp(Math.max(-100, Math.min(100, event.deltaY)) * 0.004), row, column);
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    drag = [event.clientX, event.clientY];
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointerup", () => { drag = null; });
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    if (drag) {
      pan(-(event.clientY - drag[1]) / (box.height - TOP - BOTTOM) * (view[2] - view[0]),
          -(event.clientX - drag[0]) / (box.width - LEFT - RIGHT) * (view[3] - view[1]));
      drag = [event.clientX, event.clientY];
      return;
    }
    const [row, column, u, v] = place(event);
    if (u < 0 || u >= 1 || v < 0 || v >= 1) return;
    clearTimeout(timer);
    timer = setTimeout(() => model.send({ type: "at", seq: ++asked, row: Math.floor(row), column: Math.floor(column) }), 25);
  });
  canvas.addEventListener("dblclick", reset);
  canvas.addEventListener("keydown", (event) => {
    const h = (view[2] - view[0]) / 8, w = (view[3] - view[1]) / 8;
    const middle = [(view[0] + view[2]) / 2, (view[1] + view[3]) / 2];
    const moves = { ArrowUp: () => pan(-h, 0), ArrowDown: () => pan(h, 0), ArrowLeft: () => pan(0, -w),
                    ArrowRight: () => pan(0, w), "+": () => zoom(0.7, ...middle), "=": () => zoom(0.7, ...middle),
                    "-": () => zoom(1.4, ...middle), 0: reset };
    if (!moves[event.key]) return;
    event.preventDefault(); event.stopPropagation();
    moves[event.key]();
  });
  function hovered(m) {
    if (m.seq !== asked) return;
    const code = m.kept === false ? "pruned" : m.code === null ? "" : `code ${m.code}`;
    const zero = m.zero === null ? "" : `zero ${m.zero}`;
    const scale = m.scale === null ? "" : `scale ${format(m.scale)}`;
    const parts = [`row ${m.row}, column ${m.column}`, `${format(m.w)} → ${format(m.compressed)}`, code, scale, zero];
    line.textContent = parts.filter(Boolean).join(" · ");
    line.title = `weight → compressed weight; error ${format(m.error)}`;
  }

  const bar = el.querySelector(".wb-map-views");
  const titles = { weight: "Weight", compressed: "Compressed", error: "Error", relative: "Relative" };
  for (const [key, formula] of Object.entries(model.get("views"))) {
    const button = document.createElement("button");
    Object.assign(button, { textContent: titles[key] ?? key, title: formula });
    button.dataset.view = key;
    button.setAttribute("role", "radio");
    button.onclick = () => { model.set("view", key); model.save_changes(); };
    button.onkeydown = (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const all = [...bar.children], next = all[(all.indexOf(button) + step + all.length) % all.length];
      event.stopPropagation(); next.focus(); next.click();
    };
    bar.append(button);
  }
  el.querySelector("select").onchange = (event) => { model.set("reduction", event.target.value); model.save_changes(); };
  el.querySelector(".wb-map-whole").onclick = reset;
  el.querySelector(".wb-map-fit").onclick = () => model.send({ type: "fit" });

  const on = { "change:view": () => { table = null; legend(); ask(); },
               "change:reduction": () => { legend(); ask(); },
               "change:limits": () => { table = null; legend(); paint(); },
               "change:name": () => { line.textContent = hint; busy = 0; tile = null; table = null; legend(); reset(); },
               "change:height": settle, "msg:custom": heard };
  for (const [event, call] of Object.entries(on)) model.on(event, call);
  const watcher = new ResizeObserver(settle);
  watcher.observe(stage);
  // Another theme. JupyterLab says so on the body, once the new style sheet is there. On other pages the end of the
  // colour's transition tells, however short it is, or that it was cancelled, as where the page was hidden meanwhile.
  const lights = new MutationObserver(() => draw());
  lights.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
  const themed = (event) => { if (event.target === el && event.propertyName === "color") draw(); };
  const ends = ["transitionend", "transitioncancel"];
  for (const end of ends) el.addEventListener(end, themed);
  const hint = "wheel: zoom · drag: pan · double click: whole";
  line.textContent = hint;
  view = [0, 0, model.get("rows"), model.get("columns")];
  legend(); settle();
  return () => {
    for (const [event, call] of Object.entries(on)) model.off(event, call);
    for (const end of ends) el.removeEventListener(end, themed);
    watcher.disconnect(); lights.disconnect(); clearTimeout(timer);
  };
}

export default { render };
