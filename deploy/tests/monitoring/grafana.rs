//! What a person sees: a real Grafana with the project's provisioning, in a real browser.

use std::{
    env, fs,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tungstenite::Message;

use crate::{
    browser::Browser,
    clone::workspace,
    dashboards::{dashboards, panels},
    engine::Engine,
    live::choose,
    programs::{get_json, wait_for},
    watched::Watched,
};

/// The width of a laptop's screen; a dashboard is as high as it likes.
const WIDTH: u32 = 1440;

/// Pixels of a row of a dashboard's grid, with the gap below it.
const ROW: u64 = 38;

/// Of the picture, beside the grid.
const MARGIN: u64 = 180;

/// What is wrong with a page: nothing, once it has settled. A panel that has no data says so, and one
/// whose query fails wears a mark in its corner.
const COMPLAINT: &str = r#"(() => {
    const all = selector => [...document.querySelectorAll(selector)];
    const panels = all('section[data-testid^="data-testid Panel header"]');
    if (panels.length < PANELS) return `${panels.length} panels of PANELS`;
    const loads = button => button.innerText.trim() === 'Cancel';
    if (all('button').some(loads) || all('[aria-label="Panel loading bar"]').length) return 'it loads';
    const title = panel => panel.dataset.testid.replace('data-testid Panel header ', '');
    const failed = panels.filter(panel => panel.querySelector('[data-testid="data-testid Panel status error"]'));
    if (failed.length) return `in error: ${failed.map(title)}`;
    const empty = panels.filter(panel => /No data|No logs found|Panel plugin not found/.test(panel.innerText));
    if (empty.length) return `empty: ${empty.map(title)}`;
    const content = panel => panel.querySelector('[data-testid="data-testid panel content"]');
    const blank = panel => !content(panel)?.innerText.trim() && !content(panel)?.querySelector('canvas');
    const blanks = panels.filter(blank);
    if (blanks.length) return `blank: ${blanks.map(title)}`;
    return '';
})()"#;

/// A stack that Grafana shows; none where this machine lacks something, which is told.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn shown() -> Option<Watched> {
    if env::var_os("TALLY_GRAFANA").is_none() {
        println!("skipped: TALLY_GRAFANA names no home folder of a Grafana");
        return None;
    }
    Watched::start(Engine::Native)
}

/// A query as a panel sends it; Grafana fills in its own variables.
fn asked(target: &Value, dashboard: &Value) -> Value {
    let mut query = target.clone();
    query["expr"] = json!(choose(target["expr"].as_str().unwrap(), dashboard));
    query["intervalMs"] = json!(5000);
    query["maxDataPoints"] = json!(500);
    query
}

/// # Errors
/// The answer has no figures in it.
fn answer(watched: &Watched, query: &Value) -> Result<(), String> {
    let body = json!({ "queries": [query], "from": "now-5m", "to": "now" });
    let url = format!("{}/api/ds/query", watched.grafana);
    let answer = ureq::post(&url).send_json(&body);
    let mut answer = answer.map_err(|error| error.to_string())?;
    let answer: Value = answer
        .body_mut()
        .read_json()
        .map_err(|error| error.to_string())?;
    let result = &answer["results"][query["refId"].as_str().unwrap()];
    let frames = result["frames"].as_array().into_iter().flatten();
    let figures = frames.filter(|frame| frame["data"]["values"][0][0] != Value::Null);
    match figures.count() {
        0 => Err(format!("no figures in {result}")),
        _ => Ok(()),
    }
}

/// People who come, talk, and stay for a while, until it is over.
fn crowd(watched: &Watched, over: &AtomicBool) {
    let mut sockets = std::collections::VecDeque::new();
    while !over.load(Ordering::Relaxed) {
        if let Ok((socket, _)) = watched.clone.connect() {
            sockets.push_back(socket);
        }
        for socket in &mut sockets {
            // One that was sent away by a flip is of no more use, and soon gone.
            let _ = socket.send(Message::text("x")).and_then(|()| socket.read());
        }
        if sockets.len() > 40 {
            sockets.pop_front();
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// Where the pictures go: a setting may name another folder, for those that the README shows.
fn pictures() -> PathBuf {
    let folder = env::var_os("TALLY_SCREENSHOTS").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| workspace().join("target/dashboards"));
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn height(dashboard: &Value) -> u32 {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let ends = panels.map(|panel| {
        let side = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        side("y") + side("h")
    });
    (ends.max().unwrap() * ROW + MARGIN) as u32
}

#[test]
#[ignore = "slow: ./just drill"]
fn every_dashboard_shows_something_in_every_panel() {
    let Some(watched) = shown() else {
        return;
    };
    let Some(browser) = Browser::start() else {
        return;
    };
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| crowd(&watched, &over));
        let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            watched.live();
            look(&watched, &browser);
        }));
        over.store(true, Ordering::Relaxed);
        if let Err(panic) = looked {
            std::panic::resume_unwind(panic);
        }
    });
}

fn look(watched: &Watched, browser: &Browser) {
    for (path, dashboard) in dashboards() {
        let uid = dashboard["uid"].as_str().unwrap();
        let url = format!("{}/api/dashboards/uid/{uid}", watched.grafana);
        let provisioned = wait_for(uid, || get_json(&url));
        assert_eq!(provisioned["meta"]["provisioned"], true, "{path:?}");
        for panel in panels(&dashboard) {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let query = asked(target, &dashboard);
                let name = format!("{path:?}, {}", panel["title"]);
                wait_for(&name, || answer(watched, &query));
            }
        }
        browser.look(WIDTH, height(&dashboard), "dark");
        browser.open(&format!(
            "{}/d/{uid}?kiosk&from=now-5m&to=now",
            watched.grafana
        ));
        let complaint = COMPLAINT.replace("PANELS", &panels(&dashboard).len().to_string());
        wait_for(&format!("picture of {uid}"), || {
            match browser.value(&complaint).as_str() {
                Some("") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        browser.save_screenshot(&pictures().join(format!("{uid}.png")));
    }
}
