//! That a lie is found, and which. A test that never fails measures nothing.

use crate::{
    liar::{Liar, Lie},
    tool::{Outcome, load},
};

fn told_by(lie: Lie) -> Outcome {
    let liar = Liar::start(lie);
    load(
        liar.address,
        "-n 5 --rate 25 --duration 2500ms --heartbeat 250ms",
    )
}

#[test]
fn who_tells_no_lie_passes() {
    told_by(Lie::None).passed();
}

#[test]
fn a_wrong_count_is_found() {
    let outcome = told_by(Lie::Count);
    assert_eq!(outcome.faults(), ["wrong_count"]);
    assert!(
        outcome.told.contains("count 4 instead of 3"),
        "{}",
        outcome.told
    );
    // One by each socket, and no more: the next number is right again.
    assert_eq!(outcome.report["faults"][0]["number"], 5);
}

#[test]
fn a_message_without_an_answer_is_found() {
    assert!(told_by(Lie::Silence).faults().contains(&"unanswered"));
}

#[test]
fn a_beat_that_one_socket_does_not_get_is_found() {
    let outcome = told_by(Lie::Beat);
    assert_eq!(outcome.faults(), ["missing_beat"]);
    assert_eq!(outcome.report["faults"][0]["number"], 1);
}

#[test]
fn a_beat_with_another_time_is_found() {
    assert_eq!(told_by(Lie::BeatTime).faults(), ["missing_beat"]);
}

#[test]
fn a_wrong_total_is_found() {
    assert_eq!(told_by(Lie::Total).faults(), ["wrong_total"]);
}

#[test]
fn a_goodbye_that_is_not_whole_is_found() {
    assert_eq!(told_by(Lie::NoBye).faults(), ["no_bye"]);
    assert_eq!(told_by(Lie::NoClose).faults(), ["no_close"]);
    assert_eq!(told_by(Lie::CloseCode).faults(), ["wrong_close_code"]);
}

#[test]
fn texts_and_frames_that_nobody_knows_are_found() {
    assert_eq!(told_by(Lie::Text).faults(), ["unknown_text"]);
    assert!(told_by(Lie::Mask).faults().contains(&"framing"));
}

#[test]
fn beats_that_never_come_are_found() {
    let liar = Liar::start(Lie::NoBeats);
    // An interval and its grace have to pass.
    let outcome = load(
        liar.address,
        "-n 2 --rate 0 --duration 6s --heartbeat 250ms",
    );
    assert_eq!(outcome.faults(), ["late_beat"]);
}
