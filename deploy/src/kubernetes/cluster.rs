//! A namespace of a cluster, by way of kubectl: it knows how to log in.

use std::{process::Command, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    command,
    error::{Error, Result},
};

/// One word with the cluster.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// Others change an object at the same moment: rare, and over in milliseconds.
const TRIES: usize = 10;

/// What kubectl calls that somebody else was faster.
const OVERTAKEN: [&str; 3] = ["(Conflict)", "(AlreadyExists)", "(NotFound)"];

/// Where a stack is rolled out, and how. `up` writes it down, so that a person who turns to another
/// cluster does not flip that one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// In the kubeconfig; empty where there is only the one that a pod is given.
    pub context: String,
    pub namespace: String,
    /// A folder of `deploy/kubernetes/overlays`.
    pub overlay: String,
}

impl Cluster {
    /// With the context that kubectl has at the moment.
    pub fn of_now(namespace: String, overlay: String) -> Self {
        let mut current = Command::new("kubectl");
        let context = command::run(current.args(["config", "current-context"]), TIMEOUT);
        Self {
            context: context.unwrap_or_default(),
            namespace,
            overlay,
        }
    }

    /// Whether somebody who sets that means this one.
    pub fn fits(&self, namespace: Option<&str>, overlay: Option<&str>) -> bool {
        namespace.is_none_or(|namespace| namespace == self.namespace)
            && overlay.is_none_or(|overlay| overlay == self.overlay)
    }

    pub fn command(&self) -> Command {
        let mut kubectl = Command::new("kubectl");
        self.aim(&mut kubectl);
        kubectl
    }

    /// The words that lead kubectl here.
    pub fn aim(&self, kubectl: &mut Command) {
        if !self.context.is_empty() {
            kubectl.arg(format!("--context={}", self.context));
        }
        kubectl.arg(format!("--namespace={}", self.namespace));
    }

    /// Runs kubectl; returns what it printed.
    ///
    /// # Errors
    /// Its complaint.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        command::run(self.command().args(arguments), TIMEOUT)
    }

    /// Some objects, as `kind/name` each or by a selector; those that are not there are left out.
    ///
    /// # Errors
    /// The cluster cannot be asked.
    pub fn get(&self, what: &[&str]) -> Result<Vec<Value>> {
        let words = [&["get", "--ignore-not-found", "--output=json"], what].concat();
        let text = self.run(&words)?;
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let mut found: Value = serde_json::from_str(&text).map_err(|error| Error::Command {
            command: "kubectl get".into(),
            reason: error.to_string(),
        })?;
        // To look for the field by its name would make it, and kubectl take the object for a list.
        Ok(match found.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => items,
            _ => vec![found],
        })
    }

    /// Changes an object, or makes it; whoever is overtaken by somebody else's change looks anew.
    ///
    /// # Errors
    /// What `edit` says, or the cluster.
    pub fn change(
        &self,
        fresh: &Value,
        mut edit: impl FnMut(&mut Value) -> Result<()>,
    ) -> Result<()> {
        let name = |object: &Value| {
            let [kind, name] = [&object["kind"], &object["metadata"]["name"]];
            let [kind, name] = [kind, name].map(|word| word.as_str().unwrap_or_default());
            format!("{}/{name}", kind.to_lowercase())
        };
        for _ in 0..TRIES {
            let found = self.get(&[&name(fresh)])?.pop();
            let verb = if found.is_some() { "replace" } else { "create" };
            let mut object = found.unwrap_or_else(|| fresh.clone());
            edit(&mut object)?;
            let mut write = self.command();
            write.args([verb, "--filename=-"]);
            match command::feed(&mut write, object.to_string(), TIMEOUT) {
                Err(Error::Command { reason, .. })
                    if OVERTAKEN.iter().any(|word| reason.contains(word)) => {}
                outcome => return outcome.map(drop),
            }
        }
        Err(Error::Contended(name(fresh)))
    }

    /// # Errors
    /// It is not there and cannot be made.
    pub fn provide_namespace(&self) -> Result<()> {
        let name = format!("namespace/{}", self.namespace);
        if self.get(&[&name])?.is_empty() {
            self.run(&["create", "namespace", &self.namespace, "--save-config"])?;
        }
        Ok(())
    }
}

/// Of an object, one of its annotations.
pub fn annotation<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object["metadata"]["annotations"][name].as_str()
}

pub fn annotate(object: &mut Value, name: &str, text: Option<String>) {
    let metadata = &mut object["metadata"];
    if metadata["annotations"].is_null() {
        metadata["annotations"] = json!({});
    }
    match text {
        Some(text) => metadata["annotations"][name] = text.into(),
        None => {
            if let Some(annotations) = metadata["annotations"].as_object_mut() {
                annotations.remove(name);
            }
        }
    }
}
