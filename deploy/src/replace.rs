//! Files that others read while they change: seen whole, the old one or the new one, or not at all.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt, chown},
    path::Path,
};

use crate::error::{Error, Result};

/// The user and the group that a file is given to, where it is not its writer's.
pub type Owner = Option<(u32, u32)>;

/// What everybody may read.
pub const READABLE: u32 = 0o644;

/// Replaces a file in a folder that nobody watches.
///
/// # Errors
/// It cannot be written.
pub fn replace(path: &Path, bytes: impl AsRef<[u8]>, mode: u32, owner: Owner) -> Result<()> {
    replace_by(&path.with_extension("staged"), path, bytes, mode, owner)
}

/// Replaces a file by one that is written elsewhere, on the same file system: any event in a watched
/// folder makes its reader look.
///
/// # Errors
/// It cannot be written.
pub fn replace_by(
    staged: &Path,
    path: &Path,
    bytes: impl AsRef<[u8]>,
    mode: u32,
    owner: Owner,
) -> Result<()> {
    let write = || {
        // One that was left behind may belong to somebody else.
        match fs::remove_file(staged) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(staged)?;
        file.write_all(bytes.as_ref())?;
        // Whatever the umask has taken from it.
        file.set_permissions(Permissions::from_mode(mode))?;
        if let Some((user, group)) = owner {
            chown(staged, Some(user), Some(group))?;
        }
        file.sync_all()?;
        fs::rename(staged, path)
    };
    write().map_err(Error::file(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn what_was_left_behind_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("router.yml");
        fs::write(&path, "old").unwrap();
        fs::write(path.with_extension("staged"), "a half of").unwrap();
        replace(&path, "new", 0o600, None).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_replaced_stays_as_it_is_and_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("router.yml");
        fs::write(&path, "old").unwrap();
        let nowhere = folder.path().join("staging/router.yml");
        let error = replace_by(&nowhere, &path, "new", READABLE, None).unwrap_err();
        assert!(error.to_string().contains("router.yml"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    }
}
