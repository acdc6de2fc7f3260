//! What is true of containers only: what they may do, and what is in them.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    clone::{Clone, PATIENCE, signal, told, workspace},
    engine::{Engine, assert_confined, docker, image, inspect},
};

/// Every few seconds the engine asks a container for its health.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(30);

/// Whether there is an engine; says so where there is none.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn there_is_an_engine() -> bool {
    let lack = Engine::Docker.lacks();
    if let Some(lack) = &lack {
        println!("skipped: {lack}");
    }
    lack.is_none()
}

#[test]
fn a_container_may_do_no_more_than_it_must() {
    let Some(clone) = Clone::upped(Engine::Docker) else {
        return;
    };
    for name in ["blue", "traefik", "store"] {
        let container = inspect(&clone.container(name));
        assert_confined(name, &container);
        let user = container["Config"]["User"].as_str().unwrap();
        assert!(!user.is_empty() && !user.starts_with('0'), "{name}: {user}");
    }
}

#[test]
fn only_traefik_is_published_and_only_on_loopback() {
    let Some(clone) = Clone::upped(Engine::Docker) else {
        return;
    };
    let ports = |name: &str| {
        let container = inspect(&clone.container(name));
        let ports = container["HostConfig"]["PortBindings"].clone();
        let ports = ports.as_object().unwrap().values();
        let addresses = ports.flat_map(|bindings| bindings.as_array().unwrap());
        let addresses = addresses.map(|binding| binding["HostIp"].as_str().unwrap().to_owned());
        addresses.collect::<Vec<_>>()
    };
    for unpublished in ["blue", "store"] {
        assert_eq!(ports(unpublished), Vec::<String>::new());
    }
    assert_eq!(ports("traefik"), ["127.0.0.1"; 3]);
    let network = inspect(&clone.container("private"));
    assert_eq!(network["Internal"], true, "a colour cannot call out");
}

/// Whoever reaches the store can read every session.
#[test]
fn the_store_is_reached_on_the_private_network_only() {
    let Some(clone) = Clone::upped(Engine::Docker) else {
        return;
    };
    let store = inspect(&clone.container("store"));
    let networks = &store["NetworkSettings"]["Networks"];
    let private = clone.container("private");
    assert_eq!(networks.as_object().unwrap().len(), 1, "{networks}");
    let address = networks[&private]["IPAddress"].as_str().unwrap();
    let image = store["Config"]["Image"].as_str().unwrap();
    let ping = |network: &str| {
        let run = ["run", "--rm", "--network", network, image];
        let ping = ["timeout", "3", "redis-cli", "-h", address, "ping"];
        docker(&[&run[..], &ping].concat())
    };
    assert_eq!(ping(&private), Ok("PONG".into()));
    for elsewhere in ["bridge", &clone.container("edge")] {
        assert!(ping(elsewhere).is_err(), "{elsewhere}");
    }
}

#[test]
fn a_container_may_open_as_many_files_as_was_said() {
    let clone = Clone::new(Engine::Docker);
    let Some(_) = clone.up_with(&[("NOFILE", "4321")]) else {
        return;
    };
    for name in ["blue", "traefik"] {
        let process = Engine::Docker.process(&clone, name);
        let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
        let files = limits
            .lines()
            .find(|line| line.starts_with("Max open files"));
        assert!(files.unwrap().contains(" 4321 "), "{name}: {limits}");
    }
}

#[test]
fn the_engine_knows_that_all_are_healthy() {
    let Some(clone) = Clone::upped(Engine::Docker) else {
        return;
    };
    let began = Instant::now();
    for name in ["blue", "traefik", "store"] {
        let health = || inspect(&clone.container(name))["State"]["Health"].clone();
        while health()["Status"] != "healthy" {
            assert!(began.elapsed() < HEALTH_TIMEOUT, "{name}: {}", health());
            thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
fn the_image_holds_the_server_and_no_shell() {
    if !there_is_an_engine() {
        return;
    }
    let config = inspect(image())["Config"].clone();
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Entrypoint"], json!(["/tally-server"]));
    let health = json!(["CMD", "/tally-server", "healthcheck"]);
    assert_eq!(config["Healthcheck"]["Test"], health);
    for label in ["title", "version", "revision", "created", "licenses"] {
        let label = format!("org.opencontainers.image.{label}");
        assert!(config["Labels"][&label].is_string(), "{label}");
    }
    let container = docker(&["create", image()]).unwrap();
    let list = format!("docker export {container} | tar --list");
    let listed = Command::new("sh").args(["-c", &list]).output().unwrap();
    docker(&["rm", &container]).unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let names = listed.lines().map(|file| Path::new(file).file_name());
    let names: Vec<_> = names.map(Option::unwrap_or_default).collect();
    assert!(names.contains(&"tally-server".as_ref()), "{listed}");
    for program in ["sh", "bash", "dash", "busybox", "apt", "apk"] {
        assert!(!names.contains(&program.as_ref()), "{program}: {listed}");
    }
}

#[test]
fn a_change_of_the_sources_leaves_the_dependencies_alone() {
    if !there_is_an_engine() {
        return;
    }
    // Its layers are those that the changed sources share.
    image();
    let context = tempfile::tempdir().unwrap();
    copy_sources(context.path());
    let source = context.path().join("server/src/lib.rs");
    let text = fs::read_to_string(&source).unwrap();
    // Another change each time: the last one's layers may still be there.
    let now = std::time::SystemTime::now();
    fs::write(&source, format!("{text}\n// {now:?}\n")).unwrap();
    let built = Command::new("docker")
        .args(["build", "--progress=plain", "--build-arg=REVISION=changed"])
        .args(["--tag=tally-test/changed:now", "--file"])
        .arg(context.path().join("server/Dockerfile"))
        .arg(context.path())
        .env("DOCKER_BUILDKIT", "1")
        .output()
        .unwrap();
    let log = told(&built);
    assert!(built.status.success(), "{log}");
    docker(&["rmi", "tally-test/changed:now"]).unwrap();
    // `#12 [build 2/5] RUN cargo chef cook`, and later `#12 CACHED`.
    let cached = |command: &str| {
        let line = log.lines().find(|line| line.contains(command));
        let number = line.and_then(|line| line.split(' ').next());
        let number = number.unwrap_or_else(|| panic!("{command}: {log}"));
        log.lines().any(|line| line == format!("{number} CACHED"))
    };
    assert!(cached("cargo chef cook"), "built again: {log}");
    assert!(!cached("cargo build --release"), "not built again: {log}");
}

/// What git knows of, as it is now.
fn copy_sources(folder: &Path) {
    let copy = "git ls-files -z --cached --deduplicate | xargs -0 cp --parents -t";
    let copied = Command::new("sh")
        .args(["-c", &format!("{copy} {}", folder.display())])
        .current_dir(workspace())
        .status();
    assert!(copied.unwrap().success());
}

#[test]
fn a_follower_of_the_logs_sees_what_comes() {
    let Some(clone) = Clone::upped(Engine::Docker) else {
        return;
    };
    let (_, told) = clone.watch("logs 1 --follow", "-traefik", |follower| {
        drop(clone.connect().unwrap());
        let began = Instant::now();
        // The follower is ended once the engine has the line too.
        while !clone.succeeds("logs 50").contains("connection_closed") {
            assert!(began.elapsed() < PATIENCE);
        }
        signal("INT", follower);
    });
    assert!(told.contains("connection_closed"), "{told}");
}
