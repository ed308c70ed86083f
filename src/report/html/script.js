"use strict";
// Sorts and filters tables. The page says everything without it; what stands under the pointer in a plot is a title of its SVG.
(() => {
  const number = (text) => {
    const found = text.replace(/,/g, "").match(/-?\d+(\.\d+)?(e[+-]?\d+)?/i);
    return found ? parseFloat(found[0]) : NaN;
  };
  const compare = (numeric, sign) => ([one], [other]) => {
    if (!numeric) return sign * one.localeCompare(other, "en", { numeric: true });
    const [a, b] = [number(one), number(other)];
    // What has no value stays at the end.
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return sign * (a - b);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    const words = Number((table.className.match(/n(\d+)/) || [0, 1])[1]);
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const numeric = index >= words;
        const ascending = head.ariaSort ? head.ariaSort !== "ascending" : !numeric;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
        const rows = [...body.rows].map((row) => [row.cells[index].textContent.trim(), row]);
        rows.sort(compare(numeric, ascending ? 1 : -1));
        body.append(...rows.map(([, row]) => row));
      });
    });
    if (body.rows.length < 8) continue;
    const bar = document.createElement("div");
    bar.className = "filter";
    const label = document.createElement("label");
    const input = document.createElement("input");
    input.type = "search";
    label.append("Filter: ", input);
    const count = document.createElement("output");
    bar.append(label, count);
    table.parentElement.before(bar);
    let waiting = 0;
    const apply = () => {
      const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of body.rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !wanted.every((word) => text.includes(word));
        shown += !row.hidden;
      }
      count.textContent = wanted.length ? `${shown} of ${body.rows.length}` : "";
    };
    input.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(apply, 120);
    });
  }
})();
