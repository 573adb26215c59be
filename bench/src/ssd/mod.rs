//! Suites `idx` and `blk`: cold lookups in tables whose records are on SSD, against the device's random reads, and with the
//! feature `rivals` against RocksDB and LMDB.
//!
//! ```text
//!   records of 400 bytes ─▶ packs + form in a file:// store ── load ─▶ resident sections + local packs
//!   rounds × { fio randread 4 KiB at the same depth on the local packs │ lookups of random keys, no record cache }
//!   then absent keys, the memory of the index, and the rivals
//! ```
//!
//! A lookup is the server's own (`fkv_kvsvr::measure`): from the keys of a packed request to the finished body of the
//! reply, every block verified. Batches of 4096 keys go in one after the other from a few tasks, so that the device always
//! has as many reads as it is allowed.

pub(crate) mod table;

use std::path::Path;
use std::time::Duration;

use fkv_env::Env;
use fkv_formats::schema::TableKind;
use fkv_formats::table::PartLayout;

use self::table::Files;
use crate::fio;
use crate::keys::Law;
use crate::report::{Op, Report, median};

/// Rounds of each comparison.
pub(crate) const ROUNDS: u64 = 5;
/// Reads in flight, of fio and of ours.
const DEPTH: usize = 64;
/// How long each side reads in a round.
pub(crate) const WINDOW: Duration = Duration::from_secs(3);

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
    let failed = |error: std::io::Error| format!("{}: {error}", dir.display());
    env.files.create_dir_all(&dir).map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start threads: {error}"))?;
    let outcome = runtime.block_on(measure(env, kind, count, &dir, report));
    env.files.remove_dir_all(&dir).map_err(failed)?;
    outcome
}

async fn measure(env: &Env, kind: TableKind, count: usize, dir: &Path, report: &mut Report) -> Result<(), String> {
    let files = Files::new(env, kind, count, dir).await?;
    report.raw("records", count);
    report.raw("rounds", ROUNDS);
    against_device(env, kind, &files, report).await?;
    #[cfg(feature = "rivals")]
    crate::rivals::measure(env, &files, dir, report).await?;
    Ok(())
}

/// Cold lookups against random reads of the same files.
async fn against_device(env: &Env, kind: TableKind, files: &Files, report: &mut Report) -> Result<(), String> {
    let table = files.open(env, 0).await?;
    table.check(files.count).await?;
    let packs = files.packs();
    let arguments = [
        "--rw=randread",
        "--bs=4k",
        "--ioengine=io_uring",
        &format!("--iodepth={DEPTH}"),
        "--time_based",
        &format!("--runtime={}", WINDOW.as_secs()),
        "--norandommap",
        "--randrepeat=0",
    ];
    let mut samples: [Vec<f64>; 7] = Default::default();
    let present = Law::Uniform { first: 0, count: files.count };
    for round in 0..ROUNDS {
        let limit = fio::run(&packs, &arguments)?;
        let ours = table.read(env, present, round, WINDOW).await;
        samples[0].push(limit.reads_per_s);
        samples[1].push(limit.cpu_s_per_read * 1e6);
        samples[2].push(ours.reads_per_s);
        samples[3].push(ours.cpu * 1e6 / ours.reads_per_s);
        samples[4].push(ours.reads_per_key);
        samples[5].push(ours.keys_per_s);
        samples[6].push(ours.cpu_us_per_key());
    }
    let absent = Law::Uniform { first: files.count, count: files.count };
    let absent = table.read(env, absent, ROUNDS, WINDOW).await;
    let [fio_iops, fio_cpu, iops, cpu, per_key, keys_per_s, cpu_per_key] = samples.map(|samples| median(&samples));

    let (mut index, mut blocks) = (0, 0);
    for layout in files.layouts() {
        match layout {
            PartLayout::Mem(_) => {}
            PartLayout::Idx(layout) => index += layout.resident_len(),
            PartLayout::Blk(layout) => (index, blocks) = (index + layout.index_len(), blocks + layout.blocks()),
        }
    }
    report.raw("depth", DEPTH);
    report.raw("bytes", packs.iter().map(|path| env.files.stat(path).map_or(0, |stat| stat.len)).sum::<u64>());
    report.raw("resident_bytes", files.resident_bytes());
    report.raw("memory_bytes", table.memory_bytes);
    report.raw("fio_reads_per_s", fio_iops);
    report.raw("fio_cpu_us_per_read", fio_cpu);
    report.raw("reads_per_s", iops);
    report.raw("cpu_us_per_read", cpu);
    report.raw("keys_per_s", keys_per_s);
    report.raw("cpu_us_per_key", cpu_per_key);
    report.ratio("reads_per_s_over_fio", iops / fio_iops, Op::AtLeast, 0.95);
    report.ratio("cpu_us_per_read_above_fio", cpu - fio_cpu, Op::AtMost, 1.0);
    report.ratio("reads_per_found_key", per_key, Op::AtMost, 1.0);
    let absent_goal = if kind == TableKind::Idx { 0.001 } else { 0.01 };
    report.ratio("reads_per_absent_key", absent.reads_per_key, Op::AtMost, absent_goal);
    if kind == TableKind::Idx {
        report.ratio("index_bytes_per_key", index as f64 / files.count as f64, Op::AtMost, 8.0);
    } else {
        report.ratio("index_bytes_per_block", index as f64 / f64::from(blocks), Op::AtMost, 6.0);
    }
    Ok(())
}
