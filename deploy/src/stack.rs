//! Where the stack of this clone lives: its folders, its ports, its record.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    colour::Colour,
    error::{Error, Result},
    ports::Ports,
};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    engine: String,
    ports: Ports,
}

#[derive(Clone, Debug)]
pub struct Stack {
    root: PathBuf,
    pub ports: Ports,
}

impl Stack {
    /// The stack that `up` recorded.
    ///
    /// # Errors
    /// Nothing was recorded here, or it cannot be read.
    pub fn load(root: &Path) -> Result<Self> {
        let path = record_path(root);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(_) => return Err(Error::NotUp),
        };
        let record: Record = serde_json::from_str(&text).map_err(|error| Error::Record {
            path,
            reason: error.to_string(),
        })?;
        if record.engine != "native" {
            return Err(Error::Engine(record.engine));
        }
        Ok(Self {
            root: root.to_owned(),
            ports: record.ports,
        })
    }

    /// A stack at these ports, recorded.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn create(root: &Path, ports: Ports) -> Result<Self> {
        let stack = Self {
            root: root.to_owned(),
            ports,
        };
        for folder in [stack.run(), stack.logs(), stack.state()] {
            fs::create_dir_all(&folder).map_err(Error::file(folder))?;
        }
        let record = Record {
            engine: "native".into(),
            ports: stack.ports,
        };
        let text = serde_json::to_string_pretty(&record).expect("plain fields serialise");
        let path = record_path(root);
        fs::write(&path, text + "\n").map_err(Error::file(path))?;
        Ok(stack)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Everything that is made while the stack runs.
    pub fn run(&self) -> PathBuf {
        self.root.join(".tally")
    }

    pub fn logs(&self) -> PathBuf {
        self.run().join("logs")
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    /// What outlives a process, shared by the colours.
    pub fn state(&self) -> PathBuf {
        self.run().join("state")
    }

    pub fn tools(&self) -> PathBuf {
        self.root.join(".tools")
    }

    pub fn lock(&self) -> PathBuf {
        Self::lock_of(&self.root)
    }

    /// The lock is there before the stack is.
    pub fn lock_of(root: &Path) -> PathBuf {
        root.join(".tally").join("lock")
    }

    pub fn history(&self) -> PathBuf {
        self.run().join("history.jsonl")
    }

    /// Tells until when an idle colour is kept for a rollback.
    pub fn warm(&self, colour: Colour) -> PathBuf {
        self.run().join(format!("{colour}.warm"))
    }

    /// The folder that Traefik watches.
    pub fn dynamic(&self) -> PathBuf {
        self.root.join("traefik").join("dynamic")
    }

    pub fn binary(&self, colour: Colour) -> PathBuf {
        self.run().join(format!("tally-server-{colour}"))
    }

    pub fn public_port(&self, colour: Colour) -> u16 {
        match colour {
            Colour::Blue => self.ports.blue,
            Colour::Green => self.ports.green,
        }
    }

    pub fn operator_port(&self, colour: Colour) -> u16 {
        match colour {
            Colour::Blue => self.ports.blue_operator,
            Colour::Green => self.ports.green_operator,
        }
    }

    pub fn front_door(&self) -> String {
        format!("127.0.0.1:{}", self.ports.front_door)
    }

    pub fn public(&self, colour: Colour) -> String {
        format!("127.0.0.1:{}", self.public_port(colour))
    }

    pub fn operator(&self, colour: Colour) -> String {
        format!("127.0.0.1:{}", self.operator_port(colour))
    }

    pub fn preview(&self) -> String {
        format!("127.0.0.1:{}", self.ports.preview)
    }

    pub fn internal(&self) -> String {
        format!("127.0.0.1:{}", self.ports.internal)
    }
}

fn record_path(root: &Path) -> PathBuf {
    root.join(".tally").join("stack.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_found_again() {
        let root = tempfile::tempdir().unwrap();
        assert!(matches!(Stack::load(root.path()), Err(Error::NotUp)));
        let ports = Ports {
            front_door: 1,
            internal: 2,
            preview: 7,
            blue: 3,
            blue_operator: 4,
            green: 5,
            green_operator: 6,
        };
        Stack::create(root.path(), ports).unwrap();
        assert_eq!(Stack::load(root.path()).unwrap().ports, ports);
    }

    #[test]
    fn a_broken_record_is_named() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join(".tally")).unwrap();
        fs::write(record_path(root.path()), "{").unwrap();
        assert!(matches!(
            Stack::load(root.path()),
            Err(Error::Record { .. })
        ));
    }
}
