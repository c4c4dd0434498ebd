"use strict";
(function () {
  document.documentElement.classList.add("js");

  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", function () {
      const text = document.getElementById(button.dataset.copy).textContent;
      const said = button.textContent;
      const tell = function (word) {
        button.textContent = word;
        setTimeout(function () { button.textContent = said; }, 1500);
      };
      if (!navigator.clipboard) { tell("select and copy by hand"); return; }
      navigator.clipboard.writeText(text).then(function () { tell("copied"); }, function () { tell("not allowed"); });
    });
  }
})();
