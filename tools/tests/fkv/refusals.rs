//! Bad input: a clear message, the right exit code, nothing half-done.

use crate::harness::{Place, Up, fkv, text, wait_for, write_scores};
use serde_json::json;

/// Rows of a file that takes long enough to load to be caught running.
const SLOW_ROWS: u64 = 4_000_000;

fn submit<'a>(input: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments =
        vec!["submit-load-task", "--table", "scores", "--input", input, "--key", "user_id", "--value", "score"];
    arguments.extend(more);
    arguments
}

fn cluster_with_table(place: &Place) -> Up {
    let up = Up::start_with(&place.cluster(), &["--sects", "1", "--roles", "1"]);
    up.fkv(&["table", "create", "scores", "--key-type", "u64", "--value-type", "f32"]).exits(0);
    up
}

fn small_file(place: &Place, name: &str) -> String {
    let path = place.file(name);
    write_scores(&path, (0..100u16).map(|user| (u64::from(user), f32::from(user))));
    text(&path).to_owned()
}

#[test]
fn without_a_cluster_the_message_says_how_to_get_one() {
    for verb in [&["table", "list"][..], &["get", "t", "1"], &["task", "show", "t", "1"], &["cluster", "show"]] {
        let mut arguments = verb.to_vec();
        // Port 1 is reserved: nothing listens there.
        arguments.extend(["--endpoint", "127.0.0.1:1"]);
        fkv(&arguments).refuses(1, &["cannot reach the control API at 127.0.0.1:1", "fkv up", "FKV_ENDPOINT"]);
        arguments.extend(["--output", "json"]);
        let run = fkv(&arguments).exits(1);
        let error: serde_json::Value = serde_json::from_str(&run.stderr).expect("errors are JSON too");
        assert_eq!(error["error"]["code"], "unavailable");
        assert!(run.stdout.is_empty());
    }
}

#[test]
fn mistakes_on_the_command_line_exit_2() {
    let place = Place::new();
    let dir = place.cluster();
    for (arguments, words) in [
        (&["up", "--roles", "7", "--dir", text(&dir)][..], &["7 roles", "1, 2, 3, 4, 5, 6, 8, 10", "96"][..]),
        (&["up", "--metadata", "zookeeper://h:1", "--port", "0", "--dir", text(&dir)], &["--metadata", "etcd://"]),
        (&["up", "--store", "ftp://h/x", "--port", "0", "--dir", text(&dir)], &["--store", "ftp"]),
        (&["up", "--module", "a/b", "--port", "0", "--dir", text(&dir)], &["module", "a/b"]),
        (&["table", "create", "t", "--key-type", "string", "--value-type", "f32"], &["u64", "bytes"]),
        (&["task", "show", "t", "first"], &["first"]),
        (&["get", "t"], &["KEY"]),
        (&["frobnicate"], &["frobnicate"]),
        (&["table", "list", "--output", "yaml"], &["yaml", "json"]),
    ] {
        fkv(arguments).refuses(2, words);
    }
    fkv(&["--help"]).exits(0);
    assert!(fkv(&["--version"]).exits(0).stdout.starts_with("fkv "));
}

#[test]
fn a_directory_serves_one_cluster_with_one_layout() {
    let place = Place::new();
    let dir = place.cluster();
    let up = Up::start_with(&dir, &["--sects", "2", "--roles", "2"]);
    fkv(&["up", "--port", "0", "--sects", "2", "--roles", "2", "--dir", text(&dir)])
        .refuses(1, &["in use", "fkv up", &up.endpoint]);
    assert_eq!(up.terminate(), 0);
    for flags in [["--sects", "3", "--roles", "2"], ["--sects", "2", "--roles", "3"]] {
        let mut arguments = vec!["up", "--port", "0", "--dir", text(&dir)];
        arguments.extend(flags);
        fkv(&arguments).refuses(1, &["2 sects x 2 roles"]);
    }
    drop(Up::start_with(&dir, &["--sects", "2", "--roles", "2"]));
}

#[test]
fn a_port_in_use_is_named() {
    let place = Place::new();
    let up = Up::start_with(&place.cluster(), &["--sects", "1", "--roles", "1"]);
    let (_, port) = up.endpoint.rsplit_once(':').expect("host:port");
    fkv(&["up", "--port", port, "--dir", text(&place.file("other"))]).refuses(1, &[port, "in use", "--port"]);
}

#[test]
fn unknown_tables_tasks_and_versions_are_named() {
    let place = Place::new();
    let up = cluster_with_table(&place);
    let file = small_file(&place, "a.parquet");
    for arguments in [
        &["table", "show", "ghost"][..],
        &["table", "delete", "ghost", "--yes"],
        &["version", "list", "ghost"],
        &["rollback", "ghost"],
        &["release", "ghost"],
        &["get", "ghost", "1"],
        &["batch-get", "ghost", "1"],
        &["task", "show", "ghost", "1"],
        &["submit-load-task", "--table", "ghost", "--input", &file, "--key", "k", "--value", "v"],
    ] {
        up.fkv(arguments).refuses(1, &["ghost"]);
    }
    up.fkv(&["task", "show", "scores", "77"]).refuses(1, &["77"]);
    up.fkv(&["task", "cancel", "scores", "77"]).refuses(1, &["77"]);
    up.fkv(&["version", "show", "scores", "77"]).refuses(1, &["77"]);
    up.fkv(&["rollback", "scores"]).refuses(1, &["scores", "no version"]);
    up.fkv(&submit(&file, &["--wait"])).exits(0);
    up.fkv(&["rollback", "scores", "--to", "77"]).refuses(1, &["77"]);
    up.fkv(&["release", "scores"]).refuses(1, &["rolled back"]);
    up.fkv(&["table", "create", "scores", "--key-type", "u64", "--value-type", "f32"])
        .refuses(1, &["scores", "exists"]);
    up.fkv(&["table", "create", "a/b", "--key-type", "u64", "--value-type", "f32"]).refuses(2, &["a/b"]);
}

#[test]
fn keys_of_the_wrong_type_and_too_many_keys_are_refused() {
    let place = Place::new();
    let up = cluster_with_table(&place);
    let file = small_file(&place, "a.parquet");
    up.fkv(&submit(&file, &["--wait"])).exits(0);
    up.fkv(&["get", "scores", "ada"]).refuses(2, &["`ada`", "u64"]);
    up.fkv(&["batch-get", "scores", "1", "1.5"]).refuses(2, &["`1.5`", "u64"]);

    let limit = fkv_client::ClientConfig::new([""; 0]).keys_per_call_max;
    let keys: String = (0..=limit).map(|key| format!("{key}\n")).collect();
    up.fkv_with_input(&["batch-get", "scores", "-"], &keys).refuses(1, &[&limit.to_string()]);
}

#[test]
fn a_submit_id_stands_for_one_request() {
    let place = Place::new();
    let up = cluster_with_table(&place);
    let (a, b) = (small_file(&place, "a.parquet"), small_file(&place, "b.parquet"));
    let first = up.json(&submit(&a, &["--submit-id", "daily-1", "--wait"]));
    let again = up.json(&submit(&a, &["--submit-id", "daily-1", "--wait"]));
    assert_eq!((&first["created"], &again["created"]), (&json!(true), &json!(false)));
    assert_eq!(first["task"]["task"], again["task"]["task"]);
    up.fkv(&submit(&b, &["--submit-id", "daily-1"])).refuses(1, &["daily-1"]);
    assert_eq!(up.json(&["task", "list", "scores"])["tasks"].as_array().map(Vec::len), Some(1), "no second task");
    assert_eq!(up.json(&["version", "list", "scores"])["versions"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_load_that_cannot_work_fails_its_task_and_shows_nothing() {
    let place = Place::new();
    let up = cluster_with_table(&place);
    let file = small_file(&place, "a.parquet");
    up.fkv(&submit(&file, &["--mode", "incremental"])).refuses(1, &["incremental"]);
    let wrong_column =
        ["submit-load-task", "--table", "scores", "--input", &file, "--key", "user", "--value", "score", "--wait"];
    up.fkv(&wrong_column).refuses(1, &["user", "a.parquet"]);
    let missing = place.file("missing.parquet");
    up.fkv(&submit(text(&missing), &["--wait"])).refuses(1, &["missing.parquet"]);
    assert_eq!(up.json(&["version", "list", "scores"])["versions"], json!([]));
    up.fkv(&["get", "scores", "1"]).refuses(1, &["scores"]);
    // The table is not stuck.
    up.fkv(&submit(&file, &["--wait"])).exits(0);
    assert_eq!(up.fkv(&["get", "scores", "7"]).exits(0).stdout, "7\n");
}

#[test]
fn a_task_can_be_cancelled_until_its_version_is_committed() {
    let place = Place::new();
    let up = cluster_with_table(&place);
    let (slow, small) = (place.file("slow.parquet"), small_file(&place, "small.parquet"));
    write_scores(&slow, (0..SLOW_ROWS).map(|user| (user, 1.0)));
    let slow = text(&slow);
    let state = |task: &str| up.json(&["task", "show", "scores", task])["state"].as_str().expect("text").to_owned();

    // Running, with another one queued behind it.
    assert_eq!(up.json(&submit(slow, &[]))["task"]["task"], 1);
    assert_eq!(up.json(&submit(&small, &[]))["task"]["task"], 2);
    wait_for("task 1 to run", || (state("1") == "running").then_some(()));
    assert_eq!(state("2"), "queued");
    let cancelled = up.json(&["task", "cancel", "scores", "2"]);
    assert_eq!((&cancelled["state"], &cancelled["version"]), (&json!("cancelled"), &json!(null)));
    assert_eq!(up.json(&["task", "cancel", "scores", "1"])["state"], "cancelled");
    for task in ["1", "2"] {
        up.fkv(&["task", "wait", "scores", task]).refuses(1, &["cancelled"]);
        assert_eq!(state(task), "cancelled");
    }
    assert_eq!(up.json(&["version", "list", "scores"])["versions"], json!([]), "nothing half-done");

    // Finished and failed tasks stay what they are.
    up.fkv(&submit(&small, &["--wait"])).exits(0);
    up.fkv(&["task", "cancel", "scores", "3"]).refuses(1, &["finished"]);
    assert_eq!(state("3"), "finished");
    up.fkv(&[
        "submit-load-task",
        "--table",
        "scores",
        "--input",
        &small,
        "--key",
        "nokey",
        "--value",
        "score",
        "--wait",
    ])
    .exits(1);
    up.fkv(&["task", "cancel", "scores", "4"]).refuses(1, &["failed"]);
    assert_eq!(state("4"), "failed");
    // Cancelling once more is no mistake worth an error, or a clear one; either way nothing changes.
    up.fkv(&["task", "cancel", "scores", "1"]);
    assert_eq!(state("1"), "cancelled");
}
