//! `kill -9` of a whole cluster in the middle of a load, and the start after it.

use std::time::Duration;

use crate::harness::{Place, Up, fkv, text, wait_for, write_scores};
use serde_json::json;

const SMALL_ROWS: u64 = 10_000;
/// Enough to be caught in the middle.
const SLOW_ROWS: u64 = 5_000_000;

fn submit(up: &Up, input: &str) -> u64 {
    let submitted =
        up.json(&["submit-load-task", "--table", "scores", "--input", input, "--key", "user_id", "--value", "score"]);
    submitted["task"]["task"].as_u64().expect("a number")
}

#[track_caller]
fn assert_shows(up: &Up, version: u64, value: f32) {
    let answer = up.json(&["batch-get", "scores", "0", "5", "9999"]);
    assert_eq!(answer["label"]["version"], version, "{answer}");
    for answer in answer["answers"].as_array().expect("a list") {
        assert_eq!(answer["value"], json!(value), "{answer}");
    }
}

#[test]
fn a_cluster_killed_during_a_load_serves_the_old_version_at_once_and_ends_the_load_by_itself() {
    let place = Place::new();
    let (first, second, third) = (place.file("1.parquet"), place.file("2.parquet"), place.file("3.parquet"));
    write_scores(&first, (0..SMALL_ROWS).map(|user| (user, 1.0)));
    write_scores(&second, (0..SLOW_ROWS).map(|user| (user, 2.0)));
    write_scores(&third, (0..SMALL_ROWS).map(|user| (user, 3.0)));

    let up = Up::start(&place.cluster());
    up.fkv(&["table", "create", "scores", "--key-type", "u64", "--value-type", "f32"]).exits(0);
    let task = submit(&up, text(&first));
    up.fkv(&["task", "wait", "scores", &task.to_string()]).exits(0);
    assert_shows(&up, 1, 1.0);

    let running = submit(&up, text(&second)).to_string();
    let queued = submit(&up, text(&third)).to_string();
    // Progress is written about once a second, the state at once.
    wait_for("the load to be in the middle of its work", || {
        let task = up.json(&["task", "show", "scores", &running]);
        let state = task["state"].as_str().expect("text");
        assert!(["queued", "running"].contains(&state), "too late: {task}");
        (state == "running").then_some(())
    });
    up.kill();

    let up = Up::start(&place.cluster());
    assert!(up.ready_after < Duration::from_secs(10), "ready after {:?}", up.ready_after);
    // At once: no waiting in between.
    assert_shows(&up, 1, 1.0);
    let task = up.json(&["task", "wait", "scores", &running]);
    assert_eq!((&task["state"], &task["version"]), (&json!("finished"), &json!(2)), "{task}");
    assert_eq!(task["stats"]["records"], SLOW_ROWS, "every row once");
    // Nothing is lost: what was queued runs too, and no number was used twice.
    assert_eq!(up.json(&["task", "wait", "scores", &queued])["version"], 3);
    assert_shows(&up, 3, 3.0);
    let versions = up.json(&["version", "list", "scores"]);
    let rows: Vec<_> = versions["versions"].as_array().expect("a list").iter().map(|v| v["rows"].clone()).collect();
    assert_eq!(rows, [json!(SMALL_ROWS), json!(SLOW_ROWS), json!(SMALL_ROWS)]);
    up.fkv(&["rollback", "scores", "--to", "2", "--wait"]).exits(0);
    assert_shows(&up, 2, 2.0);
}

#[test]
fn waiting_for_a_task_outlasts_a_restart_of_the_cluster() {
    let place = Place::new();
    let slow = place.file("slow.parquet");
    write_scores(&slow, (0..SLOW_ROWS).map(|user| (user, 1.0)));
    let up = Up::start_with(&place.cluster(), &["--sects", "1", "--roles", "1"]);
    up.fkv(&["table", "create", "scores", "--key-type", "u64", "--value-type", "f32"]).exits(0);
    let task = submit(&up, text(&slow)).to_string();
    let endpoint = up.endpoint.clone();
    let port = endpoint.rsplit_once(':').expect("host:port").1.to_owned();
    let ended = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| fkv(&["task", "wait", "scores", &task, "--endpoint", &endpoint]));
        wait_for("the load to run", || {
            (up.json(&["task", "show", "scores", &task])["progress"]["rows_done"].as_u64() > Some(0)).then_some(())
        });
        assert!(!waiting.is_finished());
        up.kill();
        let _up = Up::start_with(&place.cluster(), &["--sects", "1", "--roles", "1", "--port", &port]);
        waiting.join().expect("no panic")
    });
    assert!(ended.exits(0).stdout.contains("finished"));
}
