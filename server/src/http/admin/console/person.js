// One user: devices, rows, log, and what keeps the log from being folded.

import { ask, post } from "./server.js";
import { confirm, el, facts, find, moment, notice, number, payload, row } from "./dom.js";

// Rows and entries at a time: both lists stand on one page.
const SHOWN = 20;

let user = null;

// Fills a table with a page, or adds the next one to it.
function page(id, list, next, show, load) {
  const body = find(id).tBodies[0];
  body.append(...list.map(show));
  find(id + "-empty").hidden = body.rows.length > 0;
  const more = find(id + "-more");
  more.hidden = next === null;
  more.onclick = async () => {
    const focus = body.rows.length;
    await attempt(() => load(next));
    // The button may be gone: go on where the new rows begin.
    if (more.hidden) body.rows[focus]?.closest(".scroll").focus();
  };
}

export async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    notice(error.message, true);
  }
}

function state(device) {
  if (device.revoked_at) return el("span", { class: "badge bad" }, "revoked");
  if (device.sessions) return el("span", { class: "badge good" }, "connected");
  return el("span", { class: "quiet" }, "not connected here");
}

function action(device) {
  const isRevoked = device.revoked_at !== null;
  const label = isRevoked ? "Restore access" : "Revoke";
  return el("button", {
    type: "button", class: isRevoked ? undefined : "danger", "aria-label": `${label}: ${device.device}`,
    onclick: () => attempt(() => setAccess(device.device, isRevoked)),
  }, label);
}

async function setAccess(device, isRevoked) {
  const whose = user;
  if (!isRevoked && !await confirm(`Revoke ${device} of ${whose}? Its connections close, and it is refused whatever its token says. What it has uploaded stays.`, "Revoke")) return;
  await post(isRevoked ? "/admin/reinstate" : "/admin/revoke", { user: whose, device });
  notice(isRevoked ? `${device} may come in again.` : `${device} is revoked.`);
  if (user === whose) await devices(null);
  find("devices").closest(".scroll").focus();
}

async function devices(after) {
  const whose = user;
  const found = await ask("/admin/user/devices", { user: whose, after });
  if (user !== whose) return;
  if (!after) find("devices").tBodies[0].replaceChildren();
  page("devices", found.devices, found.next, device => row(find("devices"), [
    device.device, state(device), number(device.cursor), number(device.behind_by),
    moment(device.seen_at ?? device.last_change_at), action(device),
  ]), devices);
}

function changed(change) {
  if (!change.device) return el("span", { class: "quiet" }, "folded away");
  return [moment(change.at), " by ", change.device, el("span", { class: "quiet" }, ` #${change.source_change_id}`)];
}

const name = found => [`${found.schema}.${found.table}`, el("br"), el("span", { class: "key" }, found.pk)];

// The question that was asked last: an answer to one before comes too late.
let rowsAsked = 0;

async function rows(after) {
  const [whose, mine] = [user, ++rowsAsked];
  const found = await ask("/admin/user/rows", { user: whose, after, limit: SHOWN, table: find("rows-table").value.trim(), key: find("rows-key").value.trim() });
  if (user !== whose || mine !== rowsAsked) return;
  if (!after) find("rows").tBodies[0].replaceChildren();
  page("rows", found.rows, found.next, each => row(find("rows"), [
    name(each), number(each.server_version), number(each.server_id), changed(each),
    each.deleted ? el("span", { class: "badge warn" }, "deleted") : payload(each.payload, each.payload_bytes),
  ]), rows);
}

async function entries(before) {
  const whose = user;
  const found = await ask("/admin/user/entries", { user: whose, before, limit: SHOWN });
  if (user !== whose) return;
  if (!before) find("entries").tBodies[0].replaceChildren();
  page("entries", found.entries, found.next, each => row(find("entries"), [
    number(each.server_id), `${each.op} → version ${number(each.server_version)}`, name(each), changed(each), payload(each.payload, each.payload_bytes),
  ]), entries);
}

function holders(found) {
  const names = found.holders.map(device => device.device);
  if (!found.retention_enabled) return "Retention is switched off: nothing is folded.";
  const of = found.of_the_first ? `, of the first ${number(found.of_the_first)} devices by name` : "";
  if (names.length) return `Folding further waits for ${names.join(", ")}${of}.`;
  if (of) return `Nobody holds the log back${of}.`;
  return found.foldable ? `No device holds the log back; it is folded once there are ${number(found.min_entries)} entries to fold.` : "Nothing can be folded now.";
}

export async function show(wanted) {
  user = wanted;
  find("user-name").textContent = user;
  for (const id of ["devices", "rows", "entries"]) {
    find(id).tBodies[0].replaceChildren();
    for (const part of ["-empty", "-more"]) find(id + part).hidden = true;
  }
  facts(find("user-facts"), []);
  find("user-holders").textContent = "";
  let found;
  try {
    found = await ask("/admin/user", { user });
  } catch (error) {
    if (error.status !== 404) throw error;
    if (user !== wanted) return;
    notice(`Nobody called ${user} has uploaded anything.`, true);
    await devices(null);
    return;
  }
  if (user !== wanted) return;
  facts(find("user-facts"), [
    ["Head", number(found.head)], ["Floor", number(found.floor)], ["Foldable entries", number(found.foldable)], ["Folded last", moment(found.folded_at)],
  ]);
  find("user-holders").textContent = holders(found);
  await Promise.all([devices(null), rows(null), entries(null)]);
}

find("rows-form").addEventListener("submit", event => {
  event.preventDefault();
  attempt(() => rows(null));
});
