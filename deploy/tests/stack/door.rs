//! The front door under TLS, and with a limit on handshakes.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use tungstenite::Message;

use crate::{
    certificates::{Authority, Issued, NAME},
    clone::{Clone, PATIENCE, moving, told},
    engine::{Engine, on_each_engine},
    pebble::Pebble,
    sessions::loadtest,
};

on_each_engine!([
    under_tls_a_flip_is_noticed_by_nobody,
    under_tls_a_flip_audits_itself,
    a_renewed_certificate_is_shown_after_a_flip_and_after_up,
    tls_comes_and_goes_under_open_sockets,
    a_certificate_that_traefik_cannot_use_is_noticed,
    too_many_handshakes_from_one_address_are_refused,
], slow []);

/// Puts a certificate where the settings of [`under_tls`] look for it.
fn install(clone: &Clone, issued: &Issued) {
    fs::write(clone.root.path().join("door.crt"), &issued.certificate).unwrap();
    fs::write(clone.root.path().join("door.key"), &issued.key).unwrap();
}

/// A clone with a certificate, named from the clone's folder on, and clients that trust it.
fn under_tls(engine: Engine, authority: &Authority) -> Clone {
    let mut clone = Clone::new(engine);
    install(&clone, &authority.issue(NAME));
    clone.settings = vec![
        ("TALLY_TLS_CERT", "door.crt".into()),
        ("TALLY_TLS_KEY", "door.key".into()),
    ];
    clone.trust = Some(authority.trust());
    clone
}

fn under_tls_a_flip_is_noticed_by_nobody(engine: Engine) {
    let mut clone = under_tls(engine, &Authority::new());
    let Some(up) = clone.up() else { return };
    assert!(up.contains("https://127.0.0.1:"), "{up}");
    assert!(up.contains("certificate  ends "), "{up}");
    assert_eq!(clone.get("/"), "200");
    assert_eq!(clone.get_plainly("/"), "404");
    assert_eq!(clone.get_plainly("/ws/chat/"), "404");
    assert_certificate_is_watched(&clone);
    // Another shell does not know that there is TLS.
    clone.settings.clear();
    let (flip, _) = moving(&clone, || clone.succeeds("flip"));
    assert!(flip.contains("==> green is live"), "{flip}");
    assert_eq!(clone.colour(), "green");
}

fn under_tls_a_flip_audits_itself(engine: Engine) {
    let clone = under_tls(engine, &Authority::new());
    if clone.up().is_none() {
        return;
    }
    let mut flip = clone.command("flip --audit --audit-sockets 100 --audit-rate 200");
    let output = flip.env("TALLY_LOADTEST", loadtest()).output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(clone.colour(), "green");
    let history = clone.succeeds("history");
    let ledger = "0 messages lost, 0 duplicated; 100 of 100 resumed";
    assert!(history.contains(ledger), "{history}");
    // The load test finds the door and its TLS by itself. Its messages are more than the kernel takes
    // at a time.
    let output = Command::new(loadtest())
        .args(["-n", "20", "--mode", "peak", "--size", "60000"])
        .args([
            "--duration",
            "1s",
            "--heartbeat",
            "0s",
            "--assert",
            "rate>1",
        ])
        .current_dir(clone.root.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", told(&output));
}

/// An alert looks at how long it holds.
fn assert_certificate_is_watched(clone: &Clone) {
    let internal = &clone.record()["ports"]["internal"];
    let url = format!("http://127.0.0.1:{internal}/metrics");
    let mut answer = ureq::get(url).call().unwrap();
    let metrics = answer.body_mut().read_to_string().unwrap();
    let watched = |line: &str| {
        line.starts_with("traefik_tls_certs_not_after{") && line.contains(&format!("sans=\"{NAME}"))
    };
    assert!(metrics.lines().any(watched), "{metrics}");
}

fn a_renewed_certificate_is_shown_after_a_flip_and_after_up(engine: Engine) {
    let authority = Authority::new();
    let clone = under_tls(engine, &authority);
    let Some(_) = clone.up() else { return };
    let (mut talking, _) = clone.connect().unwrap();
    for verb in ["flip --keep-warm 60s", "up"] {
        let renewed = authority.issue(NAME);
        install(&clone, &renewed);
        clone.succeeds(verb);
        assert_eq!(clone.leaf(), renewed.leaf(), "{verb}");
    }
    let given = clone.root.path().join(".tally/tls/door.pem");
    let given = fs::metadata(given).unwrap();
    assert_eq!(given.mode() & 0o777, 0o600, "the key is Traefik's alone");
    assert!(engine == Engine::Native || given.uid() != 0);
    // A flip says goodbye to whoever was on the old colour, and `up` to nobody.
    assert!(talking.read().unwrap().to_string().contains("\"bye\""));
}

fn tls_comes_and_goes_under_open_sockets(engine: Engine) {
    let Some(mut clone) = Clone::upped(engine) else {
        return;
    };
    let (mut talking, _) = clone.connect().unwrap();
    let authority = Authority::new();
    let secured = under_tls(engine, &authority);
    install(&clone, &authority.issue(NAME));
    clone.settings = secured.settings.clone();
    let up = clone.succeeds("up");
    assert!(up.contains("changes from no TLS to TLS with"), "{up}");
    clone.trust = Some(authority.trust());
    assert_eq!(clone.get("/"), "200");
    clone.settings.clear();
    clone.succeeds("up");
    clone.trust = None;
    assert_eq!(clone.get("/"), "200");
    talking.send(Message::text("still here")).unwrap();
    assert_eq!(talking.read().unwrap(), Message::text("{\"count\":1}"));
}

fn a_certificate_that_traefik_cannot_use_is_noticed(engine: Engine) {
    let clone = under_tls(engine, &Authority::new());
    let Some(_) = clone.up() else { return };
    // It is good when the flip looks at it, and gone when Traefik does.
    let certificate = clone.root.path().join(".tally/tls/door.pem");
    let (code, told) = clone.watch("flip", "nothing stands in the way", |_| {
        let text = fs::read_to_string(&certificate).unwrap();
        let (chain, _) = text.split_once("-----BEGIN PRIVATE KEY").unwrap();
        fs::write(&certificate, chain).unwrap();
    });
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("the TLS handshake failed"), "{told}");
}

fn too_many_handshakes_from_one_address_are_refused(engine: Engine) {
    let mut clone = Clone::new(engine);
    clone.settings = vec![("TALLY_HANDSHAKE_RATE", "10".into())];
    let Some(_) = clone.up() else { return };
    let (accepted, refused) = storm(&clone);
    assert!(accepted > 0, "{refused} refused");
    // What is no handshake is not counted, and neither is another address.
    for path in ["/", "/healthz", "/readyz"] {
        for _ in 0..20 {
            assert_eq!(clone.get(path), "200");
        }
    }
    storm(&clone);
    if engine == Engine::Native {
        assert_eq!(status_from("127.0.0.2", &clone), "426");
    }
    let flip = clone.succeeds("flip");
    assert!(flip.contains("==> green is live"), "{flip}");
}

/// Handshakes at once until one is refused; how many were accepted and refused.
fn storm(clone: &Clone) -> (usize, usize) {
    let [accepted, refused] = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while refused.load(Ordering::Relaxed) == 0 {
                    match clone.connect() {
                        Ok(_) => accepted.fetch_add(1, Ordering::Relaxed),
                        Err(error) if error.contains("429") => {
                            refused.fetch_add(1, Ordering::Relaxed)
                        }
                        Err(error) => panic!("{error}"),
                    };
                    assert!(began.elapsed() < PATIENCE, "nobody is refused");
                }
            });
        }
    });
    (accepted.into_inner(), refused.into_inner())
}

/// What somebody with another address gets for a request that is no handshake.
fn status_from(address: &str, clone: &Clone) -> String {
    let url = format!("http://127.0.0.1:{}/ws/chat/", clone.port);
    let output = Command::new("curl")
        .args(["--silent", "--output", "/dev/null"])
        .args(["--write-out", "%{http_code}", "--interface", address, &url])
        .output();
    told(&output.unwrap())
}

#[test]
fn wrong_settings_are_told_by_name_before_anything_starts() {
    let mut clone = under_tls(Engine::Native, &Authority::new());
    let other = Authority::new().issue(NAME);
    fs::write(clone.root.path().join("door.key"), other.key).unwrap();
    clone.settings.extend([
        ("TALLY_HANDSHAKE_RATE", "5".into()),
        ("TALLY_ACME_CA", "door.crt".into()),
    ]);
    let output = clone.run("up");
    let told = told(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    for needle in [
        "TALLY_TLS_KEY is \"door.key\"; it should be the key of TALLY_TLS_CERT",
        "TALLY_HANDSHAKE_RATE is \"5\"",
        "TALLY_ACME_DOMAIN is not set",
    ] {
        assert!(told.contains(needle), "{needle}: {told}");
    }
    assert!(!clone.root.path().join(".tally/stack.json").exists());
}

#[test]
fn a_flip_does_not_begin_with_a_key_that_does_not_fit() {
    let authority = Authority::new();
    let clone = under_tls(Engine::Native, &authority);
    let Some(_) = clone.up() else { return };
    let before = clone.leaf();
    fs::write(
        clone.root.path().join("door.key"),
        authority.issue(NAME).key,
    )
    .unwrap();
    let output = clone.run("flip");
    let told = told(&output);
    assert!(told.contains("before a flip can begin"), "{told}");
    assert!(told.contains("is not the key of"), "{told}");
    assert_eq!(clone.leaf(), before);
    assert_eq!(clone.colour(), "blue");
}

/// The authority that ACME is tested with.
const PEBBLE: &str = "go install github.com/letsencrypt/pebble/v2/cmd/pebble@v2.10.1";

/// For what Traefik and the authority have to tell each other.
const ACME_TIMEOUT: Duration = Duration::from_secs(60);

#[test]
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn a_certificate_comes_by_acme_and_stays() {
    let mut clone = Clone::new(Engine::Native);
    let Some(pebble) = Pebble::start(&clone) else {
        println!("skipped: there is no pebble; install it: {PEBBLE}");
        return;
    };
    clone.trust = Some(pebble.trust());
    clone.settings = vec![
        ("TALLY_ACME_EMAIL", "ops@door.test".into()),
        ("TALLY_ACME_DOMAIN", NAME.into()),
        ("TALLY_ACME_SERVER", pebble.directory.clone()),
        ("TALLY_ACME_CA", "pebble.root".into()),
    ];
    let began = Instant::now();
    let Some(up) = clone.up() else { return };
    assert!(began.elapsed() < ACME_TIMEOUT, "{up}");
    assert!(up.contains("UTC; for door.test by ACME"), "{up}");
    assert_eq!(clone.get("/"), "200");
    let issued = clone.leaf();
    let (_, _) = moving(&clone, || clone.succeeds("flip"));
    clone.succeeds("down");
    // Nobody issues any more, and nobody has to.
    drop(pebble);
    clone.succeeds("up");
    assert_eq!(clone.leaf(), issued);
    clone.settings[0].1 = "somebody.else@door.test".into();
    let output = clone.run("up");
    assert!(told(&output).contains("./just down"), "{}", told(&output));
}
