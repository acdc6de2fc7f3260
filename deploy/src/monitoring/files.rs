//! The project's files for the monitoring, with their capitals filled in.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, Permissions},
    io,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    error::{Error, Result},
    replace::replace,
};

use super::Part;

/// The sources of their tests, and what is written while the stack runs, beside their copies.
const NOT_COPIED: [&str; 2] = ["tests", TARGETS];
pub const TARGETS: &str = "targets";

/// It holds what must not be read by everybody: addresses and passwords of whom to tell.
const SECRET: &str = "alertmanager.yml";

pub type Values = BTreeMap<&'static str, Value>;

/// Copies the files of a part, and removes copies that have no source any more. Returns whether
/// anything has changed.
///
/// # Errors
/// One cannot be read, written or filled.
pub fn copy(part: Part, from: &Path, to: &Path, values: &Values) -> Result<bool> {
    let (from, to) = (from.join(part.name()), to.join(part.name()));
    folder(&to)?;
    let sources = below(&from)?;
    let copies = below(&to)?;
    let mut changed = false;
    for name in &sources {
        let source = from.join(name);
        let text = fs::read_to_string(&source).map_err(Error::file(&source))?;
        let text = fill(&text, values).map_err(|reason| Error::Placeholder {
            path: source,
            reason,
        })?;
        changed |= write(&to, name, &text)?;
    }
    for name in copies.difference(&sources) {
        let copy = to.join(name);
        fs::remove_file(&copy).map_err(Error::file(copy))?;
        changed = true;
    }
    Ok(changed)
}

/// Whoever runs this may let nobody else see what it makes; the parts may run as somebody else.
pub fn folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::file(path))?;
    fs::set_permissions(path, Permissions::from_mode(0o755)).map_err(Error::file(path))
}

/// Gives a folder and all that is in it away.
///
/// # Errors
/// Only root may.
pub fn give(path: &Path, (user, group): (u32, u32)) -> Result<()> {
    chown(path, Some(user), Some(group)).map_err(Error::file(path))?;
    if path.is_dir() {
        for entry in entries(path)? {
            give(&entry, (user, group))?;
        }
    }
    Ok(())
}

fn write(folder: &Path, name: &Path, text: &str) -> Result<bool> {
    let path = folder.join(name);
    if fs::read_to_string(&path).is_ok_and(|found| found == text) {
        return Ok(false);
    }
    for parent in name.ancestors().skip(1) {
        self::folder(&folder.join(parent))?;
    }
    let mode = if name.ends_with(SECRET) { 0o600 } else { 0o644 };
    replace(&path, text, mode, None).map(|()| true)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let found: io::Result<Vec<_>> = fs::read_dir(folder).and_then(|entries| {
        entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect()
    });
    found.map_err(Error::file(folder))
}

/// The files below a folder, by their names from there on.
fn below(root: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in entries(&folder)? {
            let name = path.file_name().unwrap_or_default();
            if !path.is_dir() {
                found.extend(path.strip_prefix(root).map(Path::to_owned));
            } else if !NOT_COPIED.iter().any(|skipped| name == *skipped) {
                folders.push(path);
            }
        }
    }
    Ok(found)
}

/// Puts the values in. A string that is a placeholder and nothing else becomes the value as JSON,
/// which YAML understands; within a string or outside of one it is the text of the value.
fn fill(template: &str, values: &Values) -> std::result::Result<String, String> {
    let text = values
        .iter()
        .fold(template.to_owned(), |text, (name, value)| {
            let json = value.to_string();
            let within = json
                .strip_prefix('"')
                .and_then(|text| text.strip_suffix('"'));
            let within = within.unwrap_or(&json);
            let placeholder = format!("@{name}@");
            text.replace(&format!("\"{placeholder}\""), &json)
                .replace(&placeholder, within)
        });
    match placeholder(&text) {
        None => Ok(text),
        Some(left) => Err(format!("nobody knows what @{left}@ is")),
    }
}

fn placeholder(text: &str) -> Option<&str> {
    let capitals = |word: &&str| {
        let letters = |letter: char| letter.is_ascii_uppercase() || letter == '_';
        word.len() > 1 && word.chars().all(letters)
    };
    text.split('@').skip(1).find(capitals)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn values() -> Values {
        Values::from([
            ("LIST", json!([{ "a": 1 }])),
            ("PORT", json!(90)),
            ("PATH", json!("/a \"b\"")),
        ])
    }

    #[test]
    fn strings_become_values_and_values_stand_in_strings() {
        let text = "x: \"@LIST@\"\ny: @PORT@\nz: \"@PATH@/c\"\nw: \"@PATH@\"\nm: a@b.example\n";
        let filled =
            "x: [{\"a\":1}]\ny: 90\nz: \"/a \\\"b\\\"/c\"\nw: \"/a \\\"b\\\"\"\nm: a@b.example\n";
        assert_eq!(fill(text, &values()).unwrap(), filled);
    }

    #[test]
    fn an_unknown_placeholder_is_named() {
        let error = fill("a: @PORT@\nb: @NOBODY@\n", &values()).unwrap_err();
        assert!(error.contains("@NOBODY@"), "{error}");
    }

    #[test]
    fn copies_follow_their_sources() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, to) = (from.path(), to.path());
        let source = from.join("alertmanager");
        fs::create_dir_all(source.join("rules")).unwrap();
        fs::create_dir_all(source.join("tests")).unwrap();
        let write = |name: &str, text: &str| fs::write(source.join(name), text).unwrap();
        write("alertmanager.yml", "a: @PORT@\n");
        write("rules/one.yml", "b");
        write("tests/one.yml", "@NOBODY@");
        let copy = || copy(Part::Alertmanager, from, to, &values()).unwrap();
        assert!(copy());
        assert!(!copy(), "nothing has changed");
        let at = |name: &str| to.join("alertmanager").join(name);
        assert_eq!(
            fs::read_to_string(at("alertmanager.yml")).unwrap(),
            "a: 90\n"
        );
        let mode = |name: &str| at(name).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode("alertmanager.yml"), mode("rules/one.yml")),
            (0o600, 0o644)
        );
        assert!(!at("tests").exists());

        fs::create_dir(at(TARGETS)).unwrap();
        fs::write(at(TARGETS).join("tally.json"), "[]").unwrap();
        fs::remove_file(source.join("rules/one.yml")).unwrap();
        assert!(copy());
        assert!(!at("rules/one.yml").exists() && at(TARGETS).join("tally.json").exists());
    }
}
