// The page as a whole: signing in, which view is shown, and the views that are only
// a table.

import * as server from "./server.js";
import { drawAll, forget as forgetCharts, sample } from "./charts.js";
import { bytes, el, facts, find, moment, notice, number, payload, row, span, userLink } from "./dom.js";
import { follow, forget as forgetFeed, leave } from "./live.js";
import { attempt, show as showUser } from "./person.js";

const VIEWS = ["overview", "live", "failures", "users", "user", "storage"];
let endView = () => {};
let shown = null;

// ------------------------------------------------------------------ signing in
server.onState((state, reason) => {
  const box = find("connection");
  box.dataset.state = state;
  box.textContent = { connected: "connected", lost: "connection lost, trying again", "signed-out": "signed out" }[state];
  if (state === "signed-out") {
    notice(reason ?? "", Boolean(reason));
    forgetCharts();
    forgetFeed();
    route();
  }
});

find("sign-in-form").addEventListener("submit", async event => {
  event.preventDefault();
  const field = find("token");
  find("sign-in-error").textContent = "";
  try {
    server.signIn(field.value);
    await server.ask("/admin/overview", { limit: 1 });
    server.keep();
    field.value = "";
    notice("");
    route();
    find("main").focus();
  } catch (error) {
    server.signOut();
    find("sign-in-error").textContent = error.status === 401 ? "This is not the operators’ token." : error.message;
    field.focus();
  }
});

find("sign-out").addEventListener("click", () => server.signOut());

// ---------------------------------------------------------------------- views
function route() {
  const isIn = server.isSignedIn();
  const [wanted, ...rest] = location.hash.slice(1).split("/");
  const view = VIEWS.includes(wanted) ? wanted : "overview";
  const key = isIn ? [view, ...rest].join("/") : "sign-in";
  find("views").hidden = find("sign-out").hidden = !isIn;
  find("sign-in").hidden = isIn;
  for (const id of VIEWS) find(id).hidden = !isIn || id !== view;
  for (const link of find("views").children) {
    const isHere = link.hash === "#" + (view === "user" ? "users" : view);
    if (isHere) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  if (key === shown) return;
  shown = key;
  endView();
  endView = () => {};
  if (!isIn) { find("token").focus(); document.title = "oversync console"; return; }
  notice("");
  endView = ENTER[view](rest) ?? (() => {});
  document.title = `${find(view).querySelector("h2").textContent.trim()} · oversync console`;
}

window.addEventListener("hashchange", () => {
  // The link that skips to the content is no view.
  if (location.hash === "#main") return;
  route();
  if (server.isSignedIn()) find("main").focus();
});

const once = work => { attempt(work); };

const ENTER = {
  overview: () => {
    connectedAfter = null;
    drawAll();
    return server.repeat(4, overview);
  },
  live: () => {
    const end = server.repeat(0.2, follow);
    return () => { end(); leave(); };
  },
  failures: () => once(() => failures(null)),
  users: () => once(() => users(null)),
  user: rest => {
    let name;
    try { name = decodeURIComponent(rest.join("/")); } catch { name = rest.join("/"); }
    once(() => showUser(name));
  },
  storage: () => once(storage),
};

// ------------------------------------------------------------------- overview
let connectedAfter = null;

async function overview() {
  const found = await server.ask("/admin/overview", { after: connectedAfter });
  find("app-name").textContent = found.app_name === "oversync" ? "" : found.app_name;
  facts(find("process"), [
    ["Version", found.version], ["Store", found.store], ["Up for", span(found.uptime_seconds)], ["Users connected", number(found.users)],
    ["WebSocket sessions", number(found.sessions)], ["Waiting polls", number(found.polls)],
    ["Schema versions taken", found.min_schema_version === found.schema_version ? number(found.schema_version) : `${found.min_schema_version} to ${found.schema_version}`],
    ["Epoch", found.epoch],
  ]);
  const table = find("connected");
  table.tBodies[0].replaceChildren(...found.connected.map(user => row(table, [userLink(user.user), number(user.sessions), number(user.polls)])));
  find("connected-count").textContent = found.users ? "" : "Nobody is connected to this process.";
  find("connected-first").hidden = connectedAfter === null;
  find("connected-more").hidden = found.next === null;
  find("connected-more").onclick = () => { connectedAfter = found.next; attempt(overview); };
}

find("connected-first").addEventListener("click", () => { connectedAfter = null; attempt(overview); });

server.repeat(2, async () => {
  await sample();
  if (!find("overview").hidden) drawAll();
});

// ------------------------------------------------------------------- failures
let failuresAsked = 0;

async function failures(after) {
  const mine = ++failuresAsked;
  const found = await server.ask("/admin/failures", { after });
  if (mine !== failuresAsked) return;
  const table = find("failure-list");
  if (!after) table.tBodies[0].replaceChildren();
  table.tBodies[0].append(...found.failures.map(failure => {
    const name = [`${failure.schema}.${failure.table}`, el("br"), el("span", { class: "key" }, failure.pk)];
    const retries = el("span", null, number(failure.retry_count));
    const why = [el("span", { class: "bad" }, failure.error),
      el("details", null, el("summary", null, `${failure.op} to version ${failure.attempted_version}`), payload(failure.payload, failure.payload_bytes))];
    const button = el("button", { type: "button", "aria-label": `Try again: ${failure.schema}.${failure.table} ${failure.pk} of ${failure.user}` }, "Try again");
    const line = row(table, [moment(failure.first_seen), userLink(failure.user), name, why, retries, button]);
    button.addEventListener("click", () => attempt(() => retry(failure, line, button, retries)));
    return line;
  }));
  find("failures-empty").hidden = table.tBodies[0].rows.length > 0;
  find("failures-more").hidden = found.next === null;
  find("failures-more").onclick = () => attempt(() => failures(found.next));
}

async function retry(failure, line, button, retries) {
  button.disabled = true;
  try {
    const done = await server.post("/admin/failures/retry", { user: failure.user, id: failure.id });
    if (done.status === "materialize_error") {
      line.querySelector(".bad").textContent = done.message;
      failure.retry_count += 1;
      retries.textContent = number(failure.retry_count);
      notice(`Still not written: ${done.message}`, true);
      return;
    }
    line.remove();
    find("failures-empty").hidden = find("failure-list").tBodies[0].rows.length > 0 || !find("failures-more").hidden;
    notice(done.status === "stale" ? "The row is gone; so is the failure." : `The row is written, at version ${number(done.new_server_version)}.`);
    find("failures-first").focus();
  } finally {
    button.disabled = false;
  }
}

find("failures-first").addEventListener("click", () => attempt(() => failures(null)));

// ---------------------------------------------------------------------- users
// The question that was asked last: an answer to one before comes too late.
let usersAsked = 0;

async function users(after) {
  const mine = ++usersAsked;
  const found = await server.ask("/admin/users", { prefix: find("users-prefix").value, after });
  if (mine !== usersAsked) return;
  const table = find("user-list");
  if (!after) table.tBodies[0].replaceChildren();
  table.tBodies[0].append(...found.users.map(user => row(table, [userLink(user.user), number(user.head), number(user.floor)])));
  find("users-empty").hidden = table.tBodies[0].rows.length > 0;
  find("users-more").hidden = found.next === null;
  find("users-more").onclick = () => attempt(() => users(found.next));
}

find("users-form").addEventListener("submit", event => {
  event.preventDefault();
  attempt(() => users(null));
});

// -------------------------------------------------------------------- storage
async function storage() {
  const [found, { tables }] = await Promise.all([server.ask("/admin/storage"), server.ask("/admin/tables")]);
  const stored = find("stored");
  stored.tBodies[0].replaceChildren(...found.stored.map(each => row(stored, [each.kind, bytes(each.bytes)])));
  const rules = found.retention;
  facts(find("retention"), [
    ["Folding", rules.enabled ? "on" : "off"], ["Nothing younger than", span(rules.keep_seconds)], ["A silent device counts for", `${number(rules.silent_days)} days`],
    ["Entries, before it is worth it", number(rules.min_entries)], ["Between two passes", span(rules.pause_ms / 1000)],
  ]);
  const list = find("tables");
  const uses = { projected: "written into the business table", handled: "written by the host’s handler", synchronised_only: "synchronised only" };
  list.tBodies[0].replaceChildren(...tables.map(table => row(list, [table.table, uses[table.use], table.use === "projected" ? number(Object.keys(table.columns).length) : "–"])));
}

if (server.isSignedIn()) server.keep();
route();
