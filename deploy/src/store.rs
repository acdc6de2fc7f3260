//! Where the sessions of a stack are kept: both colours and all releases share it, or a flip would
//! lose them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    colour::Colour,
    engine::Kind,
    error::{Error, Result},
    stack::Stack,
};

/// The setting, as the server knows it.
pub const VARIABLE: &str = "TALLY_SESSION_STORE";

/// Decided by `up`, for as long as the stack is up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Store {
    /// What comes with the engine: a file of the clone, or a container.
    Own,
    /// What a person has set.
    Other(String),
}

impl Default for Store {
    /// Of stacks from before there was a choice.
    fn default() -> Self {
        Self::Other("memory".into())
    }
}

impl Store {
    pub fn of(setting: Option<String>) -> Self {
        setting.map_or(Self::Own, Self::Other)
    }

    /// What a colour is told; `own` is the engine's.
    pub fn setting(&self, own: String) -> String {
        match self {
            Self::Own => own,
            Self::Other(setting) => setting.clone(),
        }
    }

    /// Whether a session outlives the process that counts it.
    pub fn is_shared(&self) -> bool {
        *self != Self::default()
    }

    /// What a flip does to the clients, where it does anything.
    pub fn warning(&self) -> Option<String> {
        (!self.is_shared()).then(|| {
            format!(
                "{self}: sessions end with their process, and after a flip every client begins anew"
            )
        })
    }

    /// # Errors
    /// Somebody who sets that means another one.
    pub fn fits(&self, setting: Option<String>) -> Result<()> {
        match setting.map(Self::Other) {
            Some(wanted) if wanted != *self => Err(Error::OtherStore {
                stack: self.clone(),
                wanted,
            }),
            _ => Ok(()),
        }
    }
}

/// That a colour misses the store of its stack, and what helps.
pub fn down(stack: &Stack, colour: Colour) -> Error {
    Error::StoreDown {
        colour,
        store: stack.store.clone(),
        cure: match (&stack.store, stack.engine) {
            (Store::Own, Kind::Docker) => "./just up starts its container",
            (Store::Own, Kind::Native) => "see that .tally/state can be written to",
            (Store::Own, Kind::Kubernetes) => "kubectl describe pod tally-redis-0 may say why",
            (Store::Other(_), _) => "see that it runs and can be reached from there",
        },
    }
}

/// Without what may be a password.
impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("the engine's own store"),
            Self::Other(setting) => match setting.rsplit_once('@') {
                Some((before, address)) => {
                    let scheme = before.split("://").next().unwrap_or("redis");
                    write!(f, "{scheme}://…@{address}")
                }
                None => f.write_str(setting),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_told() {
        let store = Store::of(Some("redis://tally:secret@store.example:6379/0".into()));
        assert_eq!(store.to_string(), "redis://…@store.example:6379/0");
        assert_eq!(Store::of(None).to_string(), "the engine's own store");
    }

    #[test]
    fn a_setting_that_is_not_there_fits_any_store() {
        let store = Store::of(Some("memory".into()));
        assert!(store.fits(None).is_ok() && store.fits(Some("memory".into())).is_ok());
        assert!(Store::Own.fits(None).is_ok() && Store::Own.fits(Some("memory".into())).is_err());
        assert!(Store::Own.is_shared() && !store.is_shared());
    }

    #[test]
    fn two_stores_that_do_not_agree_are_both_named() {
        let wanted = Some("redis://tally:secret@elsewhere:6379".to_owned());
        let store = Store::of(Some("sqlite:a.db".into()));
        let told = store.fits(wanted).unwrap_err().to_string();
        assert!(told.contains("redis://…@elsewhere:6379"), "{told}");
        assert!(told.contains("runs with sqlite:a.db"), "{told}");
        assert!(told.contains("./just down"), "{told}");
    }
}
