//! What of a stack differs from the manifests: what each colour runs, how often, with which settings,
//! and who is live. The cluster keeps it; an overlay of our own hands it back to kubectl, so that
//! nothing is undone when the manifests are applied again.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Value, json};

use crate::{
    colour::Colour,
    error::{Error, Result},
    stack::Stack,
    store::Store,
};

use super::{IMAGE, INGRESS, cluster::Cluster};

/// What a colour runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// None before its first start.
    pub image: Option<String>,
    pub replicas: u32,
    pub settings: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rollout {
    pub blue: Slot,
    pub green: Slot,
    pub live: Option<Colour>,
    /// Pods that an autoscaler keeps at least, where there is one.
    pub replicas_min: u32,
}

impl Rollout {
    /// As the cluster has it.
    ///
    /// # Errors
    /// The cluster cannot be asked.
    pub fn read(cluster: &Cluster) -> Result<Self> {
        let each = |kind: &str| Colour::ALL.map(|colour| format!("{kind}/{}", colour.service()));
        let names = [
            &each("deployment")[..],
            &each("configmap"),
            &each("hpa"),
            &[format!("ingress/{INGRESS}")],
        ]
        .concat();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut rollout = Self::default();
        for object in cluster.get(&names)? {
            rollout.take(&object);
        }
        Ok(rollout)
    }

    fn take(&mut self, object: &Value) {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let count = |value: &Value| {
            let count = value.as_u64().unwrap_or_default();
            u32::try_from(count).unwrap_or(u32::MAX)
        };
        match (object["kind"].as_str(), Colour::of_service(name)) {
            (Some("Deployment"), Some(colour)) => {
                let slot = self.slot_mut(colour);
                let image = object["spec"]["template"]["spec"]["containers"][0]["image"].as_str();
                let own = format!("{IMAGE}-{colour}");
                slot.image = image.filter(|image| **image != own).map(str::to_owned);
                slot.replicas = count(&object["spec"]["replicas"]);
            }
            (Some("ConfigMap"), Some(colour)) => {
                let data = object["data"].as_object().into_iter().flatten();
                let text = |(name, value): (&String, &Value)| {
                    Some((name.clone(), value.as_str()?.to_owned()))
                };
                self.slot_mut(colour).settings = data.filter_map(text).collect();
            }
            (Some("HorizontalPodAutoscaler"), Some(_)) => {
                self.replicas_min = self.replicas_min.max(count(&object["spec"]["minReplicas"]));
            }
            (Some("Ingress"), _) => {
                let path = &object["spec"]["rules"][0]["http"]["paths"][0];
                let service = path["backend"]["service"]["name"].as_str();
                self.live = service.and_then(Colour::of_service);
            }
            _ => {}
        }
    }

    pub fn slot(&self, colour: Colour) -> &Slot {
        match colour {
            Colour::Blue => &self.blue,
            Colour::Green => &self.green,
        }
    }

    pub fn slot_mut(&mut self, colour: Colour) -> &mut Slot {
        match colour {
            Colour::Blue => &mut self.blue,
            Colour::Green => &mut self.green,
        }
    }

    /// As many as the other colour has grown to, and at least what an autoscaler would begin with.
    pub fn replicas_for(&self, colour: Colour) -> u32 {
        let other = self.slot(colour.other()).replicas;
        other.max(self.replicas_min).max(1)
    }

    /// The overlay in a folder of its own, for `kubectl apply --kustomize`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, stack: &Stack, cluster: &Cluster, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).map_err(Error::file(folder))?;
        let managed = stack.store != Store::Own;
        let text = format!("{:#}\n", self.kustomization(cluster, managed));
        let path = folder.join("kustomization.yaml");
        fs::write(&path, text).map_err(Error::file(path))
    }

    /// JSON, which is YAML as well.
    fn kustomization(&self, cluster: &Cluster, managed: bool) -> Value {
        const MANIFESTS: &str = "../../deploy/kubernetes";
        let managed = managed.then(|| format!("{MANIFESTS}/components/managed-redis"));
        let components: Vec<String> = managed.into_iter().collect();
        let mut patches = Vec::new();
        for colour in Colour::ALL {
            let slot = self.slot(colour);
            if let Some(image) = &slot.image {
                let path = "/spec/template/spec/containers/0/image";
                patches.push(replace("Deployment", &colour.service(), path, image));
            }
            if !slot.settings.is_empty() {
                patches.push(settings(colour, &slot.settings));
            }
        }
        if let Some(live) = self.live {
            patches.push(replace("Ingress", INGRESS, BACKEND, &live.service()));
        }
        let replicas = Colour::ALL
            .map(|colour| json!({ "name": colour.service(), "count": self.slot(colour).replicas }));
        json!({
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": cluster.namespace,
            "resources": [format!("{MANIFESTS}/overlays/{}", cluster.overlay)],
            "components": components,
            "replicas": replicas,
            "patches": patches,
        })
    }
}

/// Where an Ingress says which Service it leads to.
pub const BACKEND: &str = "/spec/rules/0/http/paths/0/backend/service/name";

fn replace(kind: &str, name: &str, path: &str, value: &str) -> Value {
    let patch = json!([{ "op": "replace", "path": path, "value": value }]);
    json!({ "target": { "kind": kind, "name": name }, "patch": patch.to_string() })
}

fn settings(colour: Colour, settings: &BTreeMap<String, String>) -> Value {
    let patch = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": colour.service() },
        "data": settings,
    });
    json!({ "patch": patch.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> Cluster {
        Cluster {
            context: String::new(),
            namespace: "counting".into(),
            overlay: "one-node".into(),
        }
    }

    #[test]
    fn what_the_cluster_has_is_read() {
        let mut rollout = Rollout::default();
        for object in [
            json!({ "kind": "Deployment", "metadata": { "name": "tally-blue" }, "spec": {
                "replicas": 4, "template": { "spec": { "containers": [{ "image": "tally:1" }] } } } }),
            json!({ "kind": "Deployment", "metadata": { "name": "tally-green" }, "spec": {
                "replicas": 0,
                "template": { "spec": { "containers": [{ "image": "tally-server-green" }] } } } }),
            json!({ "kind": "ConfigMap", "metadata": { "name": "tally-blue" }, "data": { "A": "b" } }),
            json!({ "kind": "HorizontalPodAutoscaler", "metadata": { "name": "tally-blue" },
                "spec": { "minReplicas": 3 } }),
            json!({ "kind": "Ingress", "metadata": { "name": "tally" }, "spec": { "rules": [
                { "http": { "paths": [{ "backend": { "service": { "name": "tally-blue" } } }] } }] } }),
        ] {
            rollout.take(&object);
        }
        assert_eq!(rollout.live, Some(Colour::Blue));
        assert_eq!(rollout.blue.image.as_deref(), Some("tally:1"));
        assert_eq!(rollout.blue.settings["A"], "b");
        assert_eq!(rollout.green, Slot::default());
        assert_eq!(rollout.replicas_for(Colour::Green), 4);
        assert_eq!(rollout.replicas_for(Colour::Blue), 3);
    }

    #[test]
    fn what_was_never_started_is_left_to_the_manifests() {
        let fresh = Rollout::default().kustomization(&cluster(), false);
        assert_eq!(fresh["patches"], json!([]));
        assert_eq!(fresh["components"], json!([]));
        assert_eq!(fresh["namespace"], "counting");
        let resource = fresh["resources"][0].as_str().unwrap();
        assert!(resource.ends_with("overlays/one-node"), "{resource}");
    }

    #[test]
    fn what_differs_is_patched() {
        let rollout = Rollout {
            green: Slot {
                image: Some("tally:2".into()),
                replicas: 5,
                settings: BTreeMap::from([("TALLY_PING".into(), "9s".into())]),
            },
            live: Some(Colour::Green),
            ..Rollout::default()
        };
        let patched = rollout.kustomization(&cluster(), true);
        let text = patched["patches"].to_string();
        for part in ["tally:2", "TALLY_PING", "tally-green", BACKEND] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(patched["replicas"][1]["count"], 5);
        assert!(
            patched["components"][0]
                .as_str()
                .unwrap()
                .ends_with("managed-redis")
        );
    }
}
