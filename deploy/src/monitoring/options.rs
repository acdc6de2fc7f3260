//! What a person may set for the monitoring.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::settings::Reader;

/// The variables read here; they are nothing for the server.
pub const VARIABLES: [&str; 11] = [
    "TALLY_ALERT_MAIL",
    "TALLY_ALERT_WEBHOOK",
    "TALLY_GRAFANA",
    "TALLY_MONITORING",
    "TALLY_RUNBOOK",
    "TALLY_SMTP",
    "TALLY_SMTP_FROM",
    "TALLY_SMTP_PASSWORD",
    "TALLY_SMTP_USER",
    "TALLY_TOOLS",
    "TALLY_WATCHDOG_WEBHOOK",
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `TALLY_MONITORING`
    pub on: bool,
    /// `TALLY_TOOLS`: a folder with programs, looked at before the PATH.
    pub tools: Option<PathBuf>,
    /// `TALLY_GRAFANA`: Grafana's home folder.
    pub grafana: Option<PathBuf>,
    /// `TALLY_RUNBOOK`: where the runbook is read, if not in Grafana.
    pub runbook: Option<String>,
    /// `TALLY_ALERT_WEBHOOK`
    webhook: Option<String>,
    /// `TALLY_WATCHDOG_WEBHOOK`
    watchdog: Option<String>,
    mail: Option<Mail>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mail {
    /// `TALLY_ALERT_MAIL`
    to: String,
    /// `TALLY_SMTP`: name and port of the server that takes it.
    server: String,
    /// `TALLY_SMTP_FROM`
    from: String,
    /// `TALLY_SMTP_USER` and `TALLY_SMTP_PASSWORD`
    account: Option<(String, String)>,
}

impl Options {
    /// What is wrong is told to the reader. Folders begin at `root`, unless they are absolute.
    pub fn read<F: Fn(&str) -> Option<String>>(reader: &mut Reader<F>, root: &Path) -> Self {
        let on = reader.read("TALLY_MONITORING", "on or off", |text| match text {
            "on" => Some(true),
            "off" => Some(false),
            _ => None,
        });
        Self {
            on: on.unwrap_or(true),
            tools: folder(reader, "TALLY_TOOLS", root),
            grafana: folder(reader, "TALLY_GRAFANA", root),
            runbook: address(reader, "TALLY_RUNBOOK"),
            webhook: address(reader, "TALLY_ALERT_WEBHOOK"),
            watchdog: address(reader, "TALLY_WATCHDOG_WEBHOOK"),
            mail: mail(reader),
        }
    }

    /// Alertmanager's lists of whom to tell of an alert, by webhook and by mail.
    pub fn people(&self) -> (Value, Value) {
        let webhooks = self.webhook.as_ref().map(|url| json!({ "url": url }));
        let mails = self.mail.as_ref().map(Mail::configuration);
        (list(webhooks), list(mails))
    }

    /// The list of whom to tell that alerts are delivered at all.
    pub fn watchdogs(&self) -> Value {
        let webhook = |url| json!({ "url": url, "send_resolved": false });
        list(self.watchdog.as_ref().map(webhook))
    }
}

fn list(one: Option<Value>) -> Value {
    Value::Array(one.into_iter().collect())
}

impl Mail {
    fn configuration(&self) -> Value {
        let mut mail = json!({
            "to": self.to,
            "from": self.from,
            "smarthost": self.server,
            "send_resolved": true,
            // Nobody listens in between.
            "require_tls": !self.server.starts_with("127.") && !self.server.starts_with("localhost:"),
        });
        if let Some((user, password)) = &self.account {
            mail["auth_username"] = json!(user);
            mail["auth_password"] = json!(password);
        }
        mail
    }
}

fn folder<F: Fn(&str) -> Option<String>>(
    reader: &mut Reader<F>,
    name: &str,
    root: &Path,
) -> Option<PathBuf> {
    reader.read(name, "a folder that there is", |text| {
        let folder = root.join(text).canonicalize().ok();
        folder.filter(|folder| folder.is_dir())
    })
}

fn address<F: Fn(&str) -> Option<String>>(reader: &mut Reader<F>, name: &str) -> Option<String> {
    reader.read(
        name,
        "an address that begins with http:// or https://",
        |text| {
            let schemes = ["http://", "https://"];
            let scheme = schemes.iter().any(|scheme| text.starts_with(scheme));
            scheme.then(|| text.to_owned())
        },
    )
}

fn mail<F: Fn(&str) -> Option<String>>(reader: &mut Reader<F>) -> Option<Mail> {
    let mailbox = |text: &str| text.contains('@').then(|| text.to_owned());
    let to = reader.read("TALLY_ALERT_MAIL", "a mail address", mailbox);
    let from = reader.read("TALLY_SMTP_FROM", "a mail address", mailbox);
    let server = reader.read(
        "TALLY_SMTP",
        "a name and a port: mail.example:587",
        |text| {
            let (_, port) = text.rsplit_once(':')?;
            port.parse::<u16>().ok().map(|_| text.to_owned())
        },
    );
    let any = |text: &str| Some(text.to_owned());
    let user = reader.read("TALLY_SMTP_USER", "a name", any);
    let password = reader.read("TALLY_SMTP_PASSWORD", "a password", any);
    reader.needs("TALLY_ALERT_MAIL", "TALLY_SMTP");
    let (to, server) = (to?, server?);
    Some(Mail {
        from: from.unwrap_or_else(|| to.clone()),
        to,
        server,
        account: user.map(|user| (user, password.unwrap_or_default())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(given: &[(&str, &str)]) -> (Options, Vec<String>) {
        let mut reader = Reader::new(|name: &str| {
            let found = given.iter().find(|(given, _)| *given == name);
            found.map(|(_, value)| (*value).to_owned())
        });
        let options = Options::read(&mut reader, Path::new("/"));
        (options, reader.mistakes)
    }

    #[test]
    fn nobody_is_told_unless_somebody_is_named() {
        let (options, mistakes) = read(&[]);
        assert!(options.on && mistakes.is_empty());
        assert_eq!(options.people(), (json!([]), json!([])));
        assert_eq!(options.watchdogs(), json!([]));
    }

    #[test]
    fn who_is_named_is_told() {
        let (options, mistakes) = read(&[
            ("TALLY_ALERT_WEBHOOK", "https://a.example/x"),
            ("TALLY_WATCHDOG_WEBHOOK", "http://b.example"),
            ("TALLY_ALERT_MAIL", "ops@a.example"),
            ("TALLY_SMTP", "mail.a.example:587"),
            ("TALLY_SMTP_USER", "tally"),
            ("TALLY_SMTP_PASSWORD", "a\"b"),
        ]);
        assert_eq!(mistakes, Vec::<String>::new());
        let (webhooks, mails) = options.people();
        assert_eq!(webhooks[0]["url"], "https://a.example/x");
        assert_eq!(mails[0]["from"], "ops@a.example");
        assert_eq!(mails[0]["auth_password"], "a\"b");
        assert_eq!(mails[0]["require_tls"], true);
        assert_eq!(options.watchdogs()[0]["url"], "http://b.example");
    }

    #[test]
    fn what_is_wrong_is_told_by_name() {
        for (name, value) in [
            ("TALLY_MONITORING", "perhaps"),
            ("TALLY_TOOLS", "/there/is/none"),
            ("TALLY_GRAFANA", "/there/is/none"),
            ("TALLY_RUNBOOK", "runbook.md"),
            ("TALLY_ALERT_WEBHOOK", "a.example"),
            ("TALLY_ALERT_MAIL", "ops@a.example"),
            ("TALLY_SMTP", "mail.a.example"),
        ] {
            let (_, mistakes) = read(&[(name, value)]);
            assert_eq!(mistakes.len(), 1, "{name}: {mistakes:?}");
            assert!(mistakes[0].contains(name), "{mistakes:?}");
        }
    }
}
