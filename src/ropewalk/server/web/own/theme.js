// Before the page is drawn: light or dark, as the reader chose here, or else as their system is set.
(function () {
  "use strict";
  var wish = null;
  try { wish = localStorage.getItem("ropewalk-theme"); } catch (error) { /* storage may be off */ }
  var dark = window.matchMedia("(prefers-color-scheme: dark)");
  function show() {
    document.documentElement.dataset.bsTheme = wish || (dark.matches ? "dark" : "light");
  }
  show();
  dark.addEventListener("change", show);
  window.ropewalkTheme = function () {
    wish = document.documentElement.dataset.bsTheme === "dark" ? "light" : "dark";
    try { localStorage.setItem("ropewalk-theme", wish); } catch (error) { /* holds for this page then */ }
    show();
  };
})();
