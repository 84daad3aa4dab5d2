//! All integration tests, one binary.

// ------------------------------------------------------------------ the server
// PROTOCOL.md sections 1-5 over plain HTTP, rule by rule; the cases are in
// tests/src/conformance.
mod conformance;
// Rows in business tables: the upload's own transaction, scoped to the user,
// failures recorded and retried.
mod projection;
