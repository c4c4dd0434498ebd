"use strict";
(function () {
  const host = document.getElementById("viewer");
  if (!host) return;
  const figure = document.getElementById("surface");
  const remark = document.getElementById("viewer-remark");
  const slider = document.getElementById("level");
  const shown = document.getElementById("level-value");
  const spin = document.getElementById("spin");
  const reset = document.getElementById("reset");

  function hasWebGL() {
    const canvas = document.createElement("canvas");
    return Boolean(canvas.getContext("webgl2") || canvas.getContext("webgl"));
  }

  // Surface nets (Gibson, 1998): a vertex in each cell that the surface crosses, at the mean of the crossings on its
  // edges, with the map's gradient as its normal. The viewer's own isosurface takes voxels as in or out, and is rough.
  function surfaceNet(volume, level) {
    const n = volume.size, step = volume.step;
    const stride = [n[1] * n[2], n[2], 1];
    const data = volume.data;
    const vertices = [], normals = [], faces = [];
    const cellVertex = new Int32Array(data.length).fill(-1);
    const corners = [];
    for (let c = 0; c < 8; c++) corners.push([c & 1, (c >> 1) & 1, (c >> 2) & 1]);
    function offset(c) { return c[0] * stride[0] + c[1] * stride[1] + c[2]; }
    const offsets = corners.map(offset);
    const edges = [];
    for (let a = 0; a < 8; a++) for (let d = 0; d < 3; d++) if (!corners[a][d]) edges.push([a, a | (1 << d)]);

    function slope(at, axis, place) {
      const low = place > 0 ? stride[axis] : 0, high = place < n[axis] - 1 ? stride[axis] : 0;
      return data[at + high] - data[at - low];
    }
    for (let i = 0; i + 1 < n[0]; i++) for (let j = 0; j + 1 < n[1]; j++) for (let k = 0; k + 1 < n[2]; k++) {
      const at = i * stride[0] + j * stride[1] + k;
      const first = data[at] > level;
      let mixed = false;
      for (let c = 1; c < 8 && !mixed; c++) mixed = data[at + offsets[c]] > level !== first;
      if (!mixed) continue;
      const values = corners.map(function (c) { return data[at + offset(c)] - level; });
      let x = 0, y = 0, z = 0, count = 0;
      for (const [a, b] of edges) {
        if ((values[a] > 0) === (values[b] > 0)) continue;
        const s = values[a] / (values[a] - values[b]);
        x += corners[a][0] + s * (corners[b][0] - corners[a][0]);
        y += corners[a][1] + s * (corners[b][1] - corners[a][1]);
        z += corners[a][2] + s * (corners[b][2] - corners[a][2]);
        count++;
      }
      x /= count; y /= count; z /= count;
      let gx = 0, gy = 0, gz = 0;
      for (const c of corners) {
        const weight = (c[0] ? x : 1 - x) * (c[1] ? y : 1 - y) * (c[2] ? z : 1 - z);
        const corner = at + offset(c);
        gx += weight * slope(corner, 0, i + c[0]);
        gy += weight * slope(corner, 1, j + c[1]);
        gz += weight * slope(corner, 2, k + c[2]);
      }
      const length = Math.hypot(gx, gy, gz) || 1;
      cellVertex[at] = vertices.length;
      vertices.push({ x: (i + x) * step, y: (j + y) * step, z: (k + z) * step });
      normals.push({ x: -gx / length, y: -gy / length, z: -gz / length });
    }
    // each grid edge that the surface crosses has a face through the four cells around it
    for (let i = 1; i + 1 < n[0]; i++) for (let j = 1; j + 1 < n[1]; j++) for (let k = 1; k + 1 < n[2]; k++) {
      const at = i * stride[0] + j * stride[1] + k;
      const here = data[at] > level;
      for (let d = 0; d < 3; d++) {
        if (here === data[at + stride[d]] > level) continue;
        const u = stride[(d + 1) % 3], v = stride[(d + 2) % 3];
        const ring = [at, at - u, at - u - v, at - v].map(function (cell) { return cellVertex[cell]; });
        if (!here) ring.reverse();
        faces.push(ring[0], ring[1], ring[2], ring[0], ring[2], ring[3]);
      }
    }
    return { vertexArr: vertices, normalArr: normals, faceArr: faces, color: host.dataset.colour };
  }

  // Twice as many samples along one axis, the new ones by cubic interpolation: the map is sampled near its limit, where
  // straight lines between samples would show as facets.
  function refine(volume, axis) {
    const n = volume.size, m = n.slice();
    m[axis] = 2 * n[axis] - 1;
    const from = [n[1] * n[2], n[2], 1], to = [m[1] * m[2], m[2], 1];
    const data = new Float32Array(m[0] * m[1] * m[2]);
    const b = (axis + 1) % 3, c = (axis + 2) % 3;
    for (let j = 0; j < n[b]; j++) for (let k = 0; k < n[c]; k++) {
      const source = j * from[b] + k * from[c], target = j * to[b] + k * to[c];
      for (let i = 0; i < n[axis]; i++) {
        const here = source + i * from[axis];
        data[target + 2 * i * to[axis]] = volume.data[here];
        if (i + 1 === n[axis]) continue;
        const before = i > 0 ? volume.data[here - from[axis]] : 0;
        const after = i + 2 < n[axis] ? volume.data[here + 2 * from[axis]] : 0;
        data[target + (2 * i + 1) * to[axis]] =
          (9 * (volume.data[here] + volume.data[here + from[axis]]) - before - after) / 16;
      }
    }
    return { data: data, size: m, step: volume.step };
  }

  function start() {
    const read = new $3Dmol.VolumeData(document.getElementById("map-data").textContent.trim(), "ccp4.gz");
    const coarse = { data: read.data, size: [read.size.x, read.size.y, read.size.z], step: Number(host.dataset.step) };
    const fine = refine(refine(refine(coarse, 0), 1), 2);
    fine.step = coarse.step / 2;
    const viewer = $3Dmol.createViewer(host, { backgroundAlpha: 0, antialias: true, disableFog: true, orthographic: true });
    viewer.setBackgroundColor("white", 0);
    let pending = false;
    function draw(volume) {
      pending = false;
      viewer.removeAllShapes();
      const mesh = surfaceNet(volume, Number(slider.value));
      const shape = viewer.addCustom(mesh);
      // the viewer measures a shape only if it can be clicked; the view is centred upon this sphere
      const middle = volume.step * (volume.size[0] - 1) / 2;
      let radius = 0;
      for (const v of mesh.vertexArr) radius = Math.max(radius, Math.hypot(v.x - middle, v.y - middle, v.z - middle));
      Object.assign(shape.boundingSphere.center, { x: middle, y: middle, z: middle });
      shape.boundingSphere.radius = radius;
      viewer.render();
      shown.textContent = Number(slider.value).toPrecision(3);
    }
    function view() {
      viewer.zoomTo();
      viewer.zoom(1.08);
      viewer.render();
    }
    slider.addEventListener("input", function () {
      if (!pending) { pending = true; requestAnimationFrame(function () { draw(coarse); }); }
    });
    slider.addEventListener("change", function () { requestAnimationFrame(function () { draw(fine); }); });
    spin.addEventListener("click", function () {
      const on = spin.getAttribute("aria-pressed") !== "true";
      spin.setAttribute("aria-pressed", String(on));
      viewer.spin(on ? "y" : false, 0.5);
    });
    reset.addEventListener("click", function () {
      slider.value = slider.defaultValue;
      viewer.setView([0, 0, 0, 0, 0, 0, 0, 1]);
      draw(fine);
      view();
    });
    // the page must scroll past the viewer: the wheel zooms only after a click into it
    let entered = false;
    host.addEventListener("pointerdown", function () { entered = true; });
    host.addEventListener("pointerleave", function () { entered = false; });
    host.parentElement.addEventListener("wheel", function (event) {
      if (!entered && host.contains(event.target)) event.stopPropagation();
    }, true);
    figure.classList.add("live");
    viewer.resize();
    draw(fine);
    view();
  }

  if (typeof $3Dmol === "undefined" || !hasWebGL()) {
    remark.textContent = "This browser offers no WebGL: the surface can't be turned here.";
    return;
  }
  try {
    start();
  } catch (error) {
    figure.classList.remove("live");
    remark.textContent = "The 3D viewer failed in this browser (" + error + "); open map.mrc in ChimeraX.";
  }
})();
