"use strict";
(function () {
  document.querySelectorAll(".strip[data-series]").forEach(player);

  function player(strip) {
    const frames = Array.from(strip.querySelectorAll(".frames figure"));
    if (frames.length < 2) return;
    const box = strip.querySelector(".player"), slider = box.querySelector("input"), label = box.querySelector("output");
    const big = box.querySelectorAll(".big img"), play = box.querySelector(".play");
    const series = strip.dataset.series;
    let timer = null, step = 1;
    // the scatter of the latent space marks the map that is shown
    function show(i, chosen) {
      frames.forEach(function (f, j) { f.classList.toggle("now", i === j); });
      const images = frames[i].querySelectorAll("img");
      big.forEach(function (b, j) { b.src = images[j].src; b.alt = images[j].alt; });
      label.textContent = frames[i].querySelector("figcaption").textContent;
      slider.value = String(i);
      const frame = Number(frames[i].dataset.frame);
      document.dispatchEvent(new CustomEvent("cryoloom:frame", { detail: { series: series, frame: frame, chosen: chosen } }));
    }
    function stop() {
      clearInterval(timer);
      timer = null;
      play.setAttribute("aria-pressed", "false");
      play.textContent = "play";
    }
    box.hidden = false;
    strip.classList.add("live");
    slider.addEventListener("input", function () { stop(); show(Number(slider.value), true); });
    frames.forEach(function (f, i) { f.addEventListener("click", function () { stop(); show(i, true); }); });
    play.addEventListener("click", function () {
      if (timer !== null) { stop(); return; }
      play.setAttribute("aria-pressed", "true");
      play.textContent = "stop";
      timer = setInterval(function () {
        const at = Number(slider.value);
        // back and forth
        if (at + step < 0 || at + step >= frames.length) step = -step;
        show(at + step, true);
      }, 250);
    });
    show(0, false);
  }
})();
