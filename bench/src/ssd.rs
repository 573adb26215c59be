//! Suites `idx` and `blk`: cold lookups in tables whose records are on SSD, against the device's random reads.
//!
//! ```text
//!   records of 400 bytes ─▶ packs + form in a file:// store ── load ─▶ resident sections + local packs
//!   rounds × { fio randread 4 KiB at the same depth on the local packs │ lookups of random keys, no record cache }
//!   then absent keys, and the memory of the index
//! ```
//!
//! A lookup is the server's own (`fkv_kvsvr::measure`): from the keys of a packed request to the finished body of the
//! reply, every block verified. Batches of 4096 keys go in one after the other from a few tasks, so that the device always
//! has as many reads as it is allowed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fkv_env::Env;
use fkv_formats::schema::{F16Overflow, KeyType, Schema, Storage, TableKind, ValueType};
use fkv_formats::table::{PartLayout, Profile};
use fkv_kvsvr::measure::{DiskTable, Loads};
use fkv_kvsvr::{IoConfig, KvConfig};
use fkv_rpc::packed::{
    Keys, Request, RequestHeader, RequestWriter, SectionHeader, Selector, ValueForm, u64_section_bytes,
};

use crate::fio;
use crate::machine::process_cpu;
use crate::report::{Op, Report, median};
use crate::stored::{self, ORIGIN};

const ROUNDS: usize = 5;
const BATCH: usize = 4096;
/// Reads in flight, of fio and of ours.
const DEPTH: usize = 64;
/// Requests at once.
const TASKS: usize = 3;
/// How long each side reads in a round.
const SECONDS: u64 = 3;
/// Bytes of a value: 100 floats.
const DIMENSION: u16 = 100;

/// Runs the suite of a kind over 10 M records, or 3 M with `quick`, or `keys`; files go below `dir`.
///
/// # Errors
/// A file could not be written or read, a load failed, an answer was wrong, or fio is not installed.
pub fn run(
    env: &Env,
    kind: TableKind,
    quick: bool,
    keys: Option<usize>,
    dir: &Path,
    report: &mut Report,
) -> Result<(), String> {
    let count = keys.unwrap_or(if quick { 3_000_000 } else { 10_000_000 });
    let dir = dir.join(format!("fkv-bench-{}", std::process::id()));
    let (store_dir, images_dir) = (dir.join("store"), dir.join("images"));
    let failed = |error: std::io::Error| format!("{}: {error}", dir.display());
    env.files.create_dir_all(&store_dir).map_err(failed)?;
    env.files.create_dir_all(&images_dir).map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start threads: {error}"))?;
    let outcome = runtime.block_on(measure(env, kind, count, &store_dir, &images_dir, report));
    env.files.remove_dir_all(&dir).map_err(failed)?;
    outcome
}

async fn measure(
    env: &Env,
    kind: TableKind,
    count: usize,
    store_dir: &Path,
    images_dir: &Path,
    report: &mut Report,
) -> Result<(), String> {
    let schema = Schema {
        kind,
        key: KeyType::U64,
        value: ValueType::F32(DIMENSION),
        storage: Storage::Native,
        f16_overflow: F16Overflow::Reject,
        ttl: false,
    };
    let filter = if kind == TableKind::Blk { Profile::FILTER_FUSE8 } else { 0 };
    let url = format!("file://{}", store_dir.display());
    let store = fkv_store::open(env, &url, &fkv_store::StoreOptions::default()).map_err(|error| error.to_string())?;
    let stored = stored::write(&store, &schema, Profile { filter, ..Profile::CURRENT }, count, put_value).await?;
    let io = IoConfig { in_flight_max: DEPTH, ..IoConfig::default() };
    let config = KvConfig { io, record_cache_bytes: 0, ..KvConfig::default() };
    let loads = Loads::new(env, store, images_dir.to_owned(), ORIGIN.uid, stored.record, &config);
    let loads = loads.map_err(|error| error.to_string())?;
    let image = loads.from_store().await?;
    let packs: Vec<PathBuf> = image.pack_names().iter().map(|name| images_dir.join(name)).collect();
    let bytes: u64 = packs.iter().map(|path| env.files.stat(path).map_or(0, |stat| stat.len)).sum();
    let memory = image.memory_bytes();
    let table = Arc::new(loads.on_disk(image, schema));
    check(&table, count).await?;

    let arguments = [
        "--rw=randread",
        "--bs=4k",
        "--ioengine=io_uring",
        &format!("--iodepth={DEPTH}"),
        "--time_based",
        &format!("--runtime={SECONDS}"),
        "--norandommap",
        "--randrepeat=0",
    ];
    let mut samples: [Vec<f64>; 6] = Default::default();
    for round in 0..ROUNDS as u64 {
        let limit = fio::run(&packs, &arguments)?;
        let ours = read_for(env, &table, count as u64, 0, round).await;
        samples[0].push(limit.reads_per_s);
        samples[1].push(limit.cpu_s_per_read * 1e6);
        samples[2].push(ours.reads / ours.seconds);
        samples[3].push(ours.cpu / ours.reads * 1e6);
        samples[4].push(ours.reads / ours.keys);
        samples[5].push(ours.keys / ours.seconds);
    }
    let absent = read_for(env, &table, count as u64, count as u64, 99).await;
    let [fio_iops, fio_cpu, iops, cpu, per_key, keys_per_s] = samples.map(|samples| median(&samples));

    let (mut index, mut blocks) = (0, 0);
    for layout in &stored.layouts {
        match layout {
            PartLayout::Mem(_) => {}
            PartLayout::Idx(layout) => index += layout.resident_len(),
            PartLayout::Blk(layout) => (index, blocks) = (index + layout.index_len(), blocks + layout.blocks()),
        }
    }
    report.raw("records", count);
    report.raw("rounds", ROUNDS);
    report.raw("depth", DEPTH);
    report.raw("bytes", bytes);
    report.raw("resident_bytes", memory);
    report.raw("fio_reads_per_s", fio_iops);
    report.raw("fio_cpu_us_per_read", fio_cpu);
    report.raw("reads_per_s", iops);
    report.raw("cpu_us_per_read", cpu);
    report.raw("keys_per_s", keys_per_s);
    report.ratio("reads_per_s_over_fio", iops / fio_iops, Op::AtLeast, 0.95);
    report.ratio("cpu_us_per_read_above_fio", cpu - fio_cpu, Op::AtMost, 1.0);
    report.ratio("reads_per_found_key", per_key, Op::AtMost, 1.0);
    let absent_goal = if kind == TableKind::Idx { 0.001 } else { 0.01 };
    report.ratio("reads_per_absent_key", absent.reads / absent.keys, Op::AtMost, absent_goal);
    if kind == TableKind::Idx {
        report.ratio("index_bytes_per_key", index as f64 / count as f64, Op::AtMost, 8.0);
    } else {
        report.ratio("index_bytes_per_block", index as f64 / f64::from(blocks), Op::AtMost, 6.0);
    }
    Ok(())
}

/// What reading for a while came to.
struct Reading {
    keys: f64,
    reads: f64,
    seconds: f64,
    cpu: f64,
}

/// Looks random keys up, of the `count` from `first` on, for as long as fio reads.
async fn read_for(env: &Env, table: &Arc<DiskTable>, count: u64, first: u64, seed: u64) -> Reading {
    let stop = Arc::new(AtomicBool::new(false));
    let keys = Arc::new(AtomicU64::new(0));
    let (begun, cpu, reads) = (env.clock.monotonic(), process_cpu(), table.reads());
    let tasks: Vec<_> = (0..TASKS as u64)
        .map(|task| {
            let (table, stop, keys) = (Arc::clone(table), Arc::clone(&stop), Arc::clone(&keys));
            #[allow(clippy::disallowed_methods, reason = "the tasks of a benchmark end with it")]
            tokio::spawn(async move {
                let mut random = (seed << 8 | task).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                while !stop.load(Ordering::Relaxed) {
                    let batch: Vec<u64> = (0..BATCH).map(|_| first + next(&mut random) % count).collect();
                    std::hint::black_box(table.answer(&request(&batch)).await);
                    keys.fetch_add(BATCH as u64, Ordering::Relaxed);
                }
            })
        })
        .collect();
    env.clock.sleep(Duration::from_secs(SECONDS)).await;
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.expect("lookups do not panic");
    }
    Reading {
        keys: keys.load(Ordering::Relaxed) as f64,
        reads: (table.reads() - reads) as f64,
        seconds: env.clock.monotonic().saturating_sub(begun).as_secs_f64(),
        cpu: process_cpu().saturating_sub(cpu).as_secs_f64(),
    }
}

fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random >> 8
}

fn put_value(key: u64, value: &mut Vec<u8>) {
    for dimension in 0..u64::from(DIMENSION) {
        value.extend_from_slice(&((key * 131 + dimension) as f32).to_le_bytes());
    }
}

fn request(keys: &[u64]) -> Request {
    let mut writer = RequestWriter::new(RequestHeader::default(), u64_section_bytes(keys.len()));
    let header = SectionHeader { table: ORIGIN.uid, selector: Selector::Aligned, form: ValueForm::Native };
    writer.u64_section(header, keys.iter().copied());
    Request::parse(writer.finish()).expect("our own request")
}

/// Compares answers with what was written: present and absent keys.
async fn check(table: &DiskTable, count: usize) -> Result<(), String> {
    let keys: Vec<u64> = (0..2 * BATCH as u64).map(|index| index * 7919 % (count as u64 + 1000)).collect();
    let request = request(&keys);
    let reply = fkv_rpc::packed::Reply::parse(table.answer(&request).await).map_err(|error| error.to_string())?;
    let section = reply.section(0).ok_or("a reply without a section")?;
    let Some(Keys::U64(_)) = request.sections().next().map(|section| section.keys) else {
        return Err("no keys".into());
    };
    for (key, (status, value)) in keys.iter().zip(section.answers()) {
        let mut expected = Vec::new();
        if *key < count as u64 {
            put_value(*key, &mut expected);
        }
        if value != expected || (status == fkv_rpc::packed::KeyStatus::Found) == expected.is_empty() {
            return Err(format!("the answer for key {key} is wrong: {status:?}"));
        }
    }
    Ok(())
}
