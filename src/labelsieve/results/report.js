"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  for (const [column, header] of Array.from(table.tHead.rows[0].cells).entries()) {
    const button = header.querySelector("button");
    if (!button) continue;
    button.addEventListener("click", () => {
      const up = header.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const rows = Array.from(body.rows, (row, at) => [key(row), at, row]);
      const numeric = rows.every(([value]) => value === "" || !Number.isNaN(Number(value)));
      rows.sort(([a, i], [b, j]) => {
        const order = numeric ? Number(a) - Number(b) : a.localeCompare(b, "en");
        return (up ? order : -order) || i - j;
      });
      body.append(...rows.map(([, , row]) => row));
    });
  }
}
