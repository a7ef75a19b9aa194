"use strict";
(() => {
  const collator = new Intl.Collator(undefined, { numeric: true });

  const order = (row, column) => {
    const cell = row.cells[column];
    return cell.tagName === "TH" ? cell.textContent : cell.dataset.order;
  };

  const compare = (column, sign) => (one, other) => {
    const [a, b] = [order(one, column), order(other, column)];
    if (a === "" || b === "") return (a === "") - (b === "");
    return sign * (column === 0 ? collator.compare(a, b) : Number(a) - Number(b));
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.querySelectorAll("th[data-column]")];
    for (const head of heads) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const ascending = head.getAttribute("aria-sort") !== "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
        const rows = [...table.tBodies[0].rows];
        rows.sort(compare(Number(head.dataset.column), ascending ? 1 : -1));
        table.tBodies[0].append(...rows);
      });
    }
  }

  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const details of opened) details.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const details of opened) details.open = false;
  });
})();
