// How far from a mark the pointer may be, in the units of the pictures.
const REACH = 14;
const tip = document.body.appendChild(Object.assign(document.createElement("div"), { id: "tip", hidden: true }));
for (const figure of document.querySelectorAll("figure")) {
  const data = JSON.parse(figure.querySelector("script").textContent), pictures = [...figure.querySelectorAll("svg")];
  const marks = pictures.map(() => null);
  let lit = null;
  const leave = () => { tip.hidden = true; lit?.classList.remove("lit"); lit = null; };
  const point = (event) => {
    leave();
    const place = pictures.findIndex((one) => one === event.target.closest("svg"));
    if (place < 0) return;
    marks[place] ??= data.marks[place].flatMap((mark) => marksOf(mark, data.texts[mark.texts]));
    const box = pictures[place].getBoundingClientRect(), scale = pictures[place].viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
    let near = null, least = 1;
    for (const mark of marks[place]) {
      if (mark.element?.matches(".rest") && !figure.matches(".all")) continue;
      const far = ((mark.x - x) / mark.reach[0]) ** 2 + ((mark.y - y) / mark.reach[1]) ** 2;
      const inside = mark.cell && Math.abs(mark.x - x) <= mark.reach[0] && Math.abs(mark.y - y) <= mark.reach[1];
      if (inside || far < least) [near, least] = [mark, inside ? 0 : far];
    }
    if (near === null) return;
    lit = near.element ?? null;
    lit?.classList.add("lit");
    const lines = near.text.split("\n").filter(Boolean), head = document.createElement("b");
    for (const one of near.readings ?? []) {
      if (one === null) continue;
      const value = one.low + ((one === near.readings[0] ? near.x : near.y) - one.from) / (one.to - one.from)
        * (one.high - one.low);
      lines.push(`${one.name}: ${+(one.log ? 10 ** value : value).toPrecision(4)}`);
    }
    head.textContent = lines[0];
    tip.replaceChildren(head, ...lines.slice(1).flatMap((line) => [document.createElement("br"), line]));
    tip.hidden = false;
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8))}px`;
    const below = event.clientY + 18;
    tip.style.top = `${below + tip.offsetHeight < innerHeight ? below : event.clientY - tip.offsetHeight - 12}px`;
  };
  figure.addEventListener("pointermove", point);
  figure.addEventListener("pointerdown", point);
  figure.addEventListener("pointerleave", leave);
  const select = figure.querySelector("select");
  select?.addEventListener("change", () => pictures.forEach((one, place) => {
    one.parentElement.hidden = place % select.length !== select.selectedIndex;
  }));
  const rest = figure.querySelector("[data-rest]");
  rest?.addEventListener("change", () => figure.classList.toggle("all", rest.checked));
}
function marksOf(mark, texts) {
  const pairs = (numbers) => Array.from({ length: numbers.length / 2 }, (_, i) => [numbers[2 * i], numbers[2 * i + 1]]);
  const readings = mark.readings;
  if (mark.at) return pairs(mark.at).map(([x, y], i) => ({ x, y, reach: [REACH, REACH], text: texts[i], readings }));
  if (mark.line) {
    const element = document.getElementById(mark.line);
    const drawn = [...element?.querySelectorAll("use") ?? []];
    const numbers = drawn.length ? drawn.flatMap((one) => [one.getAttribute("x"), one.getAttribute("y")])
      : element?.querySelector("path")?.getAttribute("d").match(/-?[\d.]+/g) ?? [];
    return pairs(numbers.map(Number)).map(
      ([x, y]) => ({ x, y, reach: [REACH, REACH], text: texts[0], readings, element }));
  }
  return mark.y.flatMap((y, line) => mark.x.map((x, column) => {
    const text = texts[line * mark.x.length + column];
    const named = [mark.rows[line], mark.columns[column], mark.name ? `${mark.name}: ${text}` : text];
    return { x, y, reach: mark.reach, cell: true, text: text && named.filter(Boolean).join("\n") };
  })).filter((one) => one.text);
}
function copyOf(element) {
  getSelection().selectAllChildren(element);
  return document.execCommand("copy") ? "Copied" : "Selected: copy it with the keyboard";
}
for (const button of document.querySelectorAll("button[data-copy]")) {
  button.addEventListener("click", () => {
    button.textContent = copyOf(document.getElementById(button.dataset.copy));
  });
}
for (const table of document.querySelectorAll("table[data-command]")) {
  // A narrow screen shows one of the further columns at a time.
  const further = [...table.tHead.rows[0].cells].filter((head) => head.matches(".less"));
  if (further.length > 1) {
    const label = Object.assign(document.createElement("label"), { className: "choose column" });
    const choice = Object.assign(document.createElement("select"), { autocomplete: "off" });
    const named = (head) => `${head.textContent}${head.textContent === "95 %" ? ` of ${
      head.previousElementSibling.textContent.toLowerCase()}` : ""}`;
    choice.append(...further.map((head) => Object.assign(document.createElement("option"), { textContent: named(head) })));
    const show = () => {
      for (const row of table.rows) {
        further.forEach((head, i) => row.cells[head.cellIndex].classList.toggle("off", i !== choice.selectedIndex));
      }
    };
    choice.selectedIndex = Math.max(0, further.findIndex((head) => head.textContent === "Parameters"));
    choice.addEventListener("change", show);
    label.append("Show ", choice);
    table.parentElement.before(label);
    show();
  }
  table.addEventListener("click", (event) => {
    const button = event.target.closest(".take");
    if (!button) return;
    const said = table.parentElement.nextElementSibling, code = document.createElement("code");
    code.textContent = table.dataset.command.replace("{setting}", () => button.closest("tr").dataset.setting);
    said.replaceChildren(code);
    said.prepend(`${copyOf(code)}: `);
  });
}
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, body = head.closest("table").tBodies[0];
    const sign = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
    const value = (row) => parseFloat(row.cells[head.cellIndex].dataset.value);
    const order = (a, b) => isNaN(value(a)) - isNaN(value(b)) || sign * (value(a) - value(b)) || 0;
    body.append(...[...body.rows].sort(order));
  });
}
