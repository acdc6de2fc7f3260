//! What watches the stack comes and goes without the stack: what is missing, what fails, what it may.

use std::{fs, os::unix::fs::symlink, path::Path};

use serde_json::Value;

use crate::{
    clone::Clone,
    engine::{Engine, assert_confined, inspect},
    programs::programs,
    watched::{Watched, provide},
};

/// A folder with some of the programs, and with one that ends at once.
fn tools(of: &Path) -> Option<String> {
    let folder = of.join("tools");
    fs::create_dir(&folder).unwrap();
    for program in programs(["prometheus", "alertmanager"])? {
        symlink(&program, folder.join(program.file_name().unwrap())).unwrap();
    }
    symlink("/bin/false", folder.join("otelcol")).unwrap();
    Some(folder.display().to_string())
}

#[test]
fn what_is_missing_or_fails_is_named_and_the_rest_runs() {
    let clone = Clone::new(Engine::Native);
    provide(&clone);
    let Some(tools) = tools(clone.root.path()) else {
        return;
    };
    let path = "/usr/bin:/bin";
    let on = [
        ("TALLY_MONITORING", "on"),
        ("TALLY_TOOLS", &tools),
        ("PATH", path),
        ("TALLY_GRAFANA", ""),
    ];
    let Some(told) = clone.up_with(&on) else {
        return;
    };
    assert!(
        told.contains("watched by prometheus, alertmanager ("),
        "{told}"
    );
    assert!(told.contains("otelcol does not work"), "{told}");
    let status = clone.succeeds("status");
    for line in [
        "prometheus   http://127.0.0.1:",
        "otelcol      NOT WORKING: ",
        "missing      loki: https://",
        "missing      grafana: https://",
    ] {
        assert!(status.contains(line), "{line}: {status}");
    }
    let (_, told) = clone.watch("flip", "is ready", |_| {});
    assert!(told.contains("green is live"), "{told}");

    let told = clone.up_with(&[("TALLY_MONITORING", "off")]).unwrap();
    assert!(told.contains("monitoring   off"), "{told}");
    assert!(
        clone
            .supervisor(&["status", "monitoring:*"])
            .contains("ERROR")
    );
    assert_eq!(clone.colour(), "green");
}

#[test]
fn files_that_cannot_be_filled_in_keep_nobody_from_serving() {
    let clone = Clone::new(Engine::Native);
    provide(&clone);
    let file = clone.root.path().join("monitoring/loki/loki.yml");
    fs::write(&file, "a: \"@NOBODY@\"\n").unwrap();
    let Some(told) = clone.up_with(&[("TALLY_MONITORING", "on")]) else {
        return;
    };
    assert!(told.contains("there is no monitoring: "), "{told}");
    assert!(
        told.contains("loki.yml\": nobody knows what @NOBODY@ is"),
        "{told}"
    );
    assert!(clone.succeeds("flip").contains("green is live"));
}

#[test]
fn a_container_that_watches_may_do_no_more_than_it_must() {
    let Some(watched) = Watched::start(Engine::Docker) else {
        return;
    };
    for (name, root, ports) in [
        ("prometheus", false, 1),
        ("alertmanager", false, 1),
        ("loki", false, 1),
        // The engine's logs are root's.
        ("otelcol", true, 0),
    ] {
        let container = inspect(&watched.clone.container(name));
        let host = &container["HostConfig"];
        assert_confined(name, &container);
        let bindings = host["PortBindings"].as_object().unwrap().values();
        let bindings: Vec<&Value> = bindings.flat_map(|list| list.as_array().unwrap()).collect();
        assert_eq!(bindings.len(), ports, "{name}");
        for binding in bindings {
            assert_eq!(binding["HostIp"], "127.0.0.1", "{name}");
        }
        let user = container["Config"]["User"].as_str().unwrap();
        assert_eq!(user.starts_with("0:"), root, "{name}: {user}");
        let networks = container["NetworkSettings"]["Networks"]
            .as_object()
            .unwrap();
        assert_eq!(networks.len(), 1 + ports, "{name}: {networks:?}");
    }
    let told = watched.clone.succeeds("status");
    assert!(told.contains("prometheus   http://127.0.0.1:"), "{told}");
}
