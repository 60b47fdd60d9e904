// What pages do beyond HTML: times in the reader's zone, copying, menus that close, forms that are sent once.
(function () {
  "use strict";

  var format = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

  var dayFormat = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });

  function localTimes(root) {
    root.querySelectorAll("time[datetime]:not([title])").forEach(function (element) {
      element.title = element.textContent;
      element.textContent = ("day" in element.dataset ? dayFormat : format).format(new Date(element.dateTime));
    });
  }

  function unhide(root) {
    root.querySelectorAll("[hidden][data-with-scripts]").forEach(function (each) { each.hidden = false; });
  }

  function say(text) {
    document.getElementById("said").textContent = text;
  }

  function copy(button) {
    var text = document.getElementById(button.dataset.copy).textContent;
    navigator.clipboard.writeText(text).then(function () {
      var label = button.querySelector("span");
      var before = label.textContent;
      label.textContent = "Copied";
      say("Copied");
      setTimeout(function () { label.textContent = before; }, 2000);
    }, function () { say("This browser does not allow copying; select the text instead."); });
  }

  document.addEventListener("click", function (event) {
    var button = event.target.closest("[data-copy]");
    if (button) { copy(button); }
    if (event.target.closest("[data-theme-switch]")) { window.ropewalkTheme(); }
    document.querySelectorAll("details.menu[open]").forEach(function (menu) {
      if (!menu.contains(event.target)) { menu.open = false; }
    });
  });

  document.addEventListener("keydown", function (event) {
    var menu = event.key === "Escape" && document.querySelector("details.menu[open]");
    if (menu) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  });

  // A double click sends a form once. Coming back by the back button makes its buttons work again.
  document.addEventListener("submit", function (event) {
    var form = event.target;
    if (form.method !== "post" || form.target) { return; }
    if (form.dataset.sent) { event.preventDefault(); return; }
    form.dataset.sent = "yes";
  });
  window.addEventListener("pageshow", function () {
    document.querySelectorAll("form[data-sent]").forEach(function (form) { delete form.dataset.sent; });
  });

  document.addEventListener("change", function (event) {
    if (event.target.matches("[data-submit]")) { event.target.form.requestSubmit(); }
  });

  // A log is followed while its end is in view: who scrolls back to read is left in peace.
  var KEPT_LINES = 5000;

  function follow(each) {
    var box = document.getElementById(each.dataset.follow);
    var list = box.firstElementChild;
    var size = "";

    function toEnd() {
      if (each.checked) { box.scrollTop = box.scrollHeight; }
    }

    box.addEventListener("scroll", function () {
      var now = box.scrollHeight + " " + box.clientHeight;
      // What moved because the box or what is in it has another size, nobody scrolled.
      if (now === size) { each.checked = box.scrollHeight - box.scrollTop - box.clientHeight < 24; }
      size = now;
    });
    new MutationObserver(function () {
      while (each.checked && list.childElementCount > KEPT_LINES) { list.firstElementChild.remove(); }
      toEnd();
    }).observe(list, { childList: true });
    window.addEventListener("resize", toEnd);
    each.addEventListener("change", toEnd);
    toEnd();
  }

  // While the stream of a live page is broken, the page says so; the browser tries again by itself.
  var PATIENCE = 3000;  // of milliseconds: longer than a browser waits before it tries again
  var broken = null;

  function showLost() { document.getElementById("lost").hidden = false; }
  function lost() { broken = broken || setTimeout(showLost, PATIENCE); }
  function found() {
    clearTimeout(broken);
    broken = null;
    document.getElementById("lost").hidden = true;
  }

  document.addEventListener("htmx:sseOpen", found);
  document.addEventListener("htmx:sendError", lost);
  document.addEventListener("htmx:sseError", function (event) {
    lost();
    // Refused, not interrupted: the session may have ended. Asking for the page itself leads to the sign-in then.
    var live = event.detail.source.readyState === EventSource.CLOSED && event.target.querySelector("[hx-get]");
    if (live) { window.htmx.trigger(live, "sse:changed"); }
  });
  document.addEventListener("htmx:responseError", function (event) {
    // What the page is about is not there any more, or not for this person: the server's own page says so.
    if ([403, 404].includes(event.detail.xhr.status)) { location.reload(); }
  });

  document.addEventListener("htmx:afterSettle", function (event) {
    localTimes(event.target);
    unhide(event.target);
  });
  document.addEventListener("DOMContentLoaded", function () {
    localTimes(document);
    unhide(document);
    document.querySelectorAll("[data-follow]").forEach(follow);
    // What was done is told once, not again at every reload.
    var here = new URL(location.href);
    if (here.searchParams.has("done")) {
      here.searchParams.delete("done");
      history.replaceState(null, "", here);
    }
  });
})();
