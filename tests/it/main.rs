//! All integration tests, one binary. They need a PostgreSQL server:
//! `tests/with-postgres cargo test -p oversync-tests`.

// ------------------------------------------------------------- what it answers
// PROTOCOL.md sections 1-5 over plain HTTP, rule by rule; the cases are in
// tests/src/conformance.
mod conformance;
// Rows in business tables: the upload's own transaction, scoped to the user,
// failures recorded and retried.
mod projection;
// Rows that a host's own handler writes.
mod handlers;
// What goes wrong with one row, in a trigger or a handler, is that row's failure.
mod faults;
// Foreign keys of PostgreSQL: made to wait at start, never a reason for an upload
// to fail.
mod constraints;
// References to lookup tables and to columns that are not keys; the modes.
mod references;
// The failure list under load, and retries that meet others.
mod failures;
// The OpenAPI document and the routes: the one as the other.
mod openapi;
// The storage contract: one story, told to every store without a server.
mod stores;
// Bodies, queries, tokens and frames made by mutation: never a 5xx, never a panic.
mod hostile;
// Answers are bounded as bodies are.
mod bounds;
// What is asked for often costs the same on a long log.
mod growth;

// Everything one user can observe is the same whether another exists or not.
mod isolation;
// Rows on other users' business rows, by any column; whose a row is, exactly.
mod standing;

// ---------------------------------------------------------- what it never loses
// Many writers and a reader that never rests: every change once, in order.
mod stream;
// The server as a writer, beside devices and other processes.
mod writer;
// The same without HTTP, as a host application uses it.
mod library;
// Two processes on one database: what one has cached, the other has overtaken.
mod processes;
// What one process tells the other: PostgreSQL, NATS, and the loss of each.
mod bus;
// The log is folded all the time: what is left of it, who holds it, repeats, real clients.
mod retention;
// Readers of every kind meanwhile, and kills.
mod folded_readers;
// Devices that do not know what was folded away: a backup put back, a key used again.
mod put_back;
// Who holds that up, and who does not; plain clients among them.
mod counted;
// What `oversync verify` says of a folded log.
mod fold_verified;
// What folding has freed, given back to the file system.
mod compacted;
// History kept for audit: what folding moves, and what prints it.
mod history;
// SIGKILL and SIGTERM in the middle of uploads.
mod crash;
// `oversync verify`: silent beside busy servers, and every kind of planted damage
// is found and named.
mod verify;
// `oversync backup` and `restore`: what they refuse, and where streams go on.
mod recovery;
// The same where only PostgreSQL has it: its programs, extensions, large objects.
mod recovery_postgres;
// A restore of PostgreSQL that is cut off: by signals, and by processes that are killed.
mod restore_cut;
// An old backup put back under load: what devices hold comes again, on its own.
mod restored;
// What operators should not do with backups, and what folding makes of a restore.
mod mishaps;
// `oversync migrate`: from the embedded store to PostgreSQL, and nobody notices.
mod moved;
// Databases of every earlier schema step, with rows in them, under today's server.
mod upgraded;

// ---------------------------------------------------------------- what it tells
// WebSocket hints: hello, changes, bye, and who may not connect.
mod hints;
// HTTPS and wss by the server itself.
mod tls;
// The same by nginx before it.
mod behind_nginx;
// CORS.
mod cross_origin;
// SIGHUP: settings taken over by a running server.
mod reload;
// Everybody at once: admission, heads from memory, times to come back.
mod storms;
// The newest changes from memory: to the letter what the database says.
mod newest;
// Limits per user and per address.
mod rates;
// Limits on what one user may have.
mod quotas;
// Clients that ask and do not read.
mod stalled;
// Long poll: the HTTP-only client's way to be prompt.
mod long_poll;

// ------------------------------------------------------------- how it is started
// Settings, their mistakes, and the command line.
mod settings;
// Tables that cannot be synchronised are refused by name.
mod registration;
// The operators' listener: its own token, and what it counts.
mod admin;
// The operators' console: what it asks the server for …
mod console;
// … and the page itself, in headless Chromium.
mod console_page;
// `oversync doctor`: planted faults, each found by it alone.
mod examined_server;
// The same for clocks: the server's, and the database's.
mod clocks;
// Every metric of the manual and the dashboard, and what moves them.
mod metrics;
// One change as a trace, from device to device.
mod traced;
// Devices that may not come in any more: refused at every process, and told.
mod revocation;
// No token in any log.
mod canary;
// Tokens: algorithms, key files and sets, rotation, audience and issuer.
mod auth;

// ----------------------------------------------------------------- the devices
// Real clients against real servers: hints instead of polls, kill -9 on either
// side, a server that goes away and comes back.
mod devices;
// kill -9 of a device process at every named step of upload and apply.
mod killed;
// Power lost at any write or sync of a device's life: what was not synced is gone.
mod power;
// The first pass over a large account: how far it is, and going on after a kill.
mod first_pass;
// One row of every kind that can never succeed, among a thousand that can.
mod poison;
// An application with an SQLite of 2017 writes the file.
mod old_sqlite;
// An application's life, from the first install to the next user.
mod life;
// One row on two devices: merged by field, what loses is kept, what is refused can
// be tried again.
mod merging;
// WebSocket, long poll, polling; pauses; two clients on one file.
mod ways;
// Hints lost, a hundredfold, late, in another order, forged: latency only.
mod meddled;
// Servers that do not say what they take, and answers that are cut short.
mod stinted;
// Tokens that end: the next one over the open socket, and none at all.
mod tokens;
// The blocking client, in programs without an async runtime.
mod blocking;
// A server that asks for patience, calls that are dropped, a status that is true.
mod patience;
// The server is killed again and again; the devices converge all the same.
mod outages;
// The programs people try first: the command line, the examples.
mod programs;
// The HTTP-only client of the documentation, beside the real one.
mod http_client;
// The book: its commands, its links, and the tests it names.
mod book;
// The two-pane page of `serve --dev`, in headless Chromium.
mod demo;
// The command line when something is in the way: conflicts, refusals, two
// processes on one file, signing out, no server.
mod commands;
// `oversqlite doctor`: planted faults, each found by it alone.
mod doctor;
// The same as a library, with rarer faults.
mod examined;

// --------------------------------------------------------------- how it is built
// The rules of the house that a machine can check.
mod tidy;
