//! Times as operators read them: RFC 3339, UTC.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// One time.
pub(super) fn text(time: OffsetDateTime) -> String {
    time.format(&Rfc3339)
        .expect("BUG: stored times have years of four digits")
}
