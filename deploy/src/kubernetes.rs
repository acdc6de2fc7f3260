//! The Kubernetes engine: a Deployment of many pods for each colour. The cluster runs them, and keeps
//! what two people on two machines have to know of each other.

pub mod cluster;
mod forward;
mod rollout;

use std::{
    collections::BTreeMap,
    net::{TcpStream, ToSocketAddrs},
    path::PathBuf,
    process::Command,
    sync::{Mutex, OnceLock},
    time::{Duration, Instant},
};

use chrono::Utc;
use serde_json::{Value, json};

use self::{
    cluster::{Cluster, TIMEOUT},
    forward::Forwards,
    rollout::{BACKEND, Rollout},
};
use crate::{
    colour::Colour,
    command, docker,
    engine::{BUILD_TIMEOUT, Engine, Kind, Process},
    error::{Error, Result},
    history, lock,
    monitoring::Host,
    settings,
    stack::Stack,
    store::{Store, VARIABLE},
    wait,
};

/// What the manifests call the server's image; each colour's has its name behind it.
const IMAGE: &str = "tally-server";

/// What a person may say about the image.
const IMAGE_VARIABLE: &str = "TALLY_IMAGE";
const PUSH: &str = "TALLY_IMAGE_PUSH";

/// The front door.
const INGRESS: &str = "tally";

/// Where a store of somebody else's is written down.
const STORE_SECRET: &str = "tally-store";

/// Until when a colour is kept warm: on its Deployment, for everybody to see.
const WARM: &str = "tally/warm-until";

/// All that is the service's own.
const EVERYTHING: &str = "--selector=app.kubernetes.io/name=tally";

/// Of the server's pods and of Traefik's.
const OPERATOR_PORT: u16 = 9000;
const WEB_PORT: u16 = 8080;
const INTERNAL_PORT: u16 = 8082;

/// An image has to come, and a node may have to be found.
const READY_TIMEOUT: Duration = Duration::from_secs(180);

/// The sleep before SIGTERM and the grace after it, and what the cluster takes to notice.
const GONE_TIMEOUT: Duration = Duration::from_secs(60);

/// One look at the pods does for what is asked within this time.
const FRESH: Duration = Duration::from_millis(250);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The store of somebody else's that a namespace's stack was given, if any.
///
/// # Errors
/// The cluster cannot be asked.
pub fn store_of(cluster: &Cluster) -> Result<Option<String>> {
    let text = format!("--output=go-template={{{{index .data \"{VARIABLE}\" | base64decode}}}}");
    let words = ["get", "secret", STORE_SECRET, "--ignore-not-found", &text];
    let address = cluster.run(&words)?;
    Ok(Some(address).filter(|address| !address.is_empty()))
}

pub struct Kubernetes {
    stack: Stack,
    cluster: Cluster,
    forwards: Forwards,
    /// The image that was built or taken last, for the start that comes next.
    built: Mutex<Option<String>>,
    seen: Mutex<Option<(Instant, Vec<Pod>)>>,
    published: OnceLock<Option<String>>,
}

/// What the cluster says of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pod {
    name: String,
    /// `server`, `traefik`, `redis`
    component: String,
    colour: Option<Colour>,
    /// The address of its node.
    host: String,
    runs: bool,
    /// Has been told to go.
    goes: bool,
    /// Why it is not ready.
    wants: String,
}

/// What the cluster goes on trying, with longer and longer pauses: a person has to change something.
const HOPELESS: [&str; 4] = [
    "ImagePullBackOff",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CrashLoopBackOff",
];

impl Pod {
    fn is_hopeless(&self) -> bool {
        HOPELESS.iter().any(|reason| self.wants.starts_with(reason))
    }

    fn of(object: &Value) -> Self {
        let (metadata, status) = (&object["metadata"], &object["status"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let labels = &metadata["labels"];
        let container = &status["containerStatuses"][0]["state"];
        let state = ["waiting", "terminated"].map(|state| &container[state]);
        let said = state.into_iter().find(|state| state.is_object());
        Self {
            name: text(&metadata["name"]),
            component: text(&labels["app.kubernetes.io/component"]),
            colour: labels["tally/colour"]
                .as_str()
                .and_then(|name| name.parse().ok()),
            host: text(&status["hostIP"]),
            runs: status["phase"] == "Running" && container["running"].is_object(),
            goes: !metadata["deletionTimestamp"].is_null(),
            wants: said.map_or_else(
                || text(&status["phase"]),
                |said| format!("{} {}", text(&said["reason"]), text(&said["message"])),
            ),
        }
    }
}

impl Kubernetes {
    pub fn new(stack: Stack) -> Self {
        Self {
            cluster: stack.cluster.clone().unwrap_or_default(),
            stack,
            forwards: Forwards::default(),
            built: Mutex::default(),
            seen: Mutex::default(),
            published: OnceLock::new(),
        }
    }

    fn folder(&self) -> PathBuf {
        self.stack.run().join("kubernetes")
    }

    /// Those of the service, running or not.
    fn pods(&self) -> Result<Vec<Pod>> {
        let mut seen = self
            .seen
            .lock()
            .unwrap_or_else(|broken| broken.into_inner());
        if let Some((at, pods)) = seen.as_ref()
            && at.elapsed() < FRESH
        {
            return Ok(pods.clone());
        }
        let pods = self.cluster.get(&["pods", EVERYTHING])?;
        let pods: Vec<Pod> = pods.iter().map(Pod::of).collect();
        *seen = Some((Instant::now(), pods.clone()));
        Ok(pods)
    }

    fn pods_of(&self, colour: Colour) -> Result<Vec<Pod>> {
        let mut pods = self.pods()?;
        pods.retain(|pod| pod.colour == Some(colour));
        Ok(pods)
    }

    /// Whether a pod has been told to go, or does not run.
    fn is_gone(&self, pod: &str) -> bool {
        let found = self.cluster.get(&[&format!("pod/{pod}")]);
        let lives = |object: &Value| {
            let pod = Pod::of(object);
            pod.runs && !pod.goes
        };
        found.is_ok_and(|found| !found.iter().any(lives))
    }

    fn traefik_pods(&self) -> Result<Vec<Pod>> {
        let mut pods = self.pods()?;
        pods.retain(|pod| pod.component == "traefik" && pod.runs && !pod.goes);
        Ok(pods)
    }

    /// A port of one of Traefik's pods, as it is reached from here.
    fn way_in(&self, port: u16) -> Result<String> {
        let pods = self.traefik_pods()?;
        let pod = pods.first().ok_or(Error::NotUp)?;
        self.forwards.to(&self.cluster, &pod.name, port)
    }

    /// Where the Service of Traefik can be reached from outside, if it can from here.
    fn find_published(&self) -> Option<String> {
        let service = self.cluster.get(&["service/tally-traefik"]).ok()?.pop()?;
        let port = &service["spec"]["ports"][0];
        let given = &service["status"]["loadBalancer"]["ingress"][0];
        let balanced = given["ip"].as_str().or(given["hostname"].as_str());
        let address = match (balanced, port["nodePort"].as_u64()) {
            (Some(host), _) => format!("{host}:{}", port["port"]),
            (None, Some(port)) => format!("{}:{port}", self.traefik_pods().ok()?.first()?.host),
            (None, None) => return None,
        };
        let mut addresses = address.to_socket_addrs().ok()?;
        let reached =
            addresses.any(|address| TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).is_ok());
        reached.then_some(address)
    }

    /// Hands the manifests to the cluster, with what the rollout says; those of one colour alone, or
    /// all.
    fn apply(&self, rollout: &Rollout, only: Option<Colour>) -> Result<()> {
        let folder = self.folder();
        rollout.write(&self.stack, &self.cluster, &folder)?;
        let mut apply = self.cluster.command();
        apply.args(["apply", "--kustomize"]).arg(folder);
        if let Some(colour) = only {
            apply.arg(format!("--selector=tally/colour={colour}"));
        }
        let applied = command::run(&mut apply, TIMEOUT * 2);
        applied.map(drop).map_err(without_what_went_well)
    }

    /// A store of somebody else's may have a password in its address.
    fn write_store(&self) -> Result<()> {
        let Store::Other(address) = &self.stack.store else {
            return Ok(());
        };
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": STORE_SECRET },
        });
        self.cluster.change(&secret, |secret| {
            secret["stringData"] = json!({ VARIABLE: address });
            Ok(())
        })
    }

    fn scale(&self, what: &str, replicas: u32) -> Result<()> {
        let count = format!("--replicas={replicas}");
        self.cluster.run(&["scale", what, &count]).map(drop)
    }

    fn wait_until_gone(&self, what: &str, of: impl Fn(&Pod) -> bool) -> Result<()> {
        wait::until(&format!("the end of {what}"), GONE_TIMEOUT, || {
            match self.pods()?.into_iter().find(|pod| of(pod)) {
                None => Ok(()),
                Some(pod) => Err(Error::Command {
                    command: format!("scale {what}"),
                    reason: format!("{} is still there", pod.name),
                }),
            }
        })
    }

    fn deployment(colour: Colour) -> String {
        format!("deployment/{}", colour.service())
    }

    fn annotation(&self, colour: Colour) -> Option<String> {
        let deployment = self.cluster.get(&[&Self::deployment(colour)]).ok()?.pop()?;
        cluster::annotation(&deployment, WARM).map(str::to_owned)
    }

    /// Builds an image, and brings it to where the cluster finds it.
    fn build_image(&self) -> Result<(String, String)> {
        let words = settings::words(PUSH);
        let Some((program, arguments)) = words.split_first() else {
            return Err(Error::NoImage);
        };
        let root = self.stack.root();
        let repository = settings::text("TALLY_IMAGE_NAME").unwrap_or_else(|| IMAGE.into());
        let revision = crate::sources::revision(root);
        // No tag is used twice: a node keeps what it has pulled under one.
        let image = format!(
            "{repository}:{revision}-{}",
            Utc::now().format("%Y%m%d%H%M%S")
        );
        docker::build_image(root, &image, &revision, None)?;
        let mut push = Command::new(program);
        push.args(arguments).arg(&image).current_dir(root);
        command::run(&mut push, BUILD_TIMEOUT)?;
        Ok((image, revision))
    }
}

impl Engine for Kubernetes {
    fn kind(&self) -> Kind {
        Kind::Kubernetes
    }

    fn stack(&self) -> &Stack {
        &self.stack
    }

    fn processes(&self, colour: Colour) -> Result<Vec<Process>> {
        let mut pods = self.pods_of(colour)?;
        pods.retain(|pod| pod.runs && !pod.goes);
        if pods.is_empty() {
            return Err(Error::NotWhole {
                colour,
                told: "it has no running pod".into(),
            });
        }
        let mut processes = Vec::new();
        for pod in pods {
            match self.forwards.to(&self.cluster, &pod.name, OPERATOR_PORT) {
                Err(_) if self.is_gone(&pod.name) => {}
                operator => processes.push(Process {
                    operator: operator?,
                    name: pod.name,
                }),
            }
        }
        Ok(processes)
    }

    fn has_left(&self, process: &Process) -> bool {
        self.is_gone(&process.name)
    }

    fn complete(&self, colour: Colour) -> Result<()> {
        let deployment = self.cluster.get(&[&Self::deployment(colour)])?.pop();
        let deployment = deployment.unwrap_or_default();
        let (spec, status) = (&deployment["spec"], &deployment["status"]);
        let wanted = spec["replicas"].as_u64().unwrap_or_default();
        let count = |name: &str| status[name].as_u64().unwrap_or_default();
        let known = status["observedGeneration"] == deployment["metadata"]["generation"];
        let ready = count("readyReplicas").min(count("updatedReplicas"));
        if known && wanted > 0 && ready >= wanted {
            return Ok(());
        }
        let pods = self.pods_of(colour)?;
        if let Some(pod) = pods.iter().find(|pod| pod.is_hopeless()) {
            return Err(Error::NeverWhole {
                colour,
                told: format!("{}: {}", pod.name, pod.wants),
            });
        }
        let waiting = pods.iter().find(|pod| !pod.runs);
        let why = waiting.map_or_else(String::new, |pod| format!("; {}: {}", pod.name, pod.wants));
        Err(Error::NotWhole {
            colour,
            told: format!("{ready} of {wanted} pods are ready{why}"),
        })
    }

    fn metrics(&self, colour: Colour) -> Result<String> {
        let pods = self.processes(colour)?.len();
        Ok(format!("{pods} {}", if pods == 1 { "pod" } else { "pods" }))
    }

    fn front_door(&self) -> Result<String> {
        let published = self.published.get_or_init(|| self.find_published());
        published.clone().map_or_else(|| self.way_in(WEB_PORT), Ok)
    }

    fn preview(&self, colour: Colour) -> Result<String> {
        self.way_in(preview_port(colour))
    }

    fn traefiks(&self) -> Result<Vec<String>> {
        let pods = self.traefik_pods()?.into_iter();
        pods.map(|pod| self.forwards.to(&self.cluster, &pod.name, INTERNAL_PORT))
            .collect()
    }

    fn router(&self) -> String {
        format!("{}-{INGRESS}@kubernetes", self.cluster.namespace)
    }

    fn service(&self, colour: Colour) -> String {
        format!(
            "{}-{}-web@kubernetes",
            self.cluster.namespace,
            colour.service()
        )
    }

    fn led_to(&self, service: &str) -> Option<Colour> {
        let name = service.strip_prefix(&self.cluster.namespace)?;
        Colour::of_service(name.strip_prefix('-')?.strip_suffix("-web")?)
    }

    fn pointed_to(&self) -> Option<Colour> {
        Rollout::read(&self.cluster).ok()?.live
    }

    fn point_to(&self, colour: Colour) -> Result<()> {
        let patch = json!([{ "op": "replace", "path": BACKEND, "value": colour.service() }]);
        let patch = format!("--patch={patch}");
        let words = ["patch", "ingress", INGRESS, "--type=json", &patch];
        self.cluster.run(&words).map(drop)
    }

    /// An Ingress has no second choice: what stands in for a pod that fails is another pod.
    fn try_out(&self, colour: Colour) -> Result<()> {
        self.point_to(colour)
    }

    fn lock(&self) -> lock::Place {
        lock::Place::Lease(self.cluster.clone())
    }

    fn history(&self) -> history::Place {
        history::Place::ConfigMap(self.cluster.clone())
    }

    fn ready_timeout(&self) -> Duration {
        READY_TIMEOUT
    }

    fn warm_until(&self, colour: Colour) -> Option<String> {
        self.annotation(colour)
    }

    fn keep_warm(&self, colour: Colour, until: &str) -> Result<()> {
        let note = format!("{WARM}={until}");
        let words = ["annotate", "--overwrite", &Self::deployment(colour), &note];
        self.cluster.run(&words).map(drop)
    }

    fn forget_warm(&self, colour: Colour) {
        let note = format!("{WARM}-");
        // It may not be there, and then there is nothing to forget.
        let _ = self
            .cluster
            .run(&["annotate", &Self::deployment(colour), &note]);
    }

    fn ways(&self) -> Vec<(&'static str, String)> {
        let namespace = &self.cluster.namespace;
        let forward = |port: u16| {
            format!("kubectl -n {namespace} port-forward deployment/tally-traefik {port}")
        };
        let [blue, green] = Colour::ALL.map(preview_port);
        vec![
            (
                "cluster",
                format!("{}, namespace {namespace}", self.cluster.context),
            ),
            ("preview", format!("{}  (green: {green})", forward(blue))),
            (
                "traefik",
                format!("{}, then /dashboard/", forward(INTERNAL_PORT)),
            ),
        ]
    }

    fn tools(&self) -> Result<String> {
        let version = command::run(self.cluster.command().arg("version"), TIMEOUT);
        let version = version.map_err(|source| Error::Missing {
            source: Box::new(source),
            cure: "install kubectl, and lead it to a cluster (kubectl config use-context)",
        })?;
        let lines = version
            .lines()
            .filter(|line| !line.starts_with("Kustomize"));
        Ok(lines.collect::<Vec<_>>().join(", "))
    }

    fn binds(&self, _colour: Colour) -> Vec<String> {
        Vec::new()
    }

    fn disk(&self) -> Option<PathBuf> {
        None
    }

    fn files_max(&self) -> Option<u64> {
        None
    }

    fn can_start(&self, colour: Colour) -> bool {
        Rollout::read(&self.cluster).is_ok_and(|rollout| rollout.slot(colour).image.is_some())
    }

    fn running(&self) -> Result<bool> {
        let traefik = self.cluster.get(&["deployment/tally-traefik"])?.pop();
        let replicas = traefik.and_then(|traefik| traefik["spec"]["replicas"].as_u64());
        Ok(replicas.is_some_and(|replicas| replicas > 0))
    }

    /// The cluster looks after its pods itself.
    fn stop_leftovers(&self) -> Result<usize> {
        Ok(0)
    }

    fn prepare(&self) -> Result<()> {
        self.tools()?;
        self.cluster.provide_namespace()?;
        let rollout = Rollout::read(&self.cluster)?;
        let none = Colour::ALL
            .iter()
            .all(|colour| rollout.slot(*colour).image.is_none());
        if none && settings::text(IMAGE_VARIABLE).is_none() && settings::words(PUSH).is_empty() {
            return Err(Error::NoImage);
        }
        self.write_store()?;
        self.apply(&rollout, None)
    }

    /// `TALLY_IMAGE` names an image that the cluster can pull.
    fn build(&self, _colour: Colour) -> Result<Option<String>> {
        let (image, revision) = match settings::text(IMAGE_VARIABLE) {
            Some(image) => (image, None),
            None => {
                let (image, revision) = self.build_image()?;
                (image, Some(revision))
            }
        };
        *self
            .built
            .lock()
            .unwrap_or_else(|broken| broken.into_inner()) = Some(image);
        Ok(revision)
    }

    fn start(&self, colour: Colour) -> Result<()> {
        if self.runs(colour) {
            self.stop(colour)?;
        }
        let mut rollout = Rollout::read(&self.cluster)?;
        let built = self
            .built
            .lock()
            .unwrap_or_else(|broken| broken.into_inner())
            .take();
        let replicas = rollout.replicas_for(colour);
        let slot = rollout.slot_mut(colour);
        slot.image = built.or(slot.image.take());
        if slot.image.is_none() {
            return Err(Error::NothingBefore(colour));
        }
        slot.replicas = replicas;
        slot.settings = settings::handed_on().collect::<BTreeMap<_, _>>();
        self.write_store()?;
        self.apply(&rollout, Some(colour))
    }

    fn runs(&self, colour: Colour) -> bool {
        Rollout::read(&self.cluster).is_ok_and(|rollout| rollout.slot(colour).replicas > 0)
    }

    fn stop(&self, colour: Colour) -> Result<()> {
        self.scale(&Self::deployment(colour), 0)?;
        self.wait_until_gone(colour.name(), |pod| pod.colour == Some(colour))
    }

    fn traefik_user(&self) -> Option<(u32, u32)> {
        None
    }

    /// It is one of the manifests.
    fn start_traefik(&self) -> Result<()> {
        Ok(())
    }

    /// A cluster has its own; the manifests tell it where to look.
    fn monitoring(&self) -> Option<Box<dyn Host + '_>> {
        None
    }

    /// To no pods at all: what they were, who was live and what Redis has on its volume stays.
    fn down(&self) -> Result<()> {
        for colour in Colour::ALL {
            self.scale(&Self::deployment(colour), 0)?;
        }
        self.wait_until_gone("the colours", |pod| pod.colour.is_some())?;
        self.scale("deployment/tally-traefik", 0)?;
        if self.stack.store == Store::Own {
            self.scale("statefulset/tally-redis", 0)?;
        }
        self.wait_until_gone("the pods", |_| true)
    }

    fn logs(&self, lines: usize, follow: bool) -> Result<()> {
        let mut logs = self.cluster.command();
        logs.args(["logs", EVERYTHING, "--prefix", "--max-log-requests=100"]);
        logs.arg(format!("--tail={lines}"));
        if follow {
            logs.arg("--follow");
        }
        let status = logs.status().map_err(Error::file("kubectl"))?;
        if status.success() {
            Ok(())
        } else {
            Err(Error::Command {
                command: "kubectl logs".into(),
                reason: format!("{status}, see above"),
            })
        }
    }
}

/// Kubectl has a line for each object, and the one that says what is wrong comes last.
fn without_what_went_well(error: Error) -> Error {
    let Error::Command { command, reason } = error else {
        return error;
    };
    let well = |line: &&str| {
        let ends = ["created", "configured", "unchanged"];
        !ends.iter().any(|end| line.ends_with(end))
    };
    let reason = reason.lines().filter(well).collect::<Vec<_>>().join("\n");
    Error::Command { command, reason }
}

fn preview_port(colour: Colour) -> u16 {
    match colour {
        Colour::Blue => 8081,
        Colour::Green => 8083,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cluster_says_of_a_pod_is_understood() {
        let pod = |state: Value| {
            Pod::of(&json!({
                "metadata": {
                    "name": "tally-blue-1",
                    "labels": { "app.kubernetes.io/component": "server", "tally/colour": "blue" },
                },
                "status": {
                    "phase": "Running",
                    "hostIP": "192.0.2.1",
                    "containerStatuses": [{ "state": state }],
                },
            }))
        };
        let running = pod(json!({ "running": {} }));
        assert!(running.runs && !running.goes);
        assert_eq!(running.colour, Some(Colour::Blue));
        assert_eq!(running.host, "192.0.2.1");
        let waiting = json!({ "reason": "ImagePullBackOff", "message": "no such image" });
        let waiting = pod(json!({ "waiting": waiting }));
        assert!(!waiting.runs && waiting.is_hopeless());
        assert!(!running.is_hopeless());
        assert_eq!(waiting.wants, "ImagePullBackOff no such image");
    }
}
