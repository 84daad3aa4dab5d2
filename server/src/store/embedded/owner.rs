//! Whose a file is that was made beside a database: an operator who is root, and makes
//! one where a server runs as somebody else, must not leave what that one cannot open.
//!
//! Whoever has the folder may put anything there at any moment. What is given away is
//! therefore held open, and is this program's own: never what a link points to.

use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::Path;

/// Gives a file that root has just made to whoever has the database, or where there is
/// none yet, its folder. Anybody else's stays as it is: only root gives files away.
pub(super) fn hand_over(made: &File, database: &Path) -> io::Result<()> {
    let mine = made.metadata()?;
    if mine.uid() != 0 {
        return Ok(());
    }
    let theirs = match fs::metadata(database) {
        Ok(theirs) => theirs,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = database.parent().filter(|at| !at.as_os_str().is_empty());
            fs::metadata(folder.unwrap_or(Path::new(".")))?
        }
        Err(error) => return Err(error),
    };
    if is_same_owner(&mine, &theirs) {
        return Ok(());
    }
    fchown(made, Some(theirs.uid()), Some(theirs.gid()))
}

fn is_same_owner(one: &Metadata, other: &Metadata) -> bool {
    (one.uid(), one.gid()) == (other.uid(), other.gid())
}

/// Lets a file that comes in place of a database have its owner, its group and who may
/// read it. Where owner or group stay others, nobody may who could not before.
pub(crate) fn succeed(made: &Path, database: &Path) -> io::Result<()> {
    let file = File::open(made)?;
    let (held, named) = (file.metadata()?, fs::symlink_metadata(made)?);
    let is_this = (held.dev(), held.ino()) == (named.dev(), named.ino());
    if !is_this || held.nlink() != 1 {
        return Err(io::Error::other(
            "somebody has put another file in its place",
        ));
    }
    hand_over(&file, database)?;
    let Ok(theirs) = fs::metadata(database) else {
        return Ok(());
    };
    if !is_same_owner(&file.metadata()?, &theirs) {
        return Ok(());
    }
    file.set_permissions(Permissions::from_mode(theirs.mode() & 0o777))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_a_link_points_to_is_not_given_away() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["database", "other"] {
            fs::write(at(name), "").expect("written");
        }
        let may = |name: &str, mode| {
            fs::set_permissions(at(name), Permissions::from_mode(mode)).expect("set");
        };
        let mode = |name: &str| fs::metadata(at(name)).expect("it is there").mode() & 0o777;
        may("database", 0o664);
        may("other", 0o600);
        symlink(at("other"), at("link")).expect("a link");
        assert!(succeed(&at("link"), &at("database")).is_err());
        fs::hard_link(at("other"), at("twin")).expect("a link");
        assert!(succeed(&at("twin"), &at("database")).is_err());
        assert_eq!(mode("other"), 0o600);
        fs::remove_file(at("twin")).expect("it was there");
        succeed(&at("other"), &at("database")).expect("it is a file of its own");
        assert_eq!(mode("other"), 0o664);
    }
}
