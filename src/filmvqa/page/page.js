// Make Quasar's popups accessible: they are outside of all landmarks, and the container of the
// choices can be focused like a choice.
new MutationObserver(() => {
  for (const popup of document.querySelectorAll("body > [id^='q-portal']:not([role])")) {
    popup.setAttribute("role", "region");
    popup.setAttribute("aria-label", "choices");
  }
  for (const holder of document.querySelectorAll("[role=listbox] > [class^=q-virtual-scroll][tabindex]")) {
    holder.removeAttribute("tabindex");
  }
}).observe(document.body, { childList: true, subtree: true });
