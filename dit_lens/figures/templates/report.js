"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const read = (id) => JSON.parse($(id).textContent);
  const root = document.documentElement;

  // ---- light and dark -------------------------------------------------------------------------------------------
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const templates = read("templates");
  const button = $("theme");
  let chosen = null; // null: follow the system
  const mode = () => chosen || (system.matches ? "dark" : "light");

  function applyTheme() {
    root.dataset.theme = mode();
    const dark = mode() === "dark";
    button.textContent = dark ? "Light" : "Dark";
    button.setAttribute("aria-label", dark ? "Switch to light colours" : "Switch to dark colours");
    plots.forEach((plot) => plot.draw());
  }

  // ---- plotly figures -------------------------------------------------------------------------------------------
  const plots = [];

  // On a phone the colour bar lies on top, and an effect's placebo comes below it instead of beside it.
  function narrow(layout) {
    const meta = layout.meta || {};
    if (meta.kind !== "heatmap") return;
    const plain = layout.height - layout.margin.t - 60;
    const both = meta.panels > 1;
    layout.margin = { ...layout.margin, t: 92, r: 8 };
    layout.height = (both ? 2 * plain + 90 : plain) + 150;
    const bar = layout.coloraxis.colorbar;
    const inner = layout.height - 150;
    Object.assign(bar, { orientation: "h", x: 0.5, xanchor: "center", y: 1 + 26 / inner, yanchor: "bottom", len: 0.9 });
        bar.title.side = "top";
    Object.assign(layout.xaxis, { nticks: 8 });
    if (!both) return;
    Object.assign(layout.xaxis2, { nticks: 8 });
    // the lower panel says it for both; as a note, since plotly sets the title of a moved axis over its ticks
    const said = { text: layout.xaxis2.title.text, font: { size: 13 }, showarrow: false };
    Object.assign(said, { x: 0.5, xref: "paper", y: 0, yref: "paper", yanchor: "top", yshift: -22 });
    layout.xaxis.title = layout.xaxis2.title = { text: "" };
    const half = plain / inner;
    layout.xaxis.domain = layout.xaxis2.domain = [0, 1];
    layout.yaxis.domain = [1 - half, 1];
    layout.yaxis2.domain = [0, half];
    Object.assign(layout.yaxis2, { showticklabels: true, title: layout.yaxis.title });
    layout.xaxis2.anchor = "y2";
    layout.yaxis2.anchor = "x2";
    layout.annotations.slice(0, 2).forEach((note, i) => Object.assign(note, { x: 0, xanchor: "left", y: i ? half : 1 }));
    layout.annotations.push(said);
  }

  const touch = window.matchMedia("(pointer: coarse)").matches;

  class Plot {
    constructor(div) {
      this.div = div;
      this.source = $(div.dataset.spec).textContent;
      this.selected = null; // [x0, x1, y0, y1] around the opened cell
      this.clicked = () => {};
      this.narrow = null; // how it is arranged now
    }
    draw() {
      const { data, layout } = JSON.parse(this.source); // plotly writes into what it is given: parse afresh
      layout.template = templates[mode()];
      layout.autosize = true;
      layout.dragmode = touch ? false : "zoom"; // a finger that drags scrolls the page
      delete layout.width;
      const small = this.div.clientWidth < 560;
      if (small) narrow(layout);
      this.div.style.height = `${layout.height || 450}px`;
      if (this.selected) {
        const [x0, x1, y0, y1] = this.selected;
        const line = { width: 2.5, color: mode() === "dark" ? "#ffffff" : "#111111" };
        layout.shapes = (layout.shapes || []).concat([{ type: "rect", xref: "x", yref: "y", x0, x1, y0, y1, line }]);
      }
      // no bar of plotly's: its buttons lie inside a picture, and one of them would send the figure away
      const config = { responsive: true, displayModeBar: false, scrollZoom: false };
      if (this.narrow === small) Plotly.react(this.div, data, layout, config);
      else {
        // plotly keeps parts of the old arrangement on `react`: begin anew
        if (this.narrow !== null) Plotly.purge(this.div);
        this.narrow = small;
        Plotly.newPlot(this.div, data, layout, config);
        this.div.on("plotly_click", (event) => this.clicked(event));
      }
    }
  }

  // svg: the policy of this page forbids the blob: pictures that plotly makes for png
  document.querySelectorAll("[data-save]").forEach((b) => b.addEventListener("click", () => {
    const div = $(b.dataset.save).querySelector(".plot");
    Plotly.downloadImage(div, { format: "svg", filename: b.dataset.save, width: div.clientWidth, height: div.clientHeight });
  }));

  // ---- frames ---------------------------------------------------------------------------------------------------
  const decoded = new Map();
  function sheet(id) {
    if (!decoded.has(id)) decoded.set(id, $(id).decode().then(() => $(id)));
    return decoded.get(id);
  }

  // Copy one sprite onto a canvas of exactly its size; CSS enlarges it without smoothing.
  function paint(canvas, step, frame) {
    const image = $(canvas.dataset.sheet);
    const row = Math.min(step, Number(image.dataset.rows) - 1);
    const x = frame * canvas.width;
    const y = row * canvas.height;
    canvas.dataset.want = `${x},${y}`;
    sheet(canvas.dataset.sheet).then((img) => {
      if (canvas.dataset.want !== `${x},${y}`) return; // a later request overtook this one
      canvas.getContext("2d").drawImage(img, x, y, canvas.width, canvas.height, 0, 0, canvas.width, canvas.height);
      canvas.dataset.offset = `${x},${y}`;
    });
  }

  class Viewer {
    constructor(element) {
      this.element = element;
      this.steps = JSON.parse(element.dataset.steps);
      this.sigmas = JSON.parse(element.dataset.sigmas);
      this.ranges = {};
      element.querySelectorAll("input[type=range]").forEach((input) => {
        this.ranges[input.dataset.axis] = input;
        input.addEventListener("input", () => { this.stop(); this.show(); });
      });
      this.buttons = Array.from(element.querySelectorAll("[data-play]"));
      this.buttons.forEach((b) => b.addEventListener("click", () => this.toggle(b.dataset.play)));
      element.querySelectorAll("[data-go]").forEach((b) =>
        b.addEventListener("click", () => { this.stop(); this.set("step", Number(b.dataset.go)); }));
      element.addEventListener("keydown", (event) => this.key(event));
      this.timer = null;
      this.playing = null;
    }
    at(axis) { return this.ranges[axis] ? Number(this.ranges[axis].value) : 0; }
    last(axis) { return this.ranges[axis] ? Number(this.ranges[axis].max) : 0; }
    set(axis, value) {
      if (!this.ranges[axis]) return;
      this.ranges[axis].value = String(Math.max(0, Math.min(this.last(axis), value)));
      this.show();
    }
    show() {
      const step = this.at("step");
      const frame = this.at("frame");
      this.element.querySelectorAll(".pane canvas").forEach((canvas) => paint(canvas, canvas.dataset.kind === "film" ? step : 0, frame));
      const sigma = this.sigmas.length ? ` · σ ${this.sigmas[step]}` : "";
      this.say("step", `${this.steps[step]} of ${this.steps[this.steps.length - 1]}${sigma}`);
      this.say("frame", `${frame} of ${this.last("frame")}`);
      this.element.querySelectorAll("[data-go]").forEach((b) => {
        const here = Number(b.dataset.go) === step;
        b.classList.toggle("here", here);
        b.setAttribute("aria-current", here ? "step" : "false");
      });
      this.element.querySelectorAll(".strip canvas").forEach((c) =>
        c.classList.toggle("here", Number(c.dataset.step) === step && Number(c.dataset.frame) === frame));
    }
    say(axis, text) {
      const input = this.ranges[axis];
      if (!input) return;
      input.setAttribute("aria-valuetext", `${axis} ${text}`);
      this.element.querySelector(`[data-out=${axis}]`).textContent = text;
    }
    toggle(axis) {
      const start = this.playing !== axis;
      this.stop();
      if (!start || this.last(axis) < 1) return;
      this.playing = axis;
      if (this.at(axis) === this.last(axis)) this.set(axis, 0);
      const every = axis === "frame" ? 1000 / Number(this.element.dataset.fps) : 320;
      this.timer = setInterval(() => this.set(axis, this.at(axis) === this.last(axis) ? 0 : this.at(axis) + 1), every);
      this.mark();
    }
    stop() {
      clearInterval(this.timer);
      this.playing = null;
      this.mark();
    }
    mark() { this.buttons.forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.play === this.playing))); }
    key(event) {
      // sliders, buttons and scrolling strips keep their own keys
      if (event.target !== this.element || event.altKey || event.ctrlKey || event.metaKey) return;
      const moves = { ArrowLeft: ["frame", -1], ArrowRight: ["frame", 1], ArrowUp: ["step", 1], ArrowDown: ["step", -1] };
      if (event.key in moves) {
        const [axis, by] = moves[event.key];
        if (!this.ranges[axis]) return;
        this.stop();
        this.set(axis, this.at(axis) + by);
      } else if (event.key === " ") this.toggle("frame");
      else return;
      event.preventDefault();
    }
  }

  // ---- clips behind the cells of a heatmap ------------------------------------------------------------------------
  class Cells {
    constructor(element, plot) {
      const { entries, x, dims, known } = read(element.dataset.cells);
      Object.assign(this, { entries, x, dims, known, plot });
      this.select = element.querySelector("select");
      this.box = element.querySelector(".viewer");
      this.viewer = new Viewer(this.box);
      this.select.addEventListener("change", () => this.open(this.select.value === "" ? -1 : Number(this.select.value)));
      plot.clicked = (event) => {
        const point = event.points[0];
        const key = this.dims.map((dim) => String(dim === this.x ? point.x : point.y));
        const index = this.entries.findIndex((entry) => entry.key.every((part, i) => part === key[i]));
        if (index >= 0) this.open(index);
      };
    }
    open(index) {
      this.viewer.stop();
      this.box.hidden = index < 0;
      this.select.value = index < 0 ? "" : String(index);
      if (index < 0) this.plot.selected = null;
      else {
        const entry = this.entries[index];
        this.box.querySelector(".label").textContent = entry.label;
        this.box.querySelector(".panes").replaceChildren(...entry.panes.map((pane) => this.pane(pane)));
        this.viewer.ranges.frame.max = String(entry.frames - 1);
        this.viewer.ranges.frame.disabled = entry.frames < 2;
        this.viewer.set("frame", entry.frames - 1);
        const at = this.dims.map((dim, i) => this.known[dim].indexOf(entry.key[i]));
        const [i, j] = this.dims[0] === this.x ? at : [at[1], at[0]];
        this.plot.selected = [i - 0.5, i + 0.5, j - 0.5, j + 0.5];
      }
      this.plot.draw();
    }
    pane({ name, sheet: id }) {
      const figure = document.createElement("figure");
      const canvas = document.createElement("canvas");
      const caption = document.createElement("figcaption");
      const image = $(id);
      figure.className = "pane";
      canvas.dataset.sheet = id;
      canvas.dataset.kind = "clip";
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", name);
      caption.textContent = name;
      canvas.width = Number(image.dataset.width);
      canvas.height = Number(image.dataset.height);
      figure.append(canvas, caption);
      return figure;
    }
  }

  // ---- start ----------------------------------------------------------------------------------------------------
  document.querySelectorAll(".viewer").forEach((element) => {
    if (element.closest(".cells")) return;
    new Viewer(element).show();
    element.querySelectorAll(".strip canvas").forEach((c) => paint(c, Number(c.dataset.step), Number(c.dataset.frame)));
  });
  document.querySelectorAll(".plot").forEach((div) => plots.push(new Plot(div)));
  button.addEventListener("click", () => { chosen = mode() === "dark" ? "light" : "dark"; applyTheme(); });
  // crossing the width of a phone (turning it) changes the arrangement, not only the size
  window.addEventListener("resize", () => plots.forEach((plot) => {
    if (plot.narrow !== plot.div.clientWidth < 560) plot.draw();
  }));
  system.addEventListener("change", applyTheme);
  applyTheme();
  document.querySelectorAll(".cells").forEach((element) => {
    const div = $(element.dataset.plot).querySelector(".plot");
    new Cells(element, plots.find((plot) => plot.div === div));
  });
  root.dataset.ready = "yes";
})();
