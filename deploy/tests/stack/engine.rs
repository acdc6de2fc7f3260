//! What the tests do behind the back of the deploy program, on either engine.

use std::{fmt, path::PathBuf, process::Command, sync::OnceLock};

use serde_json::{Value, json};

use crate::clone::{Clone, server, signal, told, workspace};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Native,
    Docker,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Docker => "docker",
        })
    }
}

/// A server that is not what it should be.
#[derive(Clone, Copy, Debug)]
pub enum Sick {
    EndsAtOnce,
    NeverReady,
    RefusesMessages,
    /// In its memory, whatever the others do.
    KeepsSessionsToItself,
}

/// Makes a test of each function on each engine; it gets the engine. The second list has those
/// that take minutes: `./just drill` runs them.
macro_rules! on_each_engine {
    ([$($name:ident),* $(,)?], slow [$($slow:ident),* $(,)?]) => {
        mod native {
            $(#[test] fn $name() { super::$name(crate::engine::Engine::Native); })*
            $(
                #[test]
                #[ignore = "slow: ./just drill"]
                fn $slow() { super::$slow(crate::engine::Engine::Native); }
            )*
        }
        mod docker {
            $(#[test] fn $name() { super::$name(crate::engine::Engine::Docker); })*
            $(
                #[test]
                #[ignore = "slow: ./just drill"]
                fn $slow() { super::$slow(crate::engine::Engine::Docker); }
            )*
        }
    };
}
pub(crate) use on_each_engine;

impl Engine {
    /// What this machine lacks for the engine, if anything.
    pub fn lacks(self) -> Option<String> {
        match self {
            Self::Native => None,
            Self::Docker => ["version", "compose version"].iter().find_map(|what| {
                let output = docker(&what.split(' ').collect::<Vec<_>>());
                output.err().map(|error| format!("docker {what}: {error}"))
            }),
        }
    }

    /// The variable that names what a colour is to run, and the present sources' server.
    pub fn server(self) -> (&'static str, String) {
        match self {
            Self::Native => ("TALLY_SERVER", server().display().to_string()),
            Self::Docker => ("TALLY_IMAGE", image().to_owned()),
        }
    }

    pub fn sick(self, clone: &Clone, sick: Sick) -> (&'static str, String) {
        let (variable, server) = self.server();
        let sick = match self {
            Self::Native => sick_program(clone, sick, &server),
            Self::Docker => sick_image(sick, &server),
        };
        (variable, sick)
    }

    /// The process of a colour or of Traefik.
    pub fn process(self, clone: &Clone, name: &str) -> u32 {
        let process = match self {
            Self::Native => clone.supervisor(&["pid", name]),
            Self::Docker => {
                docker(&["inspect", "--format={{.State.Pid}}", &clone.container(name)]).unwrap()
            }
        };
        process.trim().parse().unwrap()
    }

    /// Ends it as a crash does; the engine may start it again.
    pub fn kill(self, clone: &Clone, name: &str) {
        signal("KILL", self.process(clone, name));
    }

    pub fn runs(self, clone: &Clone, name: &str) -> bool {
        match self {
            Self::Native => clone.supervisor(&["status", name]).contains("RUNNING"),
            Self::Docker => docker(&[
                "inspect",
                "--format={{.State.Status}}",
                &clone.container(name),
            ])
            .is_ok_and(|status| status == "running"),
        }
    }

    pub fn stop(self, clone: &Clone, name: &str) {
        match self {
            Self::Native => drop(clone.supervisor(&["stop", name])),
            Self::Docker => drop(docker(&["stop", &clone.container(name)]).unwrap()),
        }
    }

    pub fn start(self, clone: &Clone, name: &str) {
        match self {
            Self::Native => drop(clone.supervisor(&["start", name])),
            Self::Docker => drop(docker(&["start", &clone.container(name)]).unwrap()),
        }
    }
}

/// The client's answer, or its complaint.
pub fn docker(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("docker").args(arguments).output();
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(told(&output).trim().replace('\n', "; "))
    }
}

/// What the engine knows of a container, a network or an image.
pub fn inspect(what: &str) -> Value {
    let told: Value = serde_json::from_str(&docker(&["inspect", what]).unwrap()).unwrap();
    told[0].clone()
}

/// No container of a stack may do more than this, whatever `docker inspect` told of it.
pub fn assert_confined(name: &str, container: &Value) {
    let host = &container["HostConfig"];
    assert_eq!(host["ReadonlyRootfs"], true, "{name}");
    assert_eq!(host["CapDrop"], json!(["ALL"]), "{name}");
    assert_eq!(host["CapAdd"], Value::Null, "{name}");
    assert_eq!(host["SecurityOpt"], json!(["no-new-privileges:true"]));
    assert_eq!(host["LogConfig"]["Config"]["max-size"], "20m", "{name}");
    for limit in ["Memory", "PidsLimit"] {
        assert!(host[limit].as_i64().unwrap() > 0, "{name}: {limit}");
    }
    let mounts = container["Mounts"].to_string();
    assert!(!mounts.contains("docker.sock"), "{name}: {mounts}");
}

/// The image of the present sources; built once.
pub fn image() -> &'static str {
    const NAME: &str = "tally-test/server:now";
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| build(NAME, &workspace().join("server/Dockerfile"), workspace()));
    NAME
}

fn build(name: &str, dockerfile: &std::path::Path, context: PathBuf) {
    let built = Command::new("docker")
        .args(["build", "--quiet", "--tag", name, "--file"])
        .arg(dockerfile)
        .arg(context)
        .env("DOCKER_BUILDKIT", "1")
        .output()
        .unwrap();
    assert!(built.status.success(), "{name}: {}", told(&built));
}

fn sick_program(clone: &Clone, sick: Sick, server: &str) -> String {
    let text = match sick {
        Sick::EndsAtOnce => "exit 1".to_owned(),
        Sick::NeverReady => "exec sleep 60".to_owned(),
        Sick::RefusesMessages => format!("TALLY_MESSAGE_BYTES_MAX=1 exec {server}"),
        Sick::KeepsSessionsToItself => format!("TALLY_SESSION_STORE=memory exec {server}"),
    };
    let path = clone.root.path().join("sick");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&path, mode).unwrap();
    path.display().to_string()
}

/// The same image with other arguments: there is no shell in it to do worse.
fn sick_image(sick: Sick, server: &str) -> String {
    let argument = match sick {
        Sick::EndsAtOnce => "--listen=nowhere",
        Sick::NeverReady => "--operator-listen=127.0.0.1:9000",
        Sick::RefusesMessages => "--message-bytes-max=1",
        Sick::KeepsSessionsToItself => "--session-store=memory",
    };
    let folder = tempfile::tempdir().unwrap();
    let dockerfile = folder.path().join("Dockerfile");
    let text = format!("FROM {server}\nENTRYPOINT [\"/tally-server\", \"{argument}\"]\n");
    std::fs::write(&dockerfile, text).unwrap();
    let name = format!("tally-test/sick:{}", format!("{sick:?}").to_lowercase());
    build(&name, &dockerfile, folder.path().to_owned());
    name
}
