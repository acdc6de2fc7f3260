//! Whom Prometheus asks: files that it reads again whenever they change.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use crate::{
    colour::Colour,
    error::Result,
    replace::{READABLE, replace_by},
    stack::Stack,
};

use super::{Host, Part, files};

fn folder(stack: &Stack) -> PathBuf {
    stack
        .monitoring()
        .join(Part::Prometheus.name())
        .join(files::TARGETS)
}

fn path(stack: &Stack, name: &str) -> PathBuf {
    folder(stack).join(name).with_extension("json")
}

fn write(stack: &Stack, name: &str, targets: &Value) -> Result<()> {
    // Prometheus watches the folder; a half of a file shall not be seen in there.
    let staged = folder(stack).with_file_name(format!("{name}.staged"));
    replace_by(
        &staged,
        &path(stack, name),
        targets.to_string(),
        READABLE,
        None,
    )
}

fn target(address: &str, label: &str, value: &str) -> Value {
    json!({ "targets": [address], "labels": { label: value } })
}

/// The colours that are meant to run; `address` is where the operator's listener of one is.
///
/// # Errors
/// It cannot be written.
pub fn colours(stack: &Stack, meant: &[Colour], address: impl Fn(Colour) -> String) -> Result<()> {
    files::folder(&folder(stack))?;
    let targets = meant.iter();
    let targets = targets.map(|colour| target(&address(*colour), "colour", colour.name()));
    write(stack, "tally", &Value::Array(targets.collect()))
}

/// Adds a colour that was started, or takes one away that was stopped. Where there is no
/// monitoring, there is nothing to do.
///
/// # Errors
/// It cannot be written.
pub fn turn(
    stack: &Stack,
    colour: Colour,
    runs: bool,
    address: impl Fn(Colour) -> String,
) -> Result<()> {
    let Ok(text) = fs::read_to_string(path(stack, "tally")) else {
        return Ok(());
    };
    let before: Value = serde_json::from_str(&text).unwrap_or_default();
    let was_meant = |colour: &Colour| {
        let targets = before.as_array().into_iter().flatten();
        targets
            .into_iter()
            .any(|target| target["labels"]["colour"] == colour.name())
    };
    let meant = |each: &Colour| {
        if *each == colour {
            runs
        } else {
            was_meant(each)
        }
    };
    let meant: Vec<Colour> = Colour::ALL.into_iter().filter(meant).collect();
    colours(stack, &meant, address)
}

/// Traefik and the parts that there are.
///
/// # Errors
/// They cannot be written.
pub fn others(stack: &Stack, host: &dyn Host, parts: &[Part]) -> Result<()> {
    let traefik = target(&host.traefik(), "job", "traefik");
    let parts_ = parts.iter().filter(|part| **part != Part::Grafana);
    let parts_ = parts_.map(|part| target(&host.address(*part), "job", part.name()));
    let others = [traefik].into_iter().chain(parts_).collect();
    write(stack, "others", &Value::Array(others))?;
    let alertmanager = parts.contains(&Part::Alertmanager);
    let told = alertmanager.then(|| json!({ "targets": [host.address(Part::Alertmanager)] }));
    write(
        stack,
        "alertmanager",
        &Value::Array(told.into_iter().collect()),
    )
}
