//! The stack in a real cluster, which `.ci/cluster` starts: `TALLY_TEST_CLUSTER` names a folder with a
//! `kubectl` that leads there, and a `load` that brings it images. Without one these are skipped.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Mutex, MutexGuard, OnceLock},
    thread,
    time::{Duration, Instant},
};

use tungstenite::Message;

use crate::{
    clone::{Clone, signal, told, workspace},
    engine::{Engine, Sick, image},
    sessions::{assert_all_resumed, audit, loadtest},
};

/// For a cluster on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(90);

/// One after the other: they share two cores.
static TURN: Mutex<()> = Mutex::new(());

/// A cluster that is there, and has the images.
struct Cluster {
    folder: PathBuf,
}

impl Cluster {
    #[expect(
        clippy::print_stdout,
        reason = "a skipped test says so on standard output"
    )]
    fn find() -> Option<Self> {
        let folder = env::var_os("TALLY_TEST_CLUSTER").map(PathBuf::from);
        let Some(folder) = folder.filter(|folder| folder.join("kubectl").exists()) else {
            println!(
                "skipped: TALLY_TEST_CLUSTER names no folder with a cluster's kubectl and load"
            );
            return None;
        };
        if let Some(lack) = Engine::Docker.lacks() {
            println!("skipped: {lack}");
            return None;
        }
        static LOADED: OnceLock<()> = OnceLock::new();
        let cluster = Self { folder };
        LOADED.get_or_init(|| cluster.load(&[image(), "traefik:v3.7.15", "redis:7.2.10"]));
        Some(cluster)
    }

    fn load(&self, images: &[&str]) {
        let load = Command::new(self.folder.join("load")).args(images).output();
        let load = load.unwrap();
        assert!(load.status.success(), "{}", told(&load));
    }

    /// Where its programs are found first.
    fn path(&self) -> String {
        format!("{}:{}", self.folder.display(), env::var("PATH").unwrap())
    }

    fn kubeconfig(&self) -> String {
        let file = self.folder.join("run/admin.kubeconfig");
        if file.exists() {
            file.display().to_string()
        } else {
            env::var("KUBECONFIG").unwrap_or_default()
        }
    }

    fn kubectl(&self, namespace: &str, arguments: &[&str]) -> Output {
        Command::new(self.folder.join("kubectl"))
            .args(["--namespace", namespace])
            .args(arguments)
            .output()
            .unwrap()
    }
}

/// A namespace of its own for a test; nothing of it stays.
struct Namespace {
    cluster: Cluster,
    name: String,
}

impl Namespace {
    fn kubectl(&self, arguments: &[&str]) -> String {
        let output = self.cluster.kubectl(&self.name, arguments);
        let told = told(&output);
        assert!(output.status.success(), "kubectl {arguments:?}: {told}");
        told.trim().to_owned()
    }

    fn pods(&self, colour: &str) -> Vec<String> {
        let selector = format!("--selector=tally/colour={colour}");
        let words = ["get", "pods", &selector, "--output=name"];
        let names = self.kubectl(&words);
        names
            .lines()
            .map(|name| name.trim_start_matches("pod/").to_owned())
            .collect()
    }

    /// What each pod of a colour has counted.
    fn messages(&self, colour: &str) -> Vec<String> {
        let pods = self.pods(colour).into_iter().map(|pod| {
            let pod = format!("/api/v1/namespaces/{}/pods/{pod}:9000", self.name);
            let metrics = self.kubectl(&["get", "--raw", &format!("{pod}/proxy/metrics")]);
            let mut lines = metrics.lines();
            let line = lines.find(|line| line.starts_with("tally_messages_total"));
            line.unwrap_or_default().to_owned()
        });
        pods.collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let words = ["delete", "namespace", &self.name, "--wait=false"];
        self.cluster.kubectl(&self.name, &words);
    }
}

/// A clone whose stack is in the cluster; what it has there is deleted after its `down`.
struct Rollout {
    clone: Clone,
    namespace: Namespace,
    _turn: MutexGuard<'static, ()>,
}

impl Rollout {
    /// None where there is no cluster.
    fn new(name: &str) -> Option<Self> {
        let turn = TURN.lock().unwrap_or_else(|broken| broken.into_inner());
        let cluster = Cluster::find()?;
        let name = format!("tally-{name}");
        let clone = clone_in(&cluster, &name);
        let namespace = Namespace { cluster, name };
        Some(Self {
            clone,
            namespace,
            _turn: turn,
        })
    }

    fn upped(name: &str) -> Option<Self> {
        let mut rollout = Self::new(name)?;
        let told = rollout.clone.succeeds("up");
        rollout.find_door(&told);
        Some(rollout)
    }

    fn find_door(&mut self, status: &str) {
        let address = status
            .lines()
            .find_map(|line| line.strip_prefix("front door   http://"))
            .and_then(|rest| rest.split_once('/'))
            .unwrap_or_else(|| panic!("no front door: {status}"));
        let (host, port) = address.0.split_once(':').unwrap();
        self.clone.host = host.parse().unwrap();
        self.clone.port = port.parse().unwrap();
    }
}

fn clone_in(cluster: &Cluster, namespace: &str) -> Clone {
    let mut clone = Clone::new(Engine::Docker);
    let manifests = clone.root.path().join("deploy/kubernetes");
    copy(&workspace().join("deploy/kubernetes"), &manifests).unwrap();
    clone.settings = vec![
        ("ENGINE", "kubernetes".into()),
        ("TALLY_NAMESPACE", namespace.into()),
        ("TALLY_OVERLAY", "one-node".into()),
        ("KUBECONFIG", cluster.kubeconfig()),
        ("PATH", cluster.path()),
    ];
    clone
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    let began = Instant::now();
    while !there() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// Every overlay, and the base with each component that needs nothing else in the cluster.
#[test]
#[ignore = "slow: ./just drill"]
fn a_cluster_takes_every_manifest() {
    let Some(rollout) = Rollout::new("manifests") else {
        return;
    };
    let namespace = &rollout.namespace;
    namespace.kubectl(&["create", "namespace", &namespace.name, "--save-config"]);
    let profile = "pod-security.kubernetes.io/warn=restricted";
    namespace.kubectl(&["label", "namespace", &namespace.name, profile]);
    let manifests = rollout.clone.root.path().join("deploy/kubernetes");
    for (kind, parts) in [
        (
            "resources",
            vec!["base", "overlays/production", "overlays/one-node"],
        ),
        (
            "components",
            vec![
                "components/managed-redis",
                "components/scale-by-connections",
            ],
        ),
    ] {
        for part in parts {
            let folder = manifests.join("checked");
            fs::create_dir_all(&folder).unwrap();
            let base = if kind == "components" {
                "resources: [../base]\n"
            } else {
                ""
            };
            let text = format!("namespace: {}\n{base}{kind}: [../{part}]\n", namespace.name);
            fs::write(folder.join("kustomization.yaml"), text).unwrap();
            let folder = folder.display().to_string();
            let words = [
                "apply",
                "--dry-run=server",
                "--validate=strict",
                "-k",
                &folder,
            ];
            let told = namespace.kubectl(&words);
            assert!(
                told.contains("tally-blue created (server dry run)"),
                "{part}: {told}"
            );
            // The profile of the namespace tells what it would not let in.
            assert!(!told.contains("would violate"), "{part}: {told}");
        }
    }
}

#[test]
#[ignore = "slow: ./just drill"]
fn up_flip_rollback_and_down() {
    let Some(mut rollout) = Rollout::upped("verbs") else {
        return;
    };
    let (clone, namespace) = (&rollout.clone, &rollout.namespace);
    assert_eq!(clone.colour(), "blue");
    assert_eq!(namespace.pods("blue").len(), 3);
    clone.succeeds("up");
    let overlay = clone.root.path().join(".tally/kubernetes");
    let differs = namespace.kubectl(&["diff", "--kustomize", &overlay.display().to_string()]);
    assert_eq!(differs, "", "a second up changes nothing");

    let plan = clone.succeeds("flip --dry-run");
    assert!(
        plan.contains("blue is live") && !plan.contains("NOT GOOD"),
        "{plan}"
    );
    clone.succeeds("flip --keep-warm 120s");
    assert_eq!(clone.colour(), "green");
    let status = clone.succeeds("status");
    assert!(status.contains("kept warm until"), "{status}");
    let told = clone.succeeds("rollback");
    assert!(told.contains("blue is live"), "{told}");
    assert_eq!(clone.colour(), "blue");
    wait_for("green's pods go", || namespace.pods("green").is_empty());
    let told = clone.succeeds("rollback");
    assert!(told.contains("green is live"), "what it ran before: {told}");
    let history = clone.succeeds("history");
    assert_eq!(history.lines().count(), 5, "{history}");
    let logs = clone.succeeds("logs 5");
    assert!(logs.contains("pod/tally-green-"), "{logs}");

    clone.succeeds("down");
    assert_eq!(namespace.kubectl(&["get", "pods", "--output=name"]), "");
    let told = clone.succeeds("up");
    assert!(
        told.contains("live         green"),
        "who was live is known: {told}"
    );
    rollout.find_door(&told);
    assert_eq!(rollout.clone.colour(), "green");
}

#[test]
#[ignore = "slow: ./just drill"]
fn a_session_goes_on_in_whichever_pod() {
    let Some(rollout) = Rollout::upped("sessions") else {
        return;
    };
    let (clone, namespace) = (&rollout.clone, &rollout.namespace);
    let before = namespace.messages("blue");
    let (mut socket, response) = clone.connect().unwrap();
    let session = response.headers()["x-session-id"]
        .to_str()
        .unwrap()
        .to_owned();
    let mut count = 0;
    for _ in 0..6 {
        count += 1;
        socket.send(Message::text("one more")).unwrap();
        let answer = socket.read().unwrap().to_string();
        assert_eq!(answer, format!("{{\"count\":{count}}}"));
        // It is still open where it was.
        let (next, response) = clone.come_back(&session).unwrap();
        assert_eq!(response.headers()["x-session-resumed"], "true");
        assert_eq!(response.headers()["x-session-count"], count.to_string());
        let bye = socket.read().unwrap().to_string();
        assert_eq!(bye, format!("{{\"bye\":true,\"total\":{count}}}"));
        socket = next;
    }
    let rose = namespace.messages("blue");
    let moved = rose
        .iter()
        .zip(&before)
        .filter(|(now, before)| now != before);
    assert!(moved.count() > 1, "they were several pods");
}

/// The machine's own drills: whatever takes a pod away, no message is lost and no count.
#[test]
#[ignore = "slow: ./just drill"]
fn flips_rollouts_evictions_and_kills_lose_nothing() {
    let Some(rollout) = Rollout::upped("drills") else {
        return;
    };
    let (clone, namespace) = (&rollout.clone, &rollout.namespace);
    let drain = audit(
        clone,
        "-n 1000 --rate 1000",
        "for flip in 1 2 3 4 5; do tally flip --bake 0s; done",
    );
    assert_all_resumed(&drain);
    assert_eq!(drain["resumed"], 5000, "{drain}");
    assert_eq!(clone.colour(), "green");

    let kubectl = format!(
        "{}/kubectl --namespace {}",
        namespace.cluster.folder.display(),
        namespace.name
    );
    let restart = format!(
        "{kubectl} rollout restart deployment/tally-green; \
         {kubectl} rollout status deployment/tally-green --timeout 120s; \
         until [ $({kubectl} get pods --selector tally/colour=green --output name | wc -l) = 3 ]; \
         do sleep 0.2; done"
    );
    let drain = audit(clone, "-n 1000 --rate 1000", &restart);
    assert_all_resumed(&drain);

    let pod = &namespace.pods("green")[0];
    let eviction = clone.root.path().join("eviction.json");
    let text = format!(
        "{{\"apiVersion\":\"policy/v1\",\"kind\":\"Eviction\",\"metadata\":{{\"name\":\"{pod}\"}}}}"
    );
    fs::write(&eviction, text).unwrap();
    let evict = format!(
        "{kubectl} create --raw /api/v1/namespaces/{}/pods/{pod}/eviction -f {}; \
         {kubectl} wait --for=delete pod/{pod} --timeout 60s",
        namespace.name,
        eviction.display()
    );
    let drain = audit(clone, "-n 1000 --rate 1000", &evict);
    assert_all_resumed(&drain);

    let whole = |namespace: &Namespace| {
        let path = "--output=jsonpath={.status.readyReplicas}";
        namespace.kubectl(&["get", "deployment/tally-green", path]) == "3"
    };
    wait_for("three pods again", || whole(namespace));

    // A node that is emptied gives its pods up one after the other, the next one when the last is ready
    // elsewhere; on the only node there is no elsewhere.
    let nodes = namespace.kubectl(&["get", "nodes", "--output=name"]);
    let node = nodes.lines().next().unwrap();
    let only = "--pod-selector tally/colour=green --delete-emptydir-data";
    let empty = format!("! {kubectl} drain {node} {only} --timeout 12s; {kubectl} uncordon {node}");
    let drain = audit(clone, "-n 1000 --rate 1000", &empty);
    assert_all_resumed(&drain);
    let gone = drain["gone"].as_u64().unwrap();
    assert!(gone < 500, "one pod's clients: {drain}");

    wait_for("three pods again", || whole(namespace));
    let pod = &namespace.pods("green")[0];
    let process = process_of(pod);
    let kill = format!("kill -9 {process}; sleep 5");
    let drain = audit(clone, "-n 1000 --rate 1000", &kill);
    assert_all_resumed(&drain);
    let restarts = "--output=jsonpath={.status.containerStatuses[0].restartCount}";
    assert_eq!(
        namespace.kubectl(&["get", &format!("pod/{pod}"), restarts]),
        "1"
    );
}

/// The server in a pod of this machine's cluster: a pod's name is its host's.
fn process_of(pod: &str) -> String {
    let host = format!("HOSTNAME={pod}");
    let entries = fs::read_dir("/proc").unwrap();
    let mut processes = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let found = processes.find(|process| {
        let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
        let environment = fs::read(process.join("environ")).unwrap_or_default();
        let mut variables = environment.split(|byte| *byte == 0);
        name.trim() == "tally-server" && variables.any(|variable| variable == host.as_bytes())
    });
    let found = found.unwrap_or_else(|| panic!("no process of {pod}"));
    found.file_name().unwrap().to_string_lossy().into_owned()
}

#[test]
#[ignore = "slow: ./just drill"]
fn two_people_on_two_machines_flip_one_after_the_other() {
    let Some(rollout) = Rollout::upped("people") else {
        return;
    };
    let here = &rollout.clone;
    let mut there = clone_in(&rollout.namespace.cluster, &rollout.namespace.name);
    (there.host, there.port) = (here.host, here.port);
    there.succeeds("up");
    let (code, told) = here.watch("flip --bake 5s", "the front door leads to", |_| {
        let refused = there.run("flip");
        let told = told(&refused);
        assert!(!refused.status.success(), "{told}");
        assert!(
            told.contains("flip of") && told.contains("has been at it"),
            "{told}"
        );
    });
    assert_eq!(code, Some(0), "{told}");
    there.succeeds("flip");
    assert_eq!(here.colour(), "blue");
    let [mine, theirs] = [here, &there].map(|clone| clone.succeeds("history"));
    assert_eq!(mine, theirs);
    assert_eq!(
        mine.lines().filter(|line| line.contains(" flip ")).count(),
        2,
        "{mine}"
    );
}

#[test]
#[ignore = "slow: ./just drill"]
fn a_release_that_is_sick_never_goes_live() {
    let Some(rollout) = Rollout::upped("sick") else {
        return;
    };
    let (clone, namespace) = (&rollout.clone, &rollout.namespace);
    let sick = Engine::Docker.sick(clone, Sick::RefusesMessages);
    namespace.cluster.load(&[&sick.1]);
    let output = clone.run_with("flip", sick);
    let told = told(&output);
    assert!(!output.status.success(), "{told}");
    assert!(told.contains("the conversation with"), "{told}");
    assert!(told.contains("blue goes on serving"), "{told}");
    assert_eq!(clone.colour(), "blue");
    wait_for("green's pods go", || namespace.pods("green").is_empty());
    let output = clone.run_with("flip", never_built());
    let told = self::told(&output);
    assert!(!output.status.success(), "{told}");
    assert!(told.contains("green does not start"), "{told}");
    assert!(told.contains("ImagePullBackOff"), "{told}");
    clone.succeeds("flip");
    assert_eq!(clone.colour(), "green");
}

#[test]
#[ignore = "slow: ./just drill"]
fn a_flip_that_is_killed_is_put_right() {
    let Some(rollout) = Rollout::upped("killed") else {
        return;
    };
    let clone = &rollout.clone;
    let (code, told) = clone.watch("flip --bake 60s", "no handshake reaches", |process| {
        signal("KILL", process);
    });
    assert_eq!(code, None, "{told}");
    assert_eq!(clone.colour(), "green");
    let told = clone.succeeds("up");
    assert!(
        told.contains("blue, which an earlier flip left, is stopped"),
        "{told}"
    );
    assert_eq!(clone.colour(), "green");
}

#[test]
#[ignore = "slow: ./just drill"]
fn a_flip_audits_itself_in_a_cluster() {
    let Some(mut rollout) = Rollout::new("audit") else {
        return;
    };
    // Each pod has beats of its own.
    let beat = ("TALLY_HEARTBEAT", "2s".to_owned());
    rollout.clone.settings.push(beat);
    rollout.clone.succeeds("up");
    let clone = &rollout.clone;
    let mut flip = clone.command("flip --audit --audit-sockets 100 --audit-rate 200");
    let output = flip.env("TALLY_LOADTEST", loadtest()).output().unwrap();
    let told = told(&output);
    assert!(output.status.success(), "{told}");
    let history = clone.succeeds("history");
    let ledger = "0 messages lost, 0 duplicated; 100 of 100 resumed";
    assert!(history.contains(ledger), "{history}");
}

#[test]
#[ignore = "slow: ./just drill"]
fn a_first_up_without_its_image_says_so() {
    let Some(rollout) = Rollout::new("imageless") else {
        return;
    };
    let output = rollout.clone.run_with("up", never_built());
    let told = told(&output);
    assert!(!output.status.success(), "{told}");
    assert!(told.contains("blue does not start"), "{told}");
    assert!(told.contains("ImagePullBackOff"), "{told}");
}

fn never_built() -> (&'static str, String) {
    ("TALLY_IMAGE", "tally-test/server:never-built".into())
}

/// What the tests load is what the manifests name.
#[test]
fn the_manifests_name_the_images_of_the_other_engine() {
    let manifests = workspace().join("deploy/kubernetes/base");
    for (manifest, compose) in [("traefik.yaml", "edge.yml"), ("redis.yaml", "store.yml")] {
        let manifest = fs::read_to_string(manifests.join(manifest)).unwrap();
        let compose = workspace().join("deploy/compose").join(compose);
        let compose = fs::read_to_string(compose).unwrap();
        let image = |text: &str| {
            let line = text.lines().find(|line| line.trim().starts_with("image:"));
            line.unwrap().trim().to_owned()
        };
        assert_eq!(image(&manifest), image(&compose));
    }
}
