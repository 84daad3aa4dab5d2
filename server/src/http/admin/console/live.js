// The feed: what this process commits, and whom it tells.

import { ask } from "./server.js";
import { el, find, moment, number, row, userLink } from "./dom.js";

const SHOWN = 100;
let last = 0;
// Of the process: numbers mean nothing in another one.
let life = null;
let hasBegunAnew = false;
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
  const piece = await ask("/admin/feed", { after: last, life, wait: hasAsked ? 25 : 0 }, waiting.signal);
  // It came at the moment of the click: asked for again.
  if (isPaused) return;
  hasAsked = true;
  const body = find("feed").tBodies[0];
  if (life !== null && piece.life !== life) {
    hasBegunAnew = true;
    body.replaceChildren();
  }
  ({ last, life } = piece);
  body.prepend(...piece.events.slice(-SHOWN).reverse().map(show));
  while (body.rows.length > SHOWN) body.lastChild.remove();
  find("feed-empty").hidden = body.rows.length > 0;
  const said = [];
  if (hasBegunAnew) said.push("the server was restarted: what came before is not kept");
  if (piece.missed && body.rows.length) said.push(`${number(piece.missed)} earlier events are not kept`);
  find("live-state").textContent = said.join("; ");
}

export function leave() {
  waiting?.abort();
}

export function forget() {
  last = 0;
  life = null;
  hasBegunAnew = hasAsked = false;
  find("feed").tBodies[0].replaceChildren();
}

find("live-pause").addEventListener("click", event => {
  isPaused = !isPaused;
  if (isPaused) waiting?.abort();
  event.target.setAttribute("aria-pressed", String(isPaused));
  event.target.textContent = isPaused ? "Go on" : "Pause";
});
