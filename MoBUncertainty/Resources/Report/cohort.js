"use strict";
// Sort the table by the column whose heading is pressed: the first time what matters most comes first.
const table = document.getElementById("cohort");
const headings = [...table.tHead.rows[0].cells];
const body = table.tBodies[0];

function compare(one, other, column, text) {
  const [a, b] = [one, other].map((row) => row.cells[column].dataset.value);
  if (a === undefined || b === undefined) return null;
  return text ? a.localeCompare(b, undefined, { numeric: true }) : Number(a) - Number(b);
}

function sortBy(column) {
  const heading = headings[column];
  const text = heading.dataset.kind === "text";
  const first = heading.dataset.kind || column === 0 ? "ascending" : "descending";
  const turned = { ascending: "descending", descending: "ascending" };
  const order = turned[heading.getAttribute("aria-sort")] || first;
  for (const each of headings) each.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const lacks = (row) => row.cells[column].dataset.value === undefined;
  const rows = [...body.rows].sort(
    (one, other) =>
      lacks(one) - lacks(other) || // rows without a value are last, whatever the order
      sign * (compare(one, other, column, text) || 0) ||
      compare(one, other, 0, false), // equal ones by rank
  );
  body.append(...rows);
}

headings.forEach((heading, column) => heading.querySelector("button").addEventListener("click", () => sortBy(column)));
document.body.classList.add("sortable");
