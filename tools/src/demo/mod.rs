//! `fkv demo`: the whole of FeatureKV in half a minute, every answer checked.
//!
//! ```text
//!   start ─ write ─ load 1 ─ check ─ read ─ load 2 while reading, flip ─ rollback to 1 ─ release ─ summary
//!                            every    └──────────────── readers judge every answer ────────────┘
//!                            user
//! ```

mod data;
mod narrator;
mod readers;
mod tally;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fkv_client::ClientConfig;
use fkv_formats::schema::TableKind;
use fkv_rpc::control;
use futures::future::try_join_all;
use serde_json::json;

use self::data::{Generation, KEY_COLUMN, Shape};
use self::narrator::Narrator;
use self::readers::{BATCH_KEYS, Readers, scan};
use self::tally::{Seen, Tally};
use crate::cli::DemoArgs;
use crate::cmd::read::connect;
use crate::cmd::task::{require_finished, wait};
use crate::context::Context;
use crate::control::Control;
use crate::failure::{Context as _, Failure, Outcome};
use crate::local::{LocalCluster, LocalOptions};
use crate::output::{bytes, count, duration, rate};
use crate::progress::while_doing;
use crate::signals::Signals;
use crate::view::{TaskView, VersionView};

/// Sects of the demo's cluster.
const SECTS: u8 = 2;
/// Roles of each.
const ROLES: u16 = 3;
/// Readers at once.
const READERS: usize = 2;
/// How long reading goes on between two changes.
const READING: Duration = Duration::from_secs(2);

/// Runs the demo; Ctrl-C ends it and removes what it wrote.
pub(crate) async fn run(context: &Context, args: DemoArgs) -> Outcome {
    let mut signals = Signals::catch()?;
    let place = Place::new(context, args.dir.as_deref())?;
    // Every read of an SSD is one of a hundred thousand a second.
    let rows = args.rows.unwrap_or(if args.kind == TableKind::Mem { 5_000_000 } else { 500_000 });
    let outcome = tokio::select! {
        outcome = demo(context, &place, rows, args.kind) => outcome,
        signal = signals.next() => Err(Failure::failed(format!("stopped by {signal}"))),
    };
    match (outcome, place.temporary) {
        // Closing it by hand tells if something could not be removed.
        (Ok(()), Some(dir)) => dir.close().context(|| "remove the temporary directory".to_owned()),
        (outcome, _) => outcome,
    }
}

/// Where the demo writes.
#[derive(Debug)]
struct Place {
    dir: PathBuf,
    temporary: Option<tempfile::TempDir>,
}

impl Place {
    fn new(context: &Context, dir: Option<&Path>) -> Outcome<Self> {
        let Some(dir) = dir else {
            let temporary = tempfile::Builder::new()
                .prefix("fkv-demo-")
                .tempdir()
                .context(|| "make a temporary directory".to_owned())?;
            return Ok(Self { dir: temporary.path().to_owned(), temporary: Some(temporary) });
        };
        let shown = dir.display();
        match context.env.files.list(dir) {
            Ok(entries) if !entries.is_empty() => {
                return Err(Failure::failed(format!("the directory {shown} is not empty"))
                    .hint("give a new or empty one, or none: then a temporary one is used and removed"));
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).context(|| format!("look into the directory {shown}")),
        }
        Ok(Self { dir: dir.to_owned(), temporary: None })
    }
}

async fn demo(context: &Context, place: &Place, rows: u64, kind: TableKind) -> Outcome {
    let env = &context.env;
    let now = || env.clock.monotonic();
    let begun = now();
    let since = |then: Duration| now().saturating_sub(then);
    let narrator = Narrator::new(context);
    let shapes = [
        Shape { table: "user_score", rows, dimension: 1 },
        Shape { table: "user_features", rows: rows / 8, dimension: 16 },
    ];

    let options = LocalOptions {
        dir: place.dir.join("cluster"),
        sects: SECTS,
        roles: ROLES,
        port: 0,
        metadata: "embedded".to_owned(),
        store: None,
        module: "demo".to_owned(),
    };
    let cluster = LocalCluster::start(env, &options).await?;
    let toured = tokio::select! {
        toured = tour(context, place, &cluster, (shapes, kind), narrator, begun) => toured,
        failure = cluster.failed() => Err(failure),
    };
    cluster.shutdown().await;
    let (narrator, total) = toured?;
    narrator.summary(&[
        (
            "answers checked",
            format!("{} keys in {} batches, {} found", count(total.keys), count(total.batches), count(total.found)),
        ),
        ("wrong values", total.wrong.to_string()),
        ("mixed answers", total.mixed.to_string()),
        ("failed batches", total.failed.to_string()),
        ("epochs that fell", total.fell_back.to_string()),
        ("flips seen", format!("{} by {READERS} readers of 2 tables", total.flips)),
        (
            "latency",
            format!(
                "p50 {:.2} ms, p99 {:.2} ms over all batches of {BATCH_KEYS}",
                total.percentile_ms(500),
                total.percentile_ms(990)
            ),
        ),
        ("time", duration(since(begun))),
    ])
}

/// Everything that is shown of a cluster.
async fn tour<'a>(
    context: &Context,
    place: &Place,
    cluster: &LocalCluster,
    (shapes, kind): ([Shape; 2], TableKind),
    mut narrator: Narrator<'a>,
    begun: Duration,
) -> Outcome<(Narrator<'a>, Tally)> {
    let env = &context.env;
    let now = || env.clock.monotonic();
    let since = |then: Duration| now().saturating_sub(then);
    let all_rows: u64 = shapes.iter().map(|shape| shape.rows).sum();
    cluster.ready().await?;
    let control = cluster.control();
    let servers = cluster.servers().count();
    narrator.step(
        "start",
        &format!(
            "a cluster of {SECTS} sects x {ROLES} roles in this process, ready in {}; control API at {}, files in {}",
            duration(since(begun)),
            cluster.endpoint(),
            place.dir.display()
        ),
        json!({ "sects": SECTS, "roles": ROLES, "servers": servers, "seconds": since(begun).as_secs_f64(), "endpoint": cluster.endpoint() }),
    )?;

    let then = now();
    let mut written = 0;
    for (shape, generation) in shapes.iter().flat_map(|shape| [(shape, Generation(1)), (shape, Generation(2))]) {
        let dir = input_dir(&place.dir, shape, generation);
        written += while_doing(&env.clock, "writing Parquet", data::write(env, &dir, *shape, generation)).await?;
    }
    narrator.step(
        "write",
        &format!(
            "{} users x 1 feature and {} users x 16 features as Parquet, twice: {} in {}",
            count(shapes[0].rows),
            count(shapes[1].rows),
            bytes(written),
            duration(since(then))
        ),
        json!({ "rows": all_rows * 2, "bytes": written, "seconds": since(then).as_secs_f64() }),
    )?;

    for shape in &shapes {
        control.create_table(create_request(shape, kind)).await?;
    }
    let then = now();
    load(context, control, &place.dir, &shapes, Generation(1)).await?;
    narrator.step(
        "load",
        &format!(
            "version 1 of both tables is shown by all {servers} servers after {}: {} rows, {}",
            duration(since(then)),
            count(all_rows),
            rate(all_rows, since(then).as_secs_f64(), "rows")
        ),
        json!({ "version": 1, "rows": all_rows, "seconds": since(then).as_secs_f64(), "rows_per_s": per_second(all_rows, since(then)) }),
    )?;

    let client = Arc::new(connect(env, control, ClientConfig::new([""; 0])).await?);
    let mut total = Tally::default();
    let then = now();
    let scanned = while_doing(&env.clock, "reading every user", scan(env, &client, &shapes)).await?;
    let (text, figures) = reading("every user once", &scanned, since(then));
    require_clean(&mut total, scanned, all_rows)?;
    narrator.step("check", &text, figures)?;

    let readers = Readers::start(env, &client, &shapes, READERS);
    let then = now();
    let first = readers.see(&epochs(control, &shapes).await?).await?;
    while_doing(&env.clock, "reading", env.clock.sleep(READING)).await;
    let steady = readers.take();
    let (text, figures) =
        reading(&format!("{READERS} readers, batches of {BATCH_KEYS} random users"), &steady, since(then));
    require_clean(&mut total, steady, 1)?;
    narrator.step("read", &text, figures)?;

    let then = now();
    load(context, control, &place.dir, &shapes, Generation(2)).await?;
    let loaded = since(then);
    let second = readers.see(&epochs(control, &shapes).await?).await?;
    let busy = readers.take();
    let (text, figures) = reading("meanwhile", &busy, since(then));
    let flips = busy.flips;
    require_clean(&mut total, busy, 1)?;
    require_labels(&second, 2, &first, false)?;
    narrator.step(
        "flip",
        &format!(
            "version 2 loaded and shown in {} while readers went on ({}); {flips} flips seen; {text}",
            duration(loaded),
            rate(all_rows, loaded.as_secs_f64(), "rows")
        ),
        json!({ "version": 2, "seconds": loaded.as_secs_f64(), "rows_per_s": per_second(all_rows, loaded), "flips": flips, "reading": figures }),
    )?;

    let then = now();
    let mut at_once = true;
    for shape in &shapes {
        let request = control::RollbackRequest { table: shape.table.to_owned(), to: 1, ..Default::default() };
        at_once &= control.rollback(request).await?.flips_at_once;
    }
    let back = readers.see(&epochs(control, &shapes).await?).await?;
    let took = since(then);
    require_labels(&back, 1, &second, false)?;
    require_same_content(&first, &back)?;
    while_doing(&env.clock, "reading", env.clock.sleep(READING / 2)).await;
    let after = readers.take();
    let flips = after.flips;
    require_clean(&mut total, after, 1)?;
    narrator.step(
        "rollback",
        &format!(
            "readers see version 1 again after {} ({}); {flips} flips seen; same content, higher epoch",
            duration(took),
            if at_once { "a flip: every server held it" } else { "servers had to load it" }
        ),
        json!({ "version": 1, "seconds": took.as_secs_f64(), "flips_at_once": at_once, "flips": flips }),
    )?;

    let then = now();
    for shape in &shapes {
        control.release(control::ReleaseRequest { table: shape.table.to_owned(), ..Default::default() }).await?;
    }
    let released = readers.see(&epochs(control, &shapes).await?).await?;
    let took = since(then);
    require_labels(&released, 3, &back, true)?;
    require_same_content(&first, &released)?;
    let last = readers.stop().await;
    require_clean(&mut total, last, 0)?;
    require_quarantine(control, &shapes).await?;
    narrator.step(
        "release",
        &format!(
            "that content is now version 3 of both tables, seen after {}; version 2 is never used again",
            duration(took)
        ),
        json!({ "version": 3, "seconds": took.as_secs_f64() }),
    )?;

    drop(client);
    Ok((narrator, total))
}

fn input_dir(dir: &Path, shape: &Shape, generation: Generation) -> PathBuf {
    dir.join("input").join(shape.table).join(format!("load={}", generation.0))
}

fn create_request(shape: &Shape, kind: TableKind) -> control::CreateTableRequest {
    control::CreateTableRequest {
        name: shape.table.to_owned(),
        kind: kind.to_string(),
        key_type: "u64".to_owned(),
        value_type: shape.value_type(),
        ..Default::default()
    }
}

/// Loads a generation into all tables and waits until it is shown.
async fn load(context: &Context, control: &Control, dir: &Path, shapes: &[Shape], generation: Generation) -> Outcome {
    let submits = shapes.iter().map(|shape| {
        let folder = input_dir(dir, shape, generation);
        let request = control::SubmitLoadRequest {
            table: shape.table.to_owned(),
            submit_id: format!("demo-{}", generation.0),
            spec: Some(control::LoadSpec {
                inputs: vec![format!("file://{}", folder.display())],
                mode: "full".to_owned(),
                format: "parquet".to_owned(),
                key_column: KEY_COLUMN.to_owned(),
                value_columns: shape.value_columns(),
                ..Default::default()
            }),
        };
        control.submit_load(request)
    });
    for reply in try_join_all(submits).await? {
        let task =
            TaskView::from(reply.task.ok_or_else(|| Failure::failed("the control API answered without a task"))?);
        let ended = wait(context, control, &task.table, task.task).await?;
        require_finished(&ended)?;
    }
    Ok(())
}

/// The epochs that are shown now.
async fn epochs(control: &Control, shapes: &[Shape]) -> Outcome<BTreeMap<&'static str, u64>> {
    let mut epochs = BTreeMap::new();
    for shape in shapes {
        let table = control.show_table(control::ShowTableRequest { table: shape.table.to_owned() }).await?;
        epochs.insert(shape.table, table.epoch);
    }
    Ok(epochs)
}

fn reading(who: &str, tally: &Tally, time: Duration) -> (String, serde_json::Value) {
    let (p50, p99) = (tally.percentile_ms(500), tally.percentile_ms(990));
    let text = format!(
        "{who}: {} keys in {} batches, {}, p50 {p50:.2} ms, p99 {p99:.2} ms, {} wrong, {} mixed",
        count(tally.keys),
        count(tally.batches),
        rate(tally.keys, time.as_secs_f64(), "keys"),
        tally.wrong,
        tally.mixed,
    );
    let figures = json!({
        "keys": tally.keys, "batches": tally.batches, "found": tally.found, "seconds": time.as_secs_f64(),
        "keys_per_s": per_second(tally.keys, time), "p50_ms": p50, "p99_ms": p99,
        "wrong": tally.wrong, "mixed": tally.mixed, "failed": tally.failed,
    });
    (text, figures)
}

#[allow(clippy::cast_precision_loss, reason = "a rate for people")]
fn per_second(amount: u64, time: Duration) -> f64 {
    amount as f64 / time.as_secs_f64().max(1e-9)
}

/// Adds what readers saw to the total. Fails on any fault, and if less was found than there must have been.
fn require_clean(total: &mut Tally, tally: Tally, found_min: u64) -> Outcome {
    let enough = tally.found >= found_min;
    let found = tally.found;
    total.add(tally);
    if let Some(fault) = total.first_fault.as_deref().filter(|_| !total.is_clean()) {
        return Err(wrong(format!(
            "{} wrong values, {} mixed answers, {} failed batches, {} epochs fell; the first: {fault}",
            total.wrong, total.mixed, total.failed, total.fell_back
        )));
    }
    if !total.is_clean() {
        return Err(wrong("a reader ended before its time".to_owned()));
    }
    if enough { Ok(()) } else { Err(wrong(format!("only {found} keys were found of at least {found_min}"))) }
}

/// Every table shows this version, at a higher epoch than before, with the same content or another one.
fn require_labels(
    now: &BTreeMap<&'static str, Seen>,
    version: u64,
    before: &BTreeMap<&'static str, Seen>,
    same: bool,
) -> Outcome {
    for (table, seen) in now {
        let right = before.get(table).is_some_and(|before| {
            seen.version == version && seen.epoch > before.epoch && (seen.content == before.content) == same
        });
        if !right {
            return Err(wrong(format!("table {table} shows {seen:?} after {:?}", before.get(table))));
        }
    }
    Ok(())
}

fn require_same_content(first: &BTreeMap<&'static str, Seen>, now: &BTreeMap<&'static str, Seen>) -> Outcome {
    let content = |seen: &BTreeMap<&'static str, Seen>| seen.values().map(|seen| seen.content).collect::<Vec<_>>();
    if content(first) == content(now) {
        Ok(())
    } else {
        Err(wrong(format!("{now:?} has another content than {first:?}")))
    }
}

/// Version 2 of every table is quarantined, and nothing else.
async fn require_quarantine(control: &Control, shapes: &[Shape]) -> Outcome {
    for shape in shapes {
        let reply = control.list_versions(control::ListVersionsRequest { table: shape.table.to_owned() }).await?;
        let quarantined: Vec<u64> =
            reply.versions.into_iter().map(VersionView::from).filter(|v| v.quarantined).map(|v| v.version).collect();
        if quarantined != [2] {
            return Err(wrong(format!("versions {quarantined:?} of table {} are quarantined, not [2]", shape.table)));
        }
    }
    Ok(())
}

fn wrong(message: String) -> Failure {
    Failure::coded("wrong_answer", message)
}
