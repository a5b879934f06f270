"use strict";
for (const block of document.querySelectorAll("[data-interactive]")) {
  const table = block.querySelector("table");
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...body.rows].map((row, order) => ({
    row, order, texts: [...row.cells].map((cell) => cell.textContent),
    values: [...row.cells].map((cell) => Number.parseFloat(
      cell.dataset.value ?? (cell.classList.contains("number")
        ? cell.textContent.replaceAll(",", "") : ""))),
  }));
  const name = table.caption.textContent;

  const controls = document.createElement("div");
  controls.className = "controls";
  const status = document.createElement("p");
  status.setAttribute("role", "status");
  const filters = [];

  function control(title, element, accepts) {
    const label = document.createElement("label");
    label.append(title, element);
    element.addEventListener("input", show);
    filters.push(accepts);
    controls.append(label);
  }

  function show() {
    let shown = 0;
    for (const item of rows) {
      item.row.hidden = !filters.every((accepts) => accepts(item));
      shown += item.row.hidden ? 0 : 1;
    }
    status.textContent = `${shown} of ${rows.length} rows`;
  }

  const search = document.createElement("input");
  search.type = "search";
  control("Find in all columns", search, (item) => {
    const wanted = search.value.trim().toLowerCase();
    return !wanted || item.texts.some((text) => text.toLowerCase().includes(wanted));
  });
  heads.forEach((head, column) => {
    if (!("choices" in head.dataset)) return;
    const select = document.createElement("select");
    const choices = new Set(rows.map((item) => item.texts[column]));
    select.append(new Option("all", ""), ...[...choices].map((text) => new Option(text, text)));
    control(head.textContent, select, (item) =>
      select.selectedIndex === 0 || item.texts[column] === select.value);
  });

  function compare(column) {
    return (a, b) => {
      const x = a.values[column], y = b.values[column];
      if (Number.isNaN(x) && Number.isNaN(y)) {
        return a.texts[column].localeCompare(b.texts[column]) || a.order - b.order;
      }
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
      return x < y ? -1 : x > y ? 1 : a.order - b.order;
    };
  }

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      rows.sort(compare(column));
      if (descending) rows.reverse();
      body.append(...rows.map((item) => item.row));
    });
  });

  controls.append(status);
  controls.setAttribute("role", "group");
  controls.setAttribute("aria-label", `Filter: ${name}`);
  block.prepend(controls);
  show();
}

const folds = () => document.querySelectorAll("details");
function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let one = target; one; one = one.parentElement) {
    if (one.tagName === "DETAILS") one.open = true;
  }
  if (target) target.scrollIntoView();
}
window.addEventListener("hashchange", reveal);
reveal();
for (const link of document.querySelectorAll('a[href^="#"]')) {
  link.addEventListener("click", () => { if (link.hash === location.hash) reveal(); });
}
let closed = [];
window.addEventListener("beforeprint", () => {
  closed = [...folds()].filter((one) => !one.open);
  for (const one of closed) one.open = true;
});
window.addEventListener("afterprint", () => {
  for (const one of closed) one.open = false;
});
