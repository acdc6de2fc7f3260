//! monitor.sh, before a stack that the test pretends.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener},
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use serde_json::{Value, json};

use crate::programs::{monitoring, told};

/// A colour that has counted so many messages, whenever it is asked.
fn colour(messages: Arc<AtomicU64>) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok() && line.trim() != "" {
                line.clear();
            }
            let count = messages.load(Ordering::Relaxed);
            let body = format!(
                "# TYPE tally_messages_total counter\ntally_messages_total {count}\n\
                 # TYPE tally_closes_total counter\n\
                 tally_closes_total{{reason=\"client\"}} 20\ntally_closes_total{{reason=\"silent\"}} 5\n\
                 # TYPE a_total counter\na_total 4\n# TYPE b_total counter\nb_total 3\n\
                 # TYPE c_total counter\nc_total 2\n# TYPE d_total counter\nd_total 1\n\
                 # TYPE tally_active_connections gauge\ntally_active_connections 1000000\n\
                 # TYPE tally_seconds histogram\ntally_seconds_count 999999\n"
            );
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let _ = reader.get_mut().write_all((head + &body).as_bytes());
        }
    });
    port
}

/// A folder in which `up` seems to have been.
fn clone(blue: u16, green: u16) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join(".tally/logs")).unwrap();
    let record = json!({
        "name": "tally-1a2b3c",
        "engine": "native",
        "ports": { "blue_operator": blue, "green_operator": green },
    });
    fs::write(root.path().join(".tally/stack.json"), record.to_string()).unwrap();
    root
}

fn monitor(root: &tempfile::TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(monitoring("monitor.sh"));
    command
        .arg("--root")
        .arg(root.path())
        .args(arguments)
        .stdout(Stdio::piped());
    command
}

/// The objects of a run with --json, by kind.
fn kind(output: &Output, kind: &str) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    let objects = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    objects.filter(|object| object["kind"] == kind).collect()
}

/// Runs it, and does something once it has printed its first line, which is after it began to
/// follow the logs.
fn while_it_runs(mut command: Command, act: impl FnOnce()) -> Output {
    let mut child = command.spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    reader.read_line(&mut text).unwrap();
    act();
    while reader.read_line(&mut text).unwrap() > 0 {}
    Output {
        status: child.wait().unwrap(),
        stdout: text.into_bytes(),
        stderr: Vec::new(),
    }
}

#[test]
fn the_five_biggest_counters_are_summed_over_labels_and_colours() {
    let messages = Arc::new(AtomicU64::new(100));
    let port = colour(Arc::clone(&messages));
    let root = clone(port, port);
    let output = while_it_runs(monitor(&root, &["--seconds", "2", "--json"]), || {
        messages.store(130, Ordering::Relaxed);
    });
    let counters = kind(&output, "counters");
    let rows = |nth: usize| {
        let rows = counters[nth]["counters"].as_array().unwrap().iter();
        let row = |row: &Value| {
            (
                row["name"].as_str().unwrap().to_owned(),
                row["value"].as_f64(),
                row["increase"].as_f64(),
            )
        };
        rows.map(row).collect::<Vec<_>>()
    };
    let row = |name: &str, value: f64, increase| (format!("{name}_total"), Some(value), increase);
    assert_eq!(
        rows(0),
        [
            row("tally_messages", 200.0, None),
            row("tally_closes", 50.0, None),
            row("a", 8.0, None),
            row("b", 6.0, None),
            row("c", 4.0, None)
        ]
    );
    assert_eq!(rows(1)[0], row("tally_messages", 260.0, Some(60.0)));
    assert_eq!(rows(1)[1], row("tally_closes", 50.0, Some(0.0)));
}

#[test]
fn a_colour_that_was_started_anew_has_gained_what_it_counts_since() {
    let messages = Arc::new(AtomicU64::new(100));
    let port = colour(Arc::clone(&messages));
    // Nobody is at port 9: green does not run.
    let root = clone(port, 9);
    let output = while_it_runs(monitor(&root, &["--seconds", "2", "--json"]), || {
        messages.store(40, Ordering::Relaxed);
    });
    let counters = kind(&output, "counters");
    let messages = &counters[1]["counters"][0];
    assert_eq!(messages["value"], 40.0);
    assert_eq!(messages["increase"], 40.0);
}

#[test]
fn errors_are_told_as_they_come_and_decide_the_exit_code() {
    let port = colour(Arc::new(AtomicU64::new(1)));
    let root = clone(port, port);
    let log = root.path().join(".tally/logs/blue.log");
    fs::write(&log, "{\"level\":\"ERROR\",\"msg\":\"long ago\"}\n").unwrap();
    let say = || {
        // One that is renamed when it is full, and one that there was not at the beginning.
        let mut file = fs::File::options().append(true).open(&log).unwrap();
        writeln!(file, "{{\"level\":\"INFO\",\"msg\":\"no ERROR\"}}").unwrap();
        writeln!(file, "{{\"level\":\"ERROR\",\"msg\":\"a \\\"word\\\"\"}}").unwrap();
        let traefik = root.path().join(".tally/logs/traefik.log");
        fs::write(
            traefik,
            "{\"level\":\"error\",\"message\":\"cannot\"}\nplain\n",
        )
        .unwrap();
        let green = root.path().join(".tally/logs/green.log");
        fs::write(green, "thread 'main' panicked at src/hub.rs:1:2:\n").unwrap();
    };
    let fails = ["--seconds", "4", "--json", "--fail-on-error"];
    let output = while_it_runs(monitor(&root, &fails), say);
    let mut errors: Vec<(String, String)> = kind(&output, "error")
        .iter()
        .map(|error| {
            (
                error["program"].as_str().unwrap().into(),
                error["line"].as_str().unwrap().into(),
            )
        })
        .collect();
    errors.sort();
    let expected = [
        ("blue", "{\"level\":\"ERROR\",\"msg\":\"a \\\"word\\\"\"}"),
        ("green", "thread 'main' panicked at src/hub.rs:1:2:"),
        ("traefik", "{\"level\":\"error\",\"message\":\"cannot\"}"),
    ];
    assert_eq!(
        errors,
        expected.map(|(program, line)| (program.to_owned(), line.to_owned()))
    );
    assert_eq!(kind(&output, "end")[0]["errors"], 3);
    assert_eq!(output.status.code(), Some(1));

    let quiet = monitor(&root, &["--seconds", "1", "--fail-on-error"])
        .output()
        .unwrap();
    assert_eq!(quiet.status.code(), Some(0), "{}", told(&quiet));
    let forgiving = while_it_runs(monitor(&root, &["--seconds", "2"]), say);
    assert_eq!(forgiving.status.code(), Some(0), "{}", told(&forgiving));
    assert!(
        told(&forgiving).contains("ERROR  blue  "),
        "{}",
        told(&forgiving)
    );
}

#[test]
fn a_stack_that_does_not_answer_is_an_error_and_so_is_none() {
    let root = clone(9, 9);
    let output = monitor(&root, &["--seconds", "1", "--fail-on-error"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        told(&output).contains("no colour answers"),
        "{}",
        told(&output)
    );
    let nothing = tempfile::tempdir().unwrap();
    let output = monitor(&nothing, &[])
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(told(&output).contains("./just up"), "{}", told(&output));
    let output = monitor(&root, &["--seconds", "soon"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_signal_ends_it_with_a_summary_and_leaves_nobody_behind() {
    let port = colour(Arc::new(AtomicU64::new(1)));
    let root = clone(port, port);
    let scratch = root.path().join("scratch");
    fs::create_dir(&scratch).unwrap();
    let child = monitor(&root, &["--json"])
        .env("TMPDIR", &scratch)
        .spawn()
        .unwrap();
    let process = child.id();
    // It has begun when it follows the logs.
    let followers = || {
        let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let here = root.path().to_str().unwrap().to_owned();
        entries
            .filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok())
            .filter(|command| command.contains("import os, re") && command.contains(&here))
            .count()
    };
    crate::programs::wait_for("a follower of the logs", || match followers() {
        1 => Ok(()),
        other => Err(other.to_string()),
    });
    let sent = Command::new("kill")
        .args(["-TERM", &process.to_string()])
        .status();
    assert!(sent.unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(kind(&output, "end").len(), 1, "{output:?}");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        fs::read_dir(&scratch).unwrap().count(),
        0,
        "no file is left"
    );
    crate::programs::wait_for("an end of the following", || match followers() {
        0 => Ok(()),
        other => Err(other.to_string()),
    });
}
