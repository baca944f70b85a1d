// Draws a plotly figure. plotly.js comes from the kernel's Runtime model and is loaded once a page.

async function plotly(model) {
  window.__workbenchPlotly ??= (async () => {
    const reference = model.get("runtime");
    const carrier = typeof reference === "string"
      ? await model.widget_manager.get_model(reference.replace("IPY_MODEL_", ""))
      : reference;
    // Hidden from AMD and CommonJS loaders that a page may have: the bundle is to set a plain global.
    const parts = ["(function(){var define,module,exports;", carrier.get("source"), "\n}).call(window);"];
    const script = document.createElement("script");
    script.src = URL.createObjectURL(new Blob(parts, { type: "text/javascript" }));
    await new Promise((done, failed) => {
      script.onload = done;
      script.onerror = failed;
      document.head.append(script);
    });
    return window.Plotly;
  })();
  return window.__workbenchPlotly;
}

export default {
  async render({ model, el }) {
    const place = document.createElement("div");
    place.className = "wb-plot";
    place.style.width = "100%";
    place.style.height = model.get("height") ? `${model.get("height")}px` : "100%";
    el.append(place);
    const Plotly = await plotly(model);
    const unneeded = model.get("selects") ? ["lasso2d", "autoScale2d"] : ["select2d", "lasso2d", "autoScale2d"];
    const config = { displaylogo: false, responsive: true, displayModeBar: "hover",
                     modeBarButtonsToRemove: unneeded, toImageButtonOptions: { format: "svg" } };
    const drag = model.get("selects") ? { dragmode: "select", selectdirection: "v" } : {};

    async function draw() {
      const { data = [], layout = {} } = JSON.parse(model.get("spec"));
      // The container's size, unless the figure says its own.
      place.style.height = layout.height ? `${layout.height}px` : model.get("height") ? `${model.get("height")}px` : "100%";
      await Plotly.react(place, data, { autosize: !layout.width, ...drag, ...layout }, config);
      place.setAttribute("role", "img");
      place.setAttribute("aria-label", model.get("label"));
      place.dataset.drawn = Number(place.dataset.drawn ?? 0) + 1;
    }
    let waiting = false;
    const redraw = () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => { waiting = false; draw(); });
    };
    await draw();
    place.on("plotly_click", (event) => {
      const data = event.points[0]?.customdata;
      if (data !== undefined) model.send({ type: "pick", data });
    });
    place.on("plotly_selected", (event) => {
      const data = (event?.points ?? []).map((point) => point.customdata).filter((each) => each !== undefined);
      if (model.get("selects")) model.send({ type: "select", data });
    });
    model.on("change:spec", redraw);
    const watcher = new ResizeObserver(() => place.isConnected && Plotly.Plots.resize(place));
    watcher.observe(el);
    return () => {
      model.off("change:spec", redraw);
      watcher.disconnect();
      Plotly.purge(place);
    };
  },
};
