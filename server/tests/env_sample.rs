//! `.env.sample` says what the server says: every setting, with its default, and nothing else.

use std::{collections::BTreeMap, process::Command};

/// Below it is what the recipes take for themselves; the server does not know them.
const RECIPES: &str = "# -- the recipes";

/// Settings and defaults, out of the program's help.
fn told() -> BTreeMap<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tally-server"));
    // The help shows what is set beside what is default.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TALLY_")) {
        command.env_remove(name);
    }
    let help = command.arg("--help").output().expect("the server runs");
    let help = String::from_utf8(help.stdout).expect("UTF-8");
    // Lines break wherever the width wants it.
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    help.split("[env: ")
        .skip(1)
        .map(|rest| {
            let (name, rest) = rest.split_once("=] ").expect("a variable");
            let default = rest.strip_prefix("[default: ").expect("a default");
            let (default, _) = default.split_once(']').expect("its end");
            (name.to_owned(), default.trim_matches('"').to_owned())
        })
        .collect()
}

/// Settings and values of the sample, commented out as they are.
fn sampled() -> BTreeMap<String, String> {
    let sample = include_str!("../../.env.sample");
    let (servers, _) = sample.split_once(RECIPES).expect("two sections");
    servers
        .lines()
        .filter_map(|line| line.trim_start_matches('#').split_once('='))
        .filter(|(name, _)| name.starts_with("TALLY_"))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn the_sample_has_every_setting_with_its_default() {
    let told = told();
    assert!(told.contains_key("TALLY_LISTEN"), "the help is understood");
    assert_eq!(sampled(), told);
}

#[test]
fn the_sample_explains_every_setting() {
    let lines: Vec<&str> = include_str!("../../.env.sample").lines().collect();
    for pair in lines.windows(2) {
        let is_setting = pair[1].starts_with("#TALLY_");
        assert!(!is_setting || pair[0].starts_with("# "), "{}", pair[1]);
    }
}
