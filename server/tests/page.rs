//! The page at `/`, as a person meets it: a real browser, the real server process.

#[path = "page/browser.rs"]
mod browser;
#[path = "page/server.rs"]
mod server;

use std::path::PathBuf;

use browser::{Browser, ENTER, SPACE, TAB};
use rustix::process::Signal;
use serde_json::{Value, json};
use server::{Cable, Server};

const OPEN: &str = "document.documentElement.dataset.state === 'open'";

/// A server, and a browser on its page with an open connection.
fn visit() -> Option<(Browser, Server)> {
    let browser = Browser::start()?;
    let server = Server::start();
    browser.open(&server.page());
    browser.wait(OPEN);
    Some((browser, server))
}

/// The same over a cable that can be cut.
fn visit_by_cable() -> Option<(Browser, Server, Cable)> {
    let browser = Browser::start()?;
    let server = Server::start();
    let cable = Cable::to(server.address).expect("a cable");
    browser.open(&format!("http://{}/", cable.address));
    browser.wait(OPEN);
    Some((browser, server, cable))
}

/// Sends by the button, and waits for the answers.
fn count_to(browser: &Browser, count: u32) {
    for _ in 0..count {
        browser.click("send");
    }
    browser.wait_for_text("count", &count.to_string());
}

/// Moves the focus on until it is where it should be, and to be seen there.
fn tab_to(browser: &Browser, id: &str) {
    let reached = (0..10).any(|_| {
        browser.press(TAB);
        browser.focus() == id
    });
    assert!(reached, "the keyboard does not lead to #{id}");
    let outline = browser.value("getComputedStyle(document.activeElement).outlineStyle");
    assert_eq!(outline, "solid", "the focus on #{id} cannot be seen");
}

fn stored_session(browser: &Browser) -> String {
    let session = browser.value("sessionStorage.getItem('tally.session')");
    session.as_str().expect("a session is kept").to_owned()
}

#[test]
fn it_connects_and_counts() {
    let Some((browser, _server)) = visit() else {
        return;
    };
    assert_eq!(browser.text("count"), "0");
    assert_eq!(browser.text("origin"), "new");
    assert_eq!(browser.text("colour"), "blue");
    count_to(&browser, 3);
    browser.wait("document.getElementById('heartbeat').dateTime !== ''");
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
fn it_keeps_the_session_to_itself() {
    let Some((browser, _server)) = visit() else {
        return;
    };
    let session = stored_session(&browser);
    assert_eq!(browser.text("session"), format!("{}…", &session[..8]));
    let shown = browser.value("document.documentElement.outerHTML + location.href");
    assert!(!shown.as_str().expect("a text").contains(&session));
}

#[test]
fn it_works_by_keyboard_alone() {
    let Some((browser, _server)) = visit() else {
        return;
    };
    tab_to(&browser, "text");
    browser.press(&format!("one{ENTER}two{ENTER}"));
    browser.wait_for_text("count", "2");
    tab_to(&browser, "send");
    browser.press(ENTER);
    browser.wait_for_text("count", "3");
    tab_to(&browser, "toggle");
    browser.press(ENTER);
    browser.wait_for_text("state", "closed");
    browser.press(SPACE);
    browser.wait(OPEN);
    assert_eq!(browser.text("count"), "3");
    assert_eq!(browser.focus(), "toggle", "the focus stays where it was");
}

#[test]
fn it_repeats_a_message_until_told_otherwise() {
    let Some((browser, _server)) = visit() else {
        return;
    };
    browser.click("repeat");
    browser.wait_for_text("count", "2");
    browser.click("repeat");
    assert_eq!(
        browser.value("document.getElementById('repeat').checked"),
        false
    );
}

#[test]
fn a_close_shows_the_total_and_stays_closed() {
    let Some((browser, server)) = visit() else {
        return;
    };
    // All in one go, so that answers are still on their way when the page is told to close.
    browser.value(
        "['send', 'send', 'send', 'toggle'].map((id) => document.getElementById(id).click())",
    );
    browser.wait_for_text("detail", "Closed. 3 in total.");
    assert_eq!(browser.text("state"), "closed");
    assert_eq!(browser.text("toggle"), "Connect");
    // A page that means to come back says so in its state; this one has nothing to react to.
    server.kill();
    assert_eq!(browser.text("state"), "closed");
}

#[test]
fn a_reload_resumes_the_session() {
    let Some((browser, server)) = visit() else {
        return;
    };
    count_to(&browser, 2);
    let session = stored_session(&browser);
    browser.open(&server.page());
    browser.wait(OPEN);
    assert_eq!(browser.text("origin"), "resumed");
    assert_eq!(browser.text("count"), "2");
    assert_eq!(stored_session(&browser), session);
}

#[test]
fn a_dropped_connection_resumes_with_its_count() {
    let Some((browser, _server, cable)) = visit_by_cable() else {
        return;
    };
    count_to(&browser, 2);
    for _ in 0..2 {
        browser.value("document.getElementById('origin').textContent = ''");
        cable.cut();
        browser.wait_for_text("origin", "resumed");
        assert_eq!(browser.text("count"), "2");
    }
    browser.click("send");
    browser.wait_for_text("count", "3");
}

#[test]
fn a_server_that_says_goodbye_is_waited_for() {
    let Some((browser, server)) = visit() else {
        return;
    };
    count_to(&browser, 2);
    server.terminate();
    browser.wait_for_text("state", "reconnecting");
    let events = browser.text("events");
    assert!(
        events.contains("The blue server is going away. 2 in total."),
        "{events}"
    );
    assert_eq!(browser.text("toggle"), "Close", "the wait can be ended");
    browser.click("toggle");
    browser.wait_for_text("state", "closed");
}

#[test]
fn a_server_that_comes_back_gets_a_fresh_session() {
    let Some((browser, server)) = visit() else {
        return;
    };
    count_to(&browser, 2);
    let (session, address) = (stored_session(&browser), server.address.to_string());
    server.kill();
    browser.wait_for_text("state", "reconnecting");
    let _server = Server::start_on(&address);
    browser.wait_for_text("origin", "fresh");
    browser.wait(OPEN);
    assert_ne!(stored_session(&browser), session);
    // What the page still keeps is told to the fresh session.
    browser.wait_for_text("count", "2");
    let told = browser.text("events");
    assert!(told.contains("a fresh session."), "{told}");
    assert!(
        told.contains("Sent again what was not counted: 2."),
        "{told}"
    );
}

#[test]
fn what_is_said_on_the_way_back_waits_and_is_counted_once() {
    let Some((browser, _server, cable)) = visit_by_cable() else {
        return;
    };
    count_to(&browser, 2);
    for count in [4, 6] {
        // The page hears of the cut after both: one message goes into the cut cable, or both wait.
        cable.cut();
        browser.click("send");
        browser.click("send");
        browser.wait_for_text("count", &count.to_string());
    }
    assert_eq!(browser.text("origin"), "resumed");
}

#[test]
fn a_page_that_is_loaded_again_goes_on_from_the_servers_count() {
    let Some((browser, server)) = visit() else {
        return;
    };
    count_to(&browser, 3);
    browser.open(&server.page());
    browser.wait(OPEN);
    browser.click("send");
    browser.wait_for_text("count", "4");
    browser.click("toggle");
    browser.wait_for_text("detail", "Closed. 4 in total.");
}

#[test]
fn a_server_that_falls_silent_is_given_up() {
    let Some((browser, server)) = visit() else {
        return;
    };
    count_to(&browser, 2);
    browser.wait("document.getElementById('heartbeat').dateTime !== ''");
    let first_beat = browser.value("document.getElementById('heartbeat').dateTime");
    // The second beat tells the page what to expect.
    browser.wait(&format!(
        "document.getElementById('heartbeat').dateTime !== {first_beat}"
    ));
    server.signal(Signal::STOP);
    browser.wait_for_text("state", "reconnecting");
    server.signal(Signal::CONT);
    browser.wait_for_text("origin", "resumed");
    assert_eq!(browser.text("count"), "2");
}

#[test]
fn a_session_taken_over_elsewhere_is_left_there() {
    let Some((browser, server)) = visit() else {
        return;
    };
    count_to(&browser, 2);
    let address = format!(
        "ws://{}/ws/chat/?hello=1&session={}",
        server.address,
        stored_session(&browser)
    );
    let (mut other, _) = tungstenite::connect(address).expect("the session is handed over");
    let hello: Value =
        serde_json::from_str(other.read().expect("a hello").to_text().expect("a text"))
            .expect("JSON");
    assert_eq!(
        [&hello["resumed"], &hello["count"]],
        [&json!(true), &json!(2)]
    );
    browser.wait_for_text("state", "taken over");
    assert_eq!(browser.text("toggle"), "Connect");
    browser.click("toggle");
    browser.wait_for_text("origin", "resumed");
    browser.wait(OPEN);
}

/// Nothing sticks out at the side. The picture is for a person to look at.
fn assert_fits(browser: &Browser, (width, height): (u32, u32), scheme: &str, picture: &str) {
    browser.look(width, height, scheme);
    let scrolled = browser.value("document.documentElement.scrollWidth");
    assert!(
        scrolled.as_u64() <= Some(u64::from(width)),
        "{picture}: {scrolled} px wide"
    );
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    browser.save_screenshot(&target.with_file_name(picture));
}

#[test]
fn it_fits_a_phone_and_a_desktop() {
    const PHONE: (u32, u32) = (360, 780);
    const DESKTOP: (u32, u32) = (1000, 860);
    let Some((browser, server)) = visit() else {
        return;
    };
    count_to(&browser, 12);
    assert_fits(&browser, DESKTOP, "light", "page.png");
    assert_fits(&browser, DESKTOP, "dark", "page-dark.png");
    assert_fits(&browser, PHONE, "light", "page-narrow.png");
    server.terminate();
    browser.wait("document.getElementById('attempt').textContent !== ''");
    assert_fits(&browser, PHONE, "dark", "page-narrow-dark.png");
}
