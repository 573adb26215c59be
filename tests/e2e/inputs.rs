//! Input that this project did not write: Python writes it, the cluster loads it, the client reads it back, and every
//! value is compared with what Python wrote. What cannot be loaded fails with words that name the place.

use std::path::Path;

use fkv_client::{Client, ClientError, Keys, ReadOptions};
use fkv_formats::schema::KeyType;
use fkv_rpc::control::{LoadSpec, Task};
use fkv_tests::cases::{self, Case, Wanted};
use fkv_tests::cluster::Cluster;
use fkv_tests::model::Answer;
use fkv_tests::reads::answer_at;

fn spec(case: &Case, dir: &Path) -> LoadSpec {
    LoadSpec {
        inputs: case.inputs.iter().map(|input| format!("file://{}/{input}", dir.display())).collect(),
        mode: "full".into(),
        format: case.format.clone(),
        key_column: case.key_column.clone(),
        value_columns: case.value_columns.clone(),
        expiry_column: case.expiry_column.clone().unwrap_or_default(),
        nulls: case.nulls.clone(),
        duplicates: case.duplicates.clone(),
        max_bad_rows: case.max_bad_rows,
        require_success: false,
        delete_column: String::new(),
    }
}

/// How a submitted case ended: its task, or the words of the refusal.
async fn outcome(cluster: &Cluster, case: &Case, submitted: Result<u64, String>) -> Result<Task, String> {
    let task = cluster.control.wait_end(&case.name, submitted?).await;
    if task.state == "finished" {
        return Ok(task);
    }
    assert_eq!(task.state, "failed", "{}: {task:?}", case.name);
    Err(task.errors.last().map(|error| error.message.clone()).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parquet_that_python_wrote_reads_back_bit_for_bit() {
    every_case("parquet").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_that_python_wrote_reads_back_bit_for_bit() {
    every_case("text").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_lines_that_python_wrote_read_back_bit_for_bit() {
    every_case("json").await;
}

/// Loads every case of a group.
async fn every_case(group: &str) {
    let cluster = Cluster::start(1, 2).await;
    let dir = cluster.input("cases");
    let cases = cases::make(group, &dir, cluster.env.clock.unix_ms() / 1000);
    let mut submitted = Vec::new();
    for case in &cases {
        cluster.control.create(&case.name, &case.schema()).await;
        let reply = cluster.control.submit(&case.name, spec(case, &dir), "").await;
        submitted
            .push(reply.map(|reply| reply.task.expect("a task").task).map_err(|status| status.message().to_owned()));
    }
    let client = cluster.client().await;
    let mut wrong = Vec::new();
    for (case, submitted) in cases.iter().zip(submitted) {
        let outcome = outcome(&cluster, case, submitted).await;
        let problem = match (&case.error, outcome) {
            (None, Ok(task)) => compare_counts(case, &task).err().or(compare(&client, case, &dir).await.err()),
            (None, Err(message)) => Some(format!("does not load: {message}")),
            (Some(_), Ok(task)) => Some(format!("loads although it should not: {task:?}")),
            (Some(words), Err(message)) => {
                let missing: Vec<_> = words.iter().filter(|word| !message.contains(word.as_str())).collect();
                let left_alone = nothing_is_shown(&cluster, &client, case).await.err();
                let unnamed = (!missing.is_empty()).then(|| format!("the message lacks {missing:?}: {message}"));
                unnamed.or(left_alone)
            }
        };
        wrong.extend(problem.map(|problem| format!("{}: {problem}", case.name)));
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

fn compare_counts(case: &Case, task: &Task) -> Result<(), String> {
    let stats = task.stats.ok_or("a finished task has no counts")?;
    let wanted = &case.stats;
    for (what, wanted, found) in [
        ("rows read", wanted.rows_read, stats.rows_read),
        ("records", wanted.records, stats.records),
        ("duplicates", wanted.duplicates, stats.duplicates),
        ("nulls", wanted.nulls, stats.nulls),
        ("bad rows", wanted.bad_rows, stats.bad_rows),
        ("expired", wanted.expired, stats.expired),
    ] {
        if wanted.is_some_and(|wanted| wanted != found) {
            return Err(format!("{found} {what} instead of {wanted:?}"));
        }
    }
    Ok(())
}

/// Reads every key of the case in one batch and compares bit for bit.
async fn compare(client: &Client, case: &Case, dir: &Path) -> Result<(), String> {
    let expected = case.expected(dir);
    let options = ReadOptions { read_ts_ms: case.read_ts.map(|s| u64::from(s) * 1000), ..ReadOptions::default() };
    let answer = match case.schema().key {
        KeyType::U64 => {
            let keys: Vec<u64> = expected
                .iter()
                .map(|(key, _)| u64::from_le_bytes(key.as_slice().try_into().expect("8 bytes")))
                .collect();
            client.get(&case.name, Keys::U64(&keys), &options).await
        }
        KeyType::Bytes => {
            let keys: Vec<&[u8]> = expected.iter().map(|(key, _)| key.as_slice()).collect();
            client.get(&case.name, Keys::Bytes(&keys), &options).await
        }
    };
    let answer = answer.map_err(|error| format!("does not read: {error}"))?;
    if answer.value_type() != case.schema().value {
        return Err(format!("values are {} instead of {}", answer.value_type(), case.schema().value));
    }
    if answer.len() != expected.len() {
        return Err(format!("{} answers for {} keys", answer.len(), expected.len()));
    }
    let mut differing = Vec::new();
    for (position, (key, wanted)) in expected.into_iter().enumerate() {
        let found = answer_at(&answer, position);
        let wanted = match wanted {
            Wanted::Absent => Answer::Absent,
            Wanted::Expired => Answer::Expired,
            Wanted::Found(value) => Answer::Found(value),
        };
        if found != wanted {
            differing.push(format!("key {key:02x?} is {found:02x?} instead of {wanted:02x?}"));
        }
    }
    let count = differing.len();
    differing.truncate(2);
    if count == 0 { Ok(()) } else { Err(format!("{count} values differ: {}", differing.join("; "))) }
}

/// A load that failed leaves a table without a version, which answers nothing.
async fn nothing_is_shown(cluster: &Cluster, client: &Client, case: &Case) -> Result<(), String> {
    let table = cluster.control.table(&case.name).await;
    if table.head != 0 || table.target.is_some() || table.aligned.is_some() {
        return Err(format!("shows something: {table:?}"));
    }
    let versions = cluster.control.versions(&case.name).await.map_err(|status| status.to_string())?;
    if !versions.is_empty() {
        return Err(format!("has versions: {versions:?}"));
    }
    let options = ReadOptions { deadline: Some(std::time::Duration::from_secs(5)), ..ReadOptions::default() };
    let read = match case.schema().key {
        KeyType::U64 => client.get(&case.name, Keys::U64(&[1]), &options).await,
        KeyType::Bytes => client.get(&case.name, Keys::Bytes(&[b"1"]), &options).await,
    };
    match read {
        Err(ClientError::NotLoaded { .. }) => Ok(()),
        other => Err(format!("a read gives {other:?}")),
    }
}
