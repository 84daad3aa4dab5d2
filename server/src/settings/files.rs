//! Sockets and open files: each socket is one, and a process without any left can
//! neither accept a connection nor open its database. The limit is the system's
//! (`ulimit -n`, `LimitNOFILE`), asked once at the start.

use super::{Settings, SettingsError, value};

/// Where the system names no limit, or none that means anything.
const MANY: usize = 1_000_000;

impl Settings {
    /// How many WebSockets may be open at a time.
    pub(crate) fn max_sockets(&self) -> usize {
        let set = self.limits.max_sockets;
        // The rest is for uploads, downloads and the database.
        set.unwrap_or_else(|| open_files() / 4 * 3)
    }

    pub(super) fn check_sockets(&self) -> Result<(), SettingsError> {
        match self.limits.max_sockets {
            Some(0) => Err(value("limits.max_sockets", "must be at least 1")),
            Some(most) if most >= open_files() => Err(value(
                "limits.max_sockets",
                &format!(
                    "the system allows this process {} open files: raise that (ulimit -n, \
                     LimitNOFILE), or set less",
                    open_files()
                ),
            )),
            _ => Ok(()),
        }
    }
}

/// Files that this process may have open, sockets included.
pub(crate) fn open_files() -> usize {
    let limit = rlimit::Resource::NOFILE.get_soft();
    limit.map_or(MANY, |limit| {
        usize::try_from(limit).map_or(MANY, |limit| limit.min(MANY))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_files_are_left_for_others() {
        let mut settings = Settings::default();
        let most = settings.max_sockets();
        assert!(
            most > 0 && most < open_files(),
            "{most} of {}",
            open_files()
        );
        settings.limits.max_sockets = Some(7);
        assert_eq!(settings.max_sockets(), 7);
        assert!(settings.check_sockets().is_ok());
        for wrong in [0, open_files()] {
            settings.limits.max_sockets = Some(wrong);
            let refused = settings.check_sockets().expect_err("no such limit");
            assert!(refused.to_string().contains("max_sockets"), "{refused}");
        }
    }
}
