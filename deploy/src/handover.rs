//! What Traefik is given beside its configuration: the certificate, and a place for its own.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
};

use crate::{
    certificate::Certificate,
    door::Tls,
    engine::Engine,
    error::{Error, Result},
    replace::{Owner, replace},
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
            replace(&stack.certificate(), certificate.pem(), FILE_MODE, owner)
        }
        Some(Tls::Acme(acme)) => acme.account.ca.as_ref().map_or(Ok(()), |ca| {
            let pem = fs::read(ca).map_err(Error::file(ca))?;
            replace(&stack.authority(), pem, FILE_MODE, owner)
        }),
    }
}

fn make_folder(folder: &Path, owner: Owner) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, Permissions::from_mode(FOLDER_MODE))?;
    owner.map_or(Ok(()), |(user, group)| {
        chown(folder, Some(user), Some(group))
    })
}
