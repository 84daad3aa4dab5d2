//! The SQL that pg_restore writes, as the server takes it.
//!
//! A program that is newer than the server begins its script with settings that the
//! server may not know, each on a line of its own before anything else. One that is
//! refused would end the whole restore.

/// Bytes that hold all of a script's settings.
pub(super) const BEGINNING: usize = 16 * 1024;

/// Settings of the beginning, with the first major version of servers that knows them.
const LATER: [(&[u8], u32); 1] = [(b"SET transaction_timeout ", 17)];

/// The beginning of a script without the settings that a server of this major version
/// does not know. What comes after the first other statement is left as it is, whatever it says.
pub(super) fn understood(beginning: &[u8], server: u32) -> Vec<u8> {
    let mut kept = Vec::with_capacity(beginning.len());
    let mut rest = beginning;
    while is_preamble(rest) {
        let end = rest.iter().position(|byte| *byte == b'\n');
        let (line, after) = rest.split_at(end.map_or(rest.len(), |at| at + 1));
        let is_known = LATER
            .iter()
            .all(|(setting, since)| server >= *since || !line.starts_with(setting));
        if is_known {
            kept.extend_from_slice(line);
        }
        rest = after;
    }
    kept.extend_from_slice(rest);
    kept
}

/// Whether a line comes next that may stand before the first other statement.
fn is_preamble(rest: &[u8]) -> bool {
    let begins: [&[u8]; 4] = [b"\n", b"--", b"SET ", b"\\restrict "];
    begins.iter().any(|begin| rest.starts_with(begin))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "--\n-- PostgreSQL database dump\n--\n\n\\restrict abc\n\n\
        SET statement_timeout = 0;\nSET transaction_timeout = 0;\nSET row_security = off;\n\
        SELECT pg_catalog.set_config('search_path', '', false);\n\n--\n-- Name: f; Type: FUNCTION\n--\n\n\
        CREATE FUNCTION public.f() RETURNS void LANGUAGE sql AS $$\nSET transaction_timeout = 0;\n$$;\n";

    fn heard(server: u32) -> String {
        String::from_utf8(understood(SCRIPT.as_bytes(), server)).expect("text")
    }

    #[test]
    fn a_setting_that_the_server_does_not_know_is_left_out() {
        let without = SCRIPT.replacen("SET transaction_timeout = 0;\n", "", 1);
        for server in [14, 16] {
            assert_eq!(heard(server), without, "and nothing else");
        }
    }

    #[test]
    fn a_server_that_knows_it_hears_all() {
        for server in [17, 18] {
            assert_eq!(heard(server), SCRIPT);
        }
    }

    #[test]
    fn a_script_may_end_anywhere() {
        for end in 0..SCRIPT.len() {
            let cut = &SCRIPT.as_bytes()[..end];
            assert_eq!(understood(cut, 17), cut);
            assert!(understood(cut, 15).len() <= end);
        }
    }
}
