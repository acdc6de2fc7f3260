//! What every store has to do, proved by the same tests against each of them.

mod bench;
mod cluster;
mod contention;
mod formats;
mod outage;
mod random;
#[path = "../common/redis.rs"]
mod redis_server;
mod rules;
mod sqlite_file;
mod time;

/// Runs tests of the form `fn(&Bench)` against every store, under names such as `sqlite::…`.
macro_rules! on_every_store {
    ($($test:ident),* $(,)?) => {
        mod memory {
            $(#[test] fn $test() { crate::bench::with_memory(super::$test); })*
        }
        mod redis {
            $(#[test] fn $test() { crate::bench::with_redis(super::$test); })*
        }
        mod redis_cluster {
            $(#[test] fn $test() { crate::bench::with_cluster(super::$test); })*
        }
        mod sqlite {
            $(#[test] fn $test() { crate::bench::with_sqlite(super::$test); })*
        }
    };
}
pub(crate) use on_every_store;
