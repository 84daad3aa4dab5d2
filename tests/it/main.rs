//! All integration tests, one binary.

// ------------------------------------------------------------------ the server
// PROTOCOL.md sections 1-5 over plain HTTP, rule by rule; the cases are in
// tests/src/conformance.
mod conformance;
// Rows in business tables: the upload's own transaction, scoped to the user,
// failures recorded and retried.
mod projection;

// ----------------------------------------------------------------- the devices
// Real clients against real servers: hints instead of polls, kill -9 on either
// side, a server that goes away and comes back.
mod devices;
// The programs people try first: the command line, the examples.
mod programs;
