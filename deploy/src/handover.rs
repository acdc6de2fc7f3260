//! What Traefik is given beside its configuration: the certificate, and a place for its own.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt, chown},
    path::Path,
};

use crate::{
    certificate::Certificate,
    door::Tls,
    engine::Engine,
    error::{Error, Result},
};

/// Traefik's alone: there are keys in there.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Copies the certificate to where Traefik finds it. It is read anew each time, so that one that
/// was renewed gets in.
///
/// # Errors
/// It cannot be read or written, or is none.
pub fn hand_over(engine: &dyn Engine) -> Result<()> {
    let stack = engine.stack();
    let owner = engine.traefik_user();
    for folder in [stack.tls(), stack.acme()] {
        make_folder(&folder, owner).map_err(Error::file(folder))?;
    }
    match &stack.door.tls {
        None => Ok(()),
        Some(Tls::Files(files)) => {
            let certificate = Certificate::read(&files.certificate, &files.key);
            let certificate = certificate.map_err(Error::Certificate)?;
            write(&stack.certificate(), certificate.pem(), owner)
        }
        Some(Tls::Acme(acme)) => acme.account.ca.as_ref().map_or(Ok(()), |ca| {
            let pem = fs::read(ca).map_err(Error::file(ca))?;
            write(&stack.authority(), &pem, owner)
        }),
    }
}

type Owner = Option<(u32, u32)>;

fn make_folder(folder: &Path, owner: Owner) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, Permissions::from_mode(FOLDER_MODE))?;
    give(folder, owner)
}

fn give(path: &Path, owner: Owner) -> std::io::Result<()> {
    owner.map_or(Ok(()), |(user, group)| chown(path, Some(user), Some(group)))
}

/// Renamed into place, so that it is seen whole or not at all.
fn write(path: &Path, bytes: &[u8], owner: Owner) -> Result<()> {
    let staged = path.with_extension("staged");
    let write = || {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        let mut file = options.mode(FILE_MODE).open(&staged)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        give(&staged, owner)?;
        fs::rename(&staged, path)
    };
    write().map_err(Error::file(path))
}
