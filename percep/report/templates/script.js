"use strict";

// The divider between original and adversarial: its range input, and dragging on the picture.
document.addEventListener("input", ({ target }) => {
  const stage = target.closest(".compare")?.querySelector(".stage");
  if (!stage) return;
  stage.style.setProperty("--divider", `${target.value}%`);
  target.setAttribute("aria-valuetext", `${target.value}% original`);
});

function drag(event) {
  const stage = event.target.closest?.(".stage");
  if (!stage || !event.isPrimary || event.buttons !== 1) return;
  const { left, width } = stage.getBoundingClientRect();
  const input = stage.parentElement.querySelector("input");
  input.value = (100 * (event.clientX - left)) / width;
  input.dispatchEvent(new Event("input", { bubbles: true }));
  stage.setPointerCapture(event.pointerId);
}
document.addEventListener("pointerdown", drag);
document.addEventListener("pointermove", drag);

// The attack whose pictures and figures are shown of a photograph.
document.addEventListener("change", ({ target }) => {
  if (!target.closest(".chooser")) return;
  for (const version of target.closest("article").querySelectorAll("[data-attack]")) {
    version.hidden = version.dataset.attack !== target.value;
  }
});

// Sorting: first in ascending order, then in reverse; what is unknown stays last.
function compare(numeric) {
  const collator = new Intl.Collator("en", { numeric: true });
  return numeric ? (a, b) => Number(a) - Number(b) : collator.compare;
}

function sort(header) {
  const sign = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of header.parentElement.cells) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
  const order = compare(header.classList.contains("number"));
  const body = header.closest("table").tBodies[0];
  const key = (row) => row.cells[header.cellIndex].dataset.key;
  const known = (row) => key(row) !== "";
  const rows = [...body.rows];
  const sorted = rows.filter(known).sort((a, b) => sign * order(key(a), key(b)));
  body.append(...sorted, ...rows.filter((row) => !known(row)));
}
for (const button of document.querySelectorAll(".sortable thead button")) {
  button.addEventListener("click", () => sort(button.closest("th")));
}
