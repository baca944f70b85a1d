/* Runs a notebook once, when it is opened, if its metadata has {"workbench": {"run_on_open": true}} and its kernel
 * has executed nothing yet; then saves it, so that a reloaded page shows the outputs again (their widgets live in
 * the kernel). A kernel that has run before is left alone: the state in it is the user's.
 *
 * JupyterLab loads a prebuilt extension as a module-federation container: init(scope) hands over JupyterLab's own
 * modules, get("./extension") gives the plugin. Written by hand, because that is all a bundler would add. */
(() => {
  let shared; // name -> version -> {get, loaded}

  const load = async name => {
    const versions = Object.values(shared[name]);
    const module = await (versions.find(version => version.loaded) ?? versions[0]).get();
    return module();
  };

  /* Whether the kernel has executed nothing in this session. Its history says so without leaving a trace in it. */
  const isFresh = async kernel => {
    const reply = await kernel.requestHistory({
      hist_access_type: "range", session: 0, start: 1, stop: 2, raw: true, output: false
    });
    return reply.content.status === "ok" && reply.content.history.length === 0;
  };

  /* Resolves when the session's kernel is idle: a starting kernel answers nothing. */
  const idle = session => new Promise(resolve => {
    const look = () => {
      if (session.session?.kernel?.status !== "idle") return;
      session.statusChanged.disconnect(look);
      session.kernelChanged.disconnect(look);
      resolve(session.session.kernel);
    };
    session.statusChanged.connect(look);
    session.kernelChanged.connect(look);
    look();
  });

  const runOnce = async (panel, actions) => {
    await panel.context.ready;
    await panel.revealed;
    if (!panel.context.model.getMetadata("workbench")?.run_on_open) return;
    await panel.sessionContext.ready;
    const kernel = await idle(panel.sessionContext);
    if (panel.isDisposed || !(await isFresh(kernel))) return;
    await actions.runAll(panel.content, panel.sessionContext);
    panel.content.activeCellIndex = 0; // running leaves the last cell active; the page is read from its top
    await panel.content.scrollToItem(0, "start");
    if (!panel.isDisposed) await panel.context.save();
  };

  const extension = async () => {
    const { INotebookTracker, NotebookActions } = await load("@jupyterlab/notebook");
    const plugin = {
      id: "workbench-autorun:plugin",
      autoStart: true,
      requires: [INotebookTracker],
      activate: (app, notebooks) => {
        const opened = (_, panel) => runOnce(panel, NotebookActions).catch(
          error => console.error("workbench-autorun: the notebook was not run", error)
        );
        notebooks.forEach(panel => opened(notebooks, panel));
        notebooks.widgetAdded.connect(opened);
      }
    };
    return () => ({ __esModule: true, default: plugin });
  };

  window._JUPYTERLAB ??= {};
  window._JUPYTERLAB["workbench-autorun"] = { init: scope => { shared = scope; }, get: extension };
})();
