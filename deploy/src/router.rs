//! The one router file: which colour is live, and which one the preview door leads to.
//!
//! While a new colour bakes, Traefik falls back on the old one: a handshake that the new colour does
//! not answer, or with a server's error, is the old one's within the same request.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use crate::{
    colour::Colour,
    error::{Error, Result},
};

pub const ROUTER: &str = "tally";

/// The router file in Traefik's watched folder.
pub struct Router {
    file: PathBuf,
    staging: PathBuf,
}

impl Router {
    /// `dynamic` is the folder that Traefik watches.
    pub fn new(dynamic: &Path) -> Self {
        Self {
            file: dynamic.join("router.yml"),
            staging: dynamic.with_file_name("staging"),
        }
    }

    /// The colour that the file points to; none before the first start.
    pub fn live(&self) -> Option<Colour> {
        let text = fs::read_to_string(&self.file).ok()?;
        text.lines()
            .find_map(|line| line.trim().strip_prefix("service: "))
            .and_then(Colour::of_service)
    }

    /// Points the router to a colour and no other.
    ///
    /// # Errors
    /// The file cannot be written; the old one is then still in place.
    pub fn point_to(&self, colour: Colour) -> Result<()> {
        self.write(&render(colour, &colour.service()))
    }

    /// Points the router to a colour, and to the other one where this one does not answer.
    ///
    /// # Errors
    /// As of [`Self::point_to`].
    pub fn try_out(&self, colour: Colour) -> Result<()> {
        self.write(&render(colour, &colour.service_with_fallback()))
    }

    /// Written beside the watched folder, since any file event in
    /// there makes Traefik load everything, and renamed into it: it is seen whole or not at all.
    fn write(&self, text: &str) -> Result<()> {
        if fs::read_to_string(&self.file).is_ok_and(|found| found == text) {
            return Ok(());
        }
        fs::create_dir_all(&self.staging).map_err(Error::file(&self.staging))?;
        let staged = self.staging.join("router.yml");
        let write = || {
            let mut file = fs::File::create(&staged)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&staged, &self.file)
        };
        write().map_err(Error::file(&self.file))
    }
}

fn render(colour: Colour, service: &str) -> String {
    format!(
        "# Written by the deploy program: {colour} is live. Change it with ./just flip.\n\
         http:\n  routers:\n    {ROUTER}:\n      entryPoints: [web]\n      \
         rule: PathPrefix(`/`)\n      service: {service}\n    preview:\n      \
         entryPoints: [preview]\n      rule: PathPrefix(`/`)\n      service: {}\n",
        colour.other().service(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_router_says_who_is_live() {
        let root = tempfile::tempdir().unwrap();
        let dynamic = root.path().join("dynamic");
        fs::create_dir(&dynamic).unwrap();
        let router = Router::new(&dynamic);
        assert_eq!(router.live(), None);
        for colour in [Colour::Blue, Colour::Green, Colour::Blue] {
            router.try_out(colour).unwrap();
            assert_eq!(router.live(), Some(colour));
            router.point_to(colour).unwrap();
            assert_eq!(router.live(), Some(colour));
        }
        let watched = fs::read_dir(&dynamic).unwrap().count();
        assert_eq!(watched, 1, "nothing is staged in the watched folder");
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let root = tempfile::tempdir().unwrap();
        let dynamic = root.path().join("dynamic");
        fs::create_dir(&dynamic).unwrap();
        let router = Router::new(&dynamic);
        router.point_to(Colour::Blue).unwrap();
        let staging = root.path().join("staging");
        fs::remove_dir_all(&staging).unwrap();
        fs::write(&staging, "in the way").unwrap();
        assert!(router.point_to(Colour::Green).is_err());
        assert_eq!(router.live(), Some(Colour::Blue));
    }
}
