"use strict";
(() => {
  const all = window.FORKD_PACKAGES || [];
  const most = 200;
  const list = document.getElementById("list");
  const count = document.getElementById("count");
  const field = document.getElementById("q");
  const texts = all.map((one) => (one.name + " " + one.description).toLowerCase());
  const item = (one) => {
    const li = document.createElement("li");
    const h2 = document.createElement("h2");
    if (one.href) {
      const a = document.createElement("a");
      a.href = one.href;
      a.textContent = one.name;
      h2.append(a);
    } else {
      h2.textContent = one.name;
    }
    const description = document.createElement("p");
    description.textContent = one.description;
    const facts = document.createElement("p");
    facts.className = "facts";
    facts.textContent = one.facts;
    li.append(h2, description, facts);
    return li;
  };
  const show = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = [];
    for (let i = 0; i < texts.length; i++) {
      if (words.every((word) => texts[i].includes(word))) found.push(all[i]);
    }
    list.replaceChildren(...found.slice(0, most).map(item));
    const more = found.length > most ? ", " + most + " shown" : "";
    count.textContent = found.length + (found.length === 1 ? " snapshot" : " snapshots") + more;
    const address = new URL(location.href);
    address.hash = words.length ? "q=" + encodeURIComponent(field.value) : "";
    history.replaceState(null, "", address);
  };
  field.addEventListener("input", show);
  if (location.hash.startsWith("#q=")) {
    try {
      field.value = decodeURIComponent(location.hash.slice(3));
      show();
    } catch {
      // An address that somebody has cut off.
    }
  }
})();
