// What Quasar's popups lack: they are outside of all landmarks, and what holds the choices can be
// focused as if it were one.
new MutationObserver(() => {
  for (const popup of document.querySelectorAll("body > [id^='q-portal']:not([role])")) {
    popup.setAttribute("role", "region");
    popup.setAttribute("aria-label", "choices");
  }
  for (const holder of document.querySelectorAll("[role=listbox] > [class^=q-virtual-scroll][tabindex]")) {
    holder.removeAttribute("tabindex");
  }
}).observe(document.body, { childList: true, subtree: true });
