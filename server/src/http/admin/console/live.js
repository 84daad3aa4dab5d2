// The feed: what this process commits, and whom it tells.

import { ask } from "./server.js";
import { el, find, moment, number, row, userLink } from "./dom.js";

const SHOWN = 100;
let last = 0;
let hasAsked = false;
let isPaused = false;
let waiting = null;

function several(count, one, many) {
  return `${number(count)} ${count === 1 ? one : many}`;
}

function details(event) {
  if (event.kind === "commit") return `${several(event.changes, "change", "changes")} by ${event.device}`;
  const polls = event.polls ? ` and ${several(event.polls, "poll", "polls")}` : "";
  return `told ${several(event.sessions, "session", "sessions")}${polls}`;
}

function show(event) {
  const kind = el("span", { class: event.kind === "commit" ? "badge good" : "badge quiet" }, event.kind);
  return row(find("feed"), [moment(event.at), kind, userLink(event.user), number(event.head), details(event)], { class: "fresh" });
}

export async function follow() {
  if (isPaused) return;
  waiting = new AbortController();
  const piece = await ask("/admin/feed", { after: last, wait: hasAsked ? 25 : 0 }, waiting.signal);
  hasAsked = true;
  // A server that has begun anew counts from 1.
  const isNew = piece.last < last;
  last = piece.last;
  const body = find("feed").tBodies[0];
  if (isNew) body.replaceChildren();
  if (!isPaused) body.prepend(...piece.events.slice(-SHOWN).reverse().map(show));
  while (body.rows.length > SHOWN) body.lastChild.remove();
  find("feed-empty").hidden = body.rows.length > 0;
  find("live-state").textContent = piece.missed && body.rows.length ? `${number(piece.missed)} earlier events are not kept` : "";
}

export function leave() {
  waiting?.abort();
}

export function forget() {
  last = 0;
  hasAsked = false;
  find("feed").tBodies[0].replaceChildren();
}

find("live-pause").addEventListener("click", event => {
  isPaused = !isPaused;
  if (isPaused) waiting?.abort();
  event.target.setAttribute("aria-pressed", String(isPaused));
  event.target.textContent = isPaused ? "Go on" : "Pause";
});
