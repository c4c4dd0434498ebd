"use strict";
(function () {
  const source = document.getElementById("conformation-data");
  if (!source) return;
  const data = JSON.parse(source.textContent);

  function bytes(text) {
    const raw = atob(text);
    const out = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
    return out;
  }
  // the file is little-endian whatever the machine
  function numbers(text, size) {
    const raw = bytes(text), out = new Uint32Array(raw.length / size);
    for (let i = 0; i < out.length; i++) for (let b = 0; b < size; b++) out[i] += raw[i * size + b] * 2 ** (8 * b);
    return out;
  }
  const viridis = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];
  function spaced(count) { return count.toLocaleString("en").replace(/,/g, "\u202f"); }
  function colourOf(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

  const latent = document.getElementById("latent");
  const now = {};  // map of each series that its player shows
  if (latent && data.panels) scatter();

  function scatter() {
    // all of them where no rows are given
    const rows = data.rows ? numbers(data.rows, 4) : Uint32Array.from({ length: data.shown }, function (_, i) { return i; });
    const labels = {};
    for (const kind of Object.keys(data.labellings)) labels[kind] = numbers(data.labellings[kind].labels, 2);
    const unsure = data.uncertainty ? numbers(data.uncertainty, 1) : null;
    const names = data.names ? { stack: numbers(data.names.stack, 2), index: numbers(data.names.index, 4) } : null;
    const figures = Array.from(latent.querySelectorAll("figure.panel"));
    const panels = data.panels.map(function (p, i) {
      return { name: p.name, paths: p.paths, x: numbers(p.x, 2), y: numbers(p.y, 2), canvas: figures[i].querySelector("canvas") };
    });
    const colour = document.getElementById("latent-colour");
    const way = document.getElementById("latent-path");
    const count = document.getElementById("brush-count");
    const buttons = document.getElementById("brush-buttons");
    const list = document.getElementById("brush-list");
    const invitation = count.textContent;
    let chosen = null, brush = null, text = "", pending = false;

    latent.querySelector(".brushed").hidden = false;
    const kinds = Object.keys(labels);
    colour.value = data.count > 5000 ? "density" : kinds.length ? kinds[0] : "plain";
    if (way) {
      way.add(new Option("none", ""));
      data.series.forEach(function (name) {
        if (panels.some(function (p) { return p.paths[name]; })) way.add(new Option(name, name));
      });
      way.parentElement.hidden = way.options.length === 1;
      if (way.options.length > 1) way.selectedIndex = 1;
    }

    function shade(i) {
      if (labels[colour.value]) return data.labellings[colour.value].colours[labels[colour.value][i] - 1] || colourOf("--c1");
      if (colour.value === "uncertainty") return viridis[Math.min(viridis.length - 1, Math.floor(unsure[i] / 256 * viridis.length))];
      return colourOf("--c2");
    }
    // points of one colour are drawn together
    function groups() {
      const out = new Map();
      for (let i = 0; i < rows.length; i++) {
        const key = labels[colour.value] ? labels[colour.value][i] : colour.value === "uncertainty" ? Math.floor(unsure[i] / 256 * viridis.length) : 0;
        if (!out.has(key)) out.set(key, { colour: shade(i), members: [] });
        out.get(key).members.push(i);
      }
      return Array.from(out.values());
    }
    let grouped = groups();

    function draw(panel) {
      const canvas = panel.canvas, ratio = window.devicePixelRatio || 1;
      const width = Math.round(canvas.clientWidth * ratio);
      if (!width) return;
      canvas.width = width;
      canvas.height = Math.round(width * data.height / data.width);
      const c = canvas.getContext("2d"), scale = width / data.width / data.steps;
      const size = (rows.length > 5000 ? 1.2 : rows.length > 1000 ? 1.7 : 2.4) * width / data.width;
      function dots(members, fill, alpha, side) {
        c.globalAlpha = alpha;
        c.fillStyle = fill;
        for (const i of members) c.fillRect(panel.x[i] * scale - side / 2, panel.y[i] * scale - side / 2, side, side);
      }
      if (colour.value !== "density") for (const g of grouped) dots(g.members, g.colour, chosen ? 0.18 : 0.75, size);
      if (chosen) {
        dots(chosen, colourOf("--card"), 1, size + 2 * ratio);
        dots(chosen, colourOf("--mark"), 1, size + 0.6 * ratio);
      }
      c.globalAlpha = 1;
      path(panel, c, width / data.width);
      if (brush && brush.panel === panel) {
        c.strokeStyle = colourOf("--ink");
        c.lineWidth = ratio;
        c.setLineDash([5 * ratio, 3 * ratio]);
        const s = width / data.width;
        c.strokeRect(Math.min(brush.x0, brush.x1) * s, Math.min(brush.y0, brush.y1) * s, Math.abs(brush.x1 - brush.x0) * s, Math.abs(brush.y1 - brush.y0) * s);
      }
    }
    function path(panel, c, s) {
      const which = way ? way.value : "";
      const found = which ? panel.paths[which] : null;
      if (!found) return;
      const places = found.places;
      if (found.joined) for (const [stroke, wide] of [[colourOf("--card"), 4.5], [colourOf("--ink"), 1.8]]) {
        c.strokeStyle = stroke;
        c.lineWidth = wide * s;
        c.lineJoin = "round";
        c.setLineDash([]);
        c.beginPath();
        places.forEach(function (p, i) { if (i) c.lineTo(p[0] * s, p[1] * s); else c.moveTo(p[0] * s, p[1] * s); });
        c.stroke();
      }
      places.forEach(function (p, i) {
        const here = i === (now[which] || 0);
        c.beginPath();
        c.arc(p[0] * s, p[1] * s, (here ? 7 : 4) * s, 0, 2 * Math.PI);
        c.fillStyle = here ? colourOf("--mark") : colourOf("--card");
        c.fill();
        c.strokeStyle = colourOf("--ink");
        c.lineWidth = 1.4 * s;
        c.stroke();
      });
    }
    const redraw = function () {
      if (pending) return;
      pending = true;
      requestAnimationFrame(function () { pending = false; panels.forEach(draw); });
    };
    document.addEventListener("cryoloom:frame", function (event) {
      now[event.detail.series] = event.detail.frame;
      const known = way && Array.from(way.options).some(function (o) { return o.value === event.detail.series; });
      if (known && event.detail.chosen) way.value = event.detail.series;
      redraw();
    });
    function recolour() {
      latent.classList.toggle("points", colour.value !== "density");
      for (const kind of Object.keys(labels).concat("uncertainty")) {
        for (const item of latent.querySelectorAll(".of-" + kind)) item.hidden = colour.value !== kind;
      }
      grouped = groups();
      redraw();
    }

    function nameOf(i) {
      if (!names) return "";
      const stack = data.names.stacks[names.stack[i]], index = names.index[i];
      return "\t" + (index ? String(index).padStart(6, "0") + "@" + stack : stack);
    }
    function choose() {
      const low = [Math.min(brush.x0, brush.x1), Math.min(brush.y0, brush.y1)].map(function (v) { return v * data.steps; });
      const high = [Math.max(brush.x0, brush.x1), Math.max(brush.y0, brush.y1)].map(function (v) { return v * data.steps; });
      const p = brush.panel;
      chosen = [];
      for (let i = 0; i < rows.length; i++) {
        if (p.x[i] >= low[0] && p.x[i] <= high[0] && p.y[i] >= low[1] && p.y[i] <= high[1]) chosen.push(i);
      }
      const share = chosen.length / rows.length, percent = " (" + (100 * share).toFixed(1) + "\u202f%)";
      count.textContent = data.shown === data.count
        ? spaced(chosen.length) + " of " + spaced(data.count) + " particles" + percent
        : spaced(chosen.length) + " of the " + spaced(data.shown) + " particles drawn" + percent + ", so about " + spaced(Math.round(share * data.count)) + " of all " + spaced(data.count);
    }
    function write() {
      const lines = chosen.map(function (i) { return String(rows[i] + 1) + nameOf(i); });
      const head = ["# " + count.textContent + ", rectangle in " + brush.panel.name, "# row of particles.star, from 1" + (names ? "; image" : "")];
      text = head.concat(lines).join("\n") + "\n";
      list.value = lines.length > 500 ? head.concat(lines.slice(0, 500)).join("\n") + "\n# ... " + (lines.length - 500) + " more: save as text" : text;
      list.hidden = buttons.hidden = false;
    }
    function clear() {
      chosen = brush = null;
      count.textContent = invitation;
      list.hidden = buttons.hidden = true;
      redraw();
    }
    for (const panel of panels) {
      const place = function (event) {
        const box = panel.canvas.getBoundingClientRect();
        const [left, top, right, bottom] = data.area;
        const x = (event.clientX - box.left) / box.width * data.width, y = (event.clientY - box.top) / box.height * data.height;
        return [Math.min(right, Math.max(left, x)), Math.min(bottom, Math.max(top, y))];
      };
      panel.canvas.addEventListener("pointerdown", function (event) {
        const [x, y] = place(event);
        brush = { panel: panel, x0: x, y0: y, x1: x, y1: y, on: true };
        panel.canvas.setPointerCapture(event.pointerId);
        event.preventDefault();
      });
      panel.canvas.addEventListener("pointermove", function (event) {
        if (!brush || !brush.on || brush.panel !== panel) return;
        [brush.x1, brush.y1] = place(event);
        choose();
        redraw();
      });
      const end = function () {
        if (!brush || !brush.on || brush.panel !== panel) return;
        brush.on = false;
        if (Math.abs(brush.x1 - brush.x0) < 2 && Math.abs(brush.y1 - brush.y0) < 2) { clear(); return; }
        choose();
        write();
        redraw();
      };
      panel.canvas.addEventListener("pointerup", end);
      panel.canvas.addEventListener("pointercancel", end);
    }
    document.getElementById("brush-clear").addEventListener("click", clear);
    document.getElementById("brush-save").addEventListener("click", function () {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
      link.download = "particles.txt";
      link.click();
      setTimeout(function () { URL.revokeObjectURL(link.href); }, 1000);
    });
    colour.addEventListener("change", recolour);
    if (way) way.addEventListener("change", redraw);
    window.addEventListener("resize", redraw);
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
    recolour();
  }
})();
