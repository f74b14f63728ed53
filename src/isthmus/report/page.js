(function () {
  "use strict";
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const touch = window.matchMedia("(pointer: coarse)").matches;
  const plots = Array.from(document.querySelectorAll(".plot"));
  const PAGE = { plot: 660, map: 318 }; // widths on a printed page, in pixels: two maps stand side by side

  function ink(printing) {
    return dark.matches && !printing ? "#e3e6ea" : "#24292f";
  }

  // A map keeps both axes on one scale, so its height follows its width.
  function heightOf(plot, width) {
    const shape = Number(plot.dataset.shape || 0);
    if (!shape) return plot.layoutHeight;
    return Math.round(Number(plot.dataset.frame) + shape * Math.max(160, width - 80));
  }

  function draw(plot) {
    const spec = JSON.parse(document.getElementById(plot.id + "-data").textContent);
    plot.layoutHeight = spec.layout.height;
    const height = heightOf(plot, plot.clientWidth);
    plot.style.height = height + "px";
    const layout = Object.assign(spec.layout, { height: height, autosize: true });
    layout.font.color = ink(false);
    if (touch) layout.dragmode = false; // a finger scrolls the page, a tap shows values
    const settings = {
      responsive: true,
      displayModeBar: false,
    };
    return window.Plotly.newPlot(plot, spec.data, layout, settings);
  }

  function refresh(printing) {
    for (const plot of plots) {
      if (!plot._fullLayout) continue;
      const width = printing ? (plot.dataset.shape ? PAGE.map : PAGE.plot) : plot.clientWidth;
      const height = heightOf(plot, width);
      plot.style.height = height + "px";
      const size = printing ? { width: width, autosize: false } : { width: null, autosize: true };
      window.Plotly.relayout(plot, Object.assign(size, { height: height, "font.color": ink(printing) }));
    }
  }

  for (const button of document.querySelectorAll(".views button")) {
    button.addEventListener("click", function () {
      for (const other of button.parentElement.children) other.setAttribute("aria-pressed", String(other === button));
      window.Plotly.relayout(button.dataset.figure, JSON.parse(button.dataset.changes));
    });
  }

  let folded = [];
  function beforePrint() {
    folded = Array.from(document.querySelectorAll("details:not([open])"));
    for (const each of folded) each.open = true;
    refresh(true);
  }
  function afterPrint() {
    for (const each of folded) each.open = false;
    folded = [];
    refresh(false);
  }
  window.addEventListener("beforeprint", beforePrint);
  window.addEventListener("afterprint", afterPrint);
  dark.addEventListener("change", function () { refresh(false); });

  let waiting = 0;
  let lastWidth = window.innerWidth;
  window.addEventListener("resize", function () {
    if (window.innerWidth === lastWidth) return;
    lastWidth = window.innerWidth;
    window.clearTimeout(waiting);
    waiting = window.setTimeout(function () { refresh(false); }, 120);
  });

  Promise.all(plots.map(draw)).then(function () {
    document.documentElement.dataset.drawn = String(plots.length);
  });
})();
