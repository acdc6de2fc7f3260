//! The version of what is kept, and the rule by which it may change.
//!
//! During a flip two releases work on one store, and a rollback gives the store back to the release
//! before. So each release reads, and does not destroy, what its neighbours on both sides write:
//!
//! - Every session carries its format, `100 × major + minor`.
//! - A new *minor* only adds: a column or a field that may be missing, and that may be left as it
//!   is when the session changes. It is written by a release at once. Whoever does not know a
//!   field leaves it alone, and nobody lowers the format of a session that is there. A new field
//!   must not be needed to get the rules of `session.rs` right: the release before goes by the old
//!   fields only.
//! - A new *major* changes the meaning of something. It takes two releases: the first one reads
//!   both and writes the old one, the second one writes the new one. A release that finds a major
//!   it does not know refuses, so a step that was left out is told and nothing is lost.
//! - What is no session follows the same rule: `user_version` of a SQLite file is the format of its
//!   tables, and a new minor is brought about by `alter table … add column` with a default, or by
//!   `create … if not exists`. The keys of Redis have none of their own; a major would get another
//!   prefix.
//!
//! The files under `server/tests/stores/fixtures` hold format 1.0 and what a next minor may look
//! like; the tests read them with every release. The drills have this build and an earlier one
//! (`server/tests/service/earlier.rs`) work on one store, and each take over from the other.

use super::StoreError;

/// What this release writes: 1.0.
pub const FORMAT: i64 = 100;

/// # Errors
/// It is of a major that this release does not know.
pub fn check(format: i64, of: impl FnOnce() -> String) -> Result<(), StoreError> {
    if format / 100 == FORMAT / 100 {
        return Ok(());
    }
    Err(StoreError(format!(
        "{} has format {}.{}, and this release reads {}.x only: run the release that wrote it, or \
         one that reads both",
        of(),
        format / 100,
        format % 100,
        FORMAT / 100,
    )))
}
