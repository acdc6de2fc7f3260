//! Where the sessions of a stack are kept: both colours and all releases share it, or a flip would
//! lose them.

use std::fmt;

use serde::{Deserialize, Serialize};

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

    /// Whether somebody who sets that means this one.
    pub fn fits(&self, setting: Option<&str>) -> bool {
        setting.is_none_or(|setting| *self == Self::Other(setting.to_owned()))
    }
}

/// Without what may be a password.
impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("the engine's own store"),
            Self::Other(setting) => match setting.rsplit_once('@') {
                Some((_, address)) => write!(f, "redis://…@{address}"),
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
        assert!(store.fits(None) && store.fits(Some("memory")));
        assert!(!store.fits(Some("sqlite:a.db")) && !Store::Own.fits(Some("memory")));
        assert!(Store::Own.is_shared() && !store.is_shared());
    }
}
