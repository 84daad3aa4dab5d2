-- Begins a transaction in which nobody else reads or writes what the server keeps: who
-- starts now waits at the epoch.
BEGIN;
SET LOCAL lock_timeout = '10s';
LOCK TABLE oversync.meta, oversync.users IN ACCESS EXCLUSIVE MODE;
