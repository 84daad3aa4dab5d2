// Making elements, and saying numbers and times. Everything that is shown goes
// through textContent: what devices sent is text here, whatever it looks like.

const SVG = "http://www.w3.org/2000/svg";

export const find = id => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  // A text is made a text node by append.
  node.append(...children.flat().filter(child => child !== null && child !== undefined));
  return node;
}

export const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
export const number = value => (value === null || value === undefined ? "–" : plain.format(value));

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let place = 0;
  while (value >= 1024 && place < units.length - 1) { value /= 1024; place += 1; }
  return `${plain.format(value)} ${units[place]}`;
}

export function seconds(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value < 1) return `${plain.format(value * 1000)} ms`;
  return `${plain.format(value)} s`;
}

export function span(total) {
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const told = [];
  for (const [size, unit] of parts) {
    const count = Math.floor(total / size);
    total -= count * size;
    if (count && told.length < 2) told.push(`${count} ${unit}`);
  }
  return told.join(" ") || "0 s";
}

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });

// A moment in the reader's own time zone; the whole of it on hovering.
export function moment(text) {
  if (!text) return "–";
  const at = new Date(text);
  const isToday = at.toDateString() === new Date().toDateString();
  const told = isToday ? clock.format(at) : `${day.format(at)}, ${clock.format(at)}`;
  return el("time", { datetime: text, title: text, class: "time" }, told);
}

// A row of a table; labels come from its head, for the cards on a phone.
export function row(table, cells, attributes) {
  const heads = [...table.tHead.rows[0].cells];
  return el("tr", attributes, heads.map((head, place) =>
    el("td", { "data-label": head.textContent, class: head.classList.contains("number") ? "number" : undefined }, el("div", null, cells[place]))));
}

export function facts(list, pairs) {
  list.replaceChildren(...pairs.map(([name, value]) => el("div", null, el("dt", null, name), el("dd", null, value))));
}

export function userLink(name) {
  return el("a", { href: "#user/" + encodeURIComponent(name) }, name);
}

export function payload(text, size) {
  if (text === null || text === undefined) return el("span", { class: "quiet" }, "none");
  const isWhole = new TextEncoder().encode(text).length >= size;
  const box = el("code", { class: "payload", tabindex: text.length > 200 ? "0" : undefined }, text);
  return isWhole ? box : [box, el("span", { class: "quiet" }, `the beginning of ${bytes(size)}`)];
}

let hiding;
export function notice(text, isBad = false) {
  const box = find("notice");
  clearTimeout(hiding);
  box.className = isBad ? "notice bad" : "notice";
  box.textContent = text;
  box.hidden = !text;
  if (text && !isBad) hiding = setTimeout(() => { box.hidden = true; }, 8000);
}

// A question before something that somebody will notice; resolves to whether to do it.
export function confirm(text, action) {
  const dialog = find("confirm");
  find("confirm-text").textContent = text;
  find("confirm-yes").textContent = action;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise(resolve => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}
