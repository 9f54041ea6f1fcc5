"use strict";
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const field = document.getElementById(button.dataset.copy);
    field.select();
    let done = false;
    try {
      await navigator.clipboard.writeText(field.value);
      done = true;
    } catch {
      // Pages from files have no clipboard of that kind.
      done = document.execCommand("copy");
    }
    document.getElementById("copied").textContent = done ? "copied" : "selected: copy it with the keyboard";
  });
}
